package worker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"golang.org/x/sys/unix"

	"revenant/supervisor/notify"
)

// inherit makes listeners of the descriptors that were handed down. Their sockets are shared with the
// siblings, the master and the keeper, so nothing here may change them.
func inherit(files []notify.NamedFile) ([]net.Listener, error) {
	var listeners []net.Listener
	for i, file := range files {
		ln, err := inheritOne(file)
		if err != nil {
			closeAll(listeners)
			for _, rest := range files[i+1:] {
				unix.Close(rest.FD)
			}
			return nil, fmt.Errorf("cannot listen on inherited descriptor %d (%s): %w", file.FD, file.Name, err)
		}
		listeners = append(listeners, ln)
	}
	return listeners, nil
}

func inheritOne(file notify.NamedFile) (net.Listener, error) {
	f := file.File()
	// FileListener works on a copy. The File goes now: forgotten, it would one day close whatever has its
	// number by then, a client's connection.
	defer f.Close()
	if on, err := unix.GetsockoptInt(file.FD, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || on == 0 {
		return nil, errors.New("it is not a listening socket")
	}
	ln, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	if ln, ok := ln.(*net.UnixListener); ok {
		ln.SetUnlinkOnClose(false) // the path belongs to the instance
	}
	return ln, nil
}

// bind listens on addresses of our own.
func bind(ctx context.Context, addresses []string) ([]net.Listener, error) {
	var config net.ListenConfig
	config.SetMultipathTCP(false) // costs every request something and nobody here uses it
	var listeners []net.Listener
	for _, address := range addresses {
		network, at, err := split(address)
		if err != nil {
			closeAll(listeners)
			return nil, err
		}
		ln, err := config.Listen(ctx, network, at)
		if err != nil {
			closeAll(listeners)
			return nil, fmt.Errorf("cannot listen on %s: %w", address, err)
		}
		listeners = append(listeners, ln)
	}
	return listeners, nil
}

func split(address string) (network, at string, err error) {
	if at, ok := strings.CutPrefix(address, "tcp://"); ok {
		if _, _, err := net.SplitHostPort(at); err != nil {
			return "", "", fmt.Errorf("cannot listen on %q: %w", address, err)
		}
		return "tcp", at, nil
	}
	if at, ok := strings.CutPrefix(address, "unix:"); ok && at != "" {
		return "unix", at, nil
	}
	return "", "", fmt.Errorf("cannot listen on %q: want tcp://host:port or unix:/path", address)
}

// written is an address as people configure it.
func written(addr net.Addr) string {
	if addr.Network() == "unix" {
		return "unix:" + addr.String()
	}
	return "tcp://" + addr.String()
}

func closeAll(listeners []net.Listener) {
	for _, ln := range listeners {
		ln.Close()
	}
}
