package main

import (
	"fmt"
	"log/slog"
	"net"
	"time"

	"revenant/supervisor"
	"revenant/supervisor/control"
)

// listenAgain is the pause of a master that has no control socket.
const listenAgain = 2 * time.Second

// serveControl answers on the control socket until the returned function is
// called. Without a socket the first master of an instance cannot begin; for a
// later one it is no reason not to serve, and it goes on trying.
func serveControl(o instanceOptions, in inheritance, m *supervisor.Master, log *slog.Logger) (end func(), err error) {
	var socket net.Listener
	select {
	case <-m.InCharge():
		if socket, err = listenControl(o, in); err != nil && in.generation == 1 {
			return nil, codeError{exitUsage, fmt.Errorf("--runtime-dir %s: %w", runtimeDir(o.settings), err)}
		}
	default: // until then the master before has it
	}
	server := control.New(m)
	over := make(chan struct{})
	// Ends with Close or over, below.
	go func() {
		if socket = keepListening(o, in, m, socket, over, log); socket == nil {
			return
		}
		if err := server.Serve(socket); err != nil {
			log.Error("control socket failed", "err", err)
		}
	}()
	return func() {
		close(over)
		_ = server.Close()
	}, nil
}

func listenControl(o instanceOptions, in inheritance) (net.Listener, error) {
	if in.generation > 1 {
		if err := claimAgain(o.dir, in.keeperPID); err != nil {
			return nil, err
		}
	}
	return control.Listen(controlSocket(o.dir))
}

// keepListening returns the socket, nil when it is over before there is one.
func keepListening(o instanceOptions, in inheritance, m *supervisor.Master, socket net.Listener, over <-chan struct{}, log *slog.Logger) net.Listener {
	if socket != nil {
		return socket
	}
	select {
	case <-m.InCharge():
	case <-over:
		return nil
	}
	socket, err := listenControl(o, in)
	if err == nil {
		return socket
	}
	log.Warn("no control socket, trying again", "path", controlSocket(o.dir), "err", err, "every", listenAgain.String())
	again := time.NewTicker(listenAgain)
	defer again.Stop()
	for {
		select {
		case <-again.C:
			if socket, err := listenControl(o, in); err == nil {
				return socket
			}
		case <-over:
			return nil
		}
	}
}
