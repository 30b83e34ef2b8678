package worker

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// siblingPatience is how long accept waits, up to twice, for a connection that a sibling took in between.
	// It is short because the scoreboard says all the while that one more connection may be ours.
	siblingPatience = 2 * time.Millisecond
	// emptyingLimit bounds the emptying of a queue that never becomes empty.
	emptyingLimit = time.Second
	// repairPatience is how long a listener that somebody shut down may take to be repaired by the master.
	repairPatience = 5 * time.Second
	repairInterval = 20 * time.Millisecond
)

var errStopped = errors.New("stopped accepting")

// socket is what *net.TCPListener and *net.UnixListener have in common.
type socket interface {
	net.Listener
	syscall.Conn
	SetDeadline(time.Time) error
}

// acceptor takes connections from a shared socket so that the scoreboard never misses one: it waits until
// the socket is readable, says Accepting, and only then accepts. Once stopped it empties the queue first.
type acceptor struct {
	socket
	server  *server
	started func() // called once, when the first accept begins
	once    sync.Once

	// Listeners cannot be waited for without accepting, so a File of the same socket is.
	file  *os.File
	ready syscall.RawConn

	patience time.Time    // the socket's deadline, as it was last set
	stopBy   atomic.Int64 // unix nanoseconds when even a full queue is left; set before file's deadline is
}

func newAcceptor(ln net.Listener, s *server, started func()) (*acceptor, error) {
	sock, ok := ln.(socket)
	if !ok {
		return nil, fmt.Errorf("cannot accept on a %T: only TCP and unix sockets are served", ln)
	}
	raw, err := sock.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("cannot accept on %s: %w", ln.Addr(), err)
	}
	var fd int
	var failed error
	err = raw.Control(func(s uintptr) { fd, failed = unix.FcntlInt(s, unix.F_DUPFD_CLOEXEC, 3) })
	if err = errors.Join(err, failed); err != nil {
		return nil, fmt.Errorf("cannot accept on %s: %w", ln.Addr(), err)
	}
	file := os.NewFile(uintptr(fd), ln.Addr().String())
	ready, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("cannot accept on %s: %w", ln.Addr(), err)
	}
	return &acceptor{socket: sock, server: s, started: started, file: file, ready: ready}, nil
}

// stop makes Accept return errStopped as soon as the queue is empty.
func (a *acceptor) stop() {
	a.stopBy.Store(time.Now().Add(emptyingLimit).UnixNano())
	a.file.SetReadDeadline(time.Unix(1, 0)) // ends every wait from now on
}

// Close gives up our copies of the socket.
func (a *acceptor) Close() error { return errors.Join(a.file.Close(), a.socket.Close()) }

// Accept implements net.Listener for http.Server.
func (a *acceptor) Accept() (net.Conn, error) {
	a.once.Do(a.started)
	var broken time.Time // since when the socket does not listen
	for {
		if err := a.wait(); err != nil {
			return nil, err
		}
		c, err := a.take()
		switch {
		case err == nil:
			return c, nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			// A sibling was faster.
		case errors.Is(err, unix.EINVAL):
			if broken.IsZero() {
				broken = time.Now()
				a.server.log.Error("listener was shut down, waiting for its repair", "address", a.Addr().String())
			}
			if !a.repaired(broken) {
				return nil, fmt.Errorf("cannot accept on %s: it was shut down: %w", a.Addr(), err)
			}
		default:
			return nil, err
		}
	}
}

// wait returns nil when the socket is readable, errStopped when it is to be left.
func (a *acceptor) wait() error {
	err := a.ready.Read(readable)
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	waiting := false
	if err := a.ready.Control(func(fd uintptr) { waiting = readable(fd) }); err != nil {
		return err
	}
	if !waiting || time.Now().UnixNano() > a.stopBy.Load() {
		return errStopped
	}
	return nil
}

// take accepts one connection and counts it; Accepting covers the time in between.
func (a *acceptor) take() (net.Conn, error) {
	board := a.server.board
	// Deadlines are dear, so one serves for all connections of a few milliseconds.
	if now := time.Now(); a.patience.Sub(now) < siblingPatience {
		a.patience = now.Add(2 * siblingPatience)
		a.socket.SetDeadline(a.patience)
	}
	board.Accepting(true)
	defer board.Accepting(false)
	c, err := a.socket.Accept()
	if err != nil {
		return nil, err
	}
	board.ConnNew()
	return a.server.track(c), nil
}

// repaired waits a little for a socket that a process which shares it has shut down. The master listens on it
// again, and no event tells us. It is false when that takes too long, or when we leave anyway.
func (a *acceptor) repaired(broken time.Time) bool {
	if time.Since(broken) > repairPatience {
		return false
	}
	select {
	case <-time.After(repairInterval):
		return true
	case <-a.server.draining:
		return false
	}
}

func readable(fd uintptr) bool {
	fds := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds[:], 0)
		if err != unix.EINTR {
			return n > 0
		}
	}
}
