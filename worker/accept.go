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

	"revenant/worker/scoreboard"
)

const (
	// emptyingLimit bounds the emptying of a queue that never becomes empty.
	emptyingLimit = time.Second
	// repairPatience is how long a listener that somebody shut down may take to be repaired by the master.
	repairPatience = 5 * time.Second
	repairInterval = 20 * time.Millisecond
)

var errStopped = errors.New("stopped accepting")

// acceptor takes connections from a shared socket so that the scoreboard never misses one: it calls accept(2)
// itself, with Accepting raised before and lowered after the connection is counted. A net.Listener cannot do
// that: it says nothing between accept(2) and the return of Accept, and a worker that is killed there would
// have lost a connection that nobody knew of. Once stopped, the acceptor empties the queue first.
type acceptor struct {
	server  *server
	addr    net.Addr
	unlink  string // path of a unix socket that is our own, "" otherwise
	started func() // called once, when the first accept begins
	once    sync.Once

	file   *os.File // the socket, in the runtime's poller
	raw    syscall.RawConn
	stopBy atomic.Int64 // unix nanoseconds when even a full queue is left; set before file's deadline is
}

// newAcceptor takes over a listener. One of our own loses its unix path at the end, an inherited one does not.
func newAcceptor(ln net.Listener, own bool, s *server, started func()) (*acceptor, error) {
	a := &acceptor{server: s, addr: ln.Addr(), started: started}
	if u, ok := ln.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
		if own {
			a.unlink = ln.Addr().String()
		}
	}
	var err error
	if a.file, err = duplicate(ln); err == nil {
		a.raw, err = a.file.SyscallConn()
	}
	if err != nil {
		return nil, fmt.Errorf("cannot accept on %s: %w", ln.Addr(), err)
	}
	// One descriptor is enough, and each would be woken for each connection.
	return a, ln.Close()
}

func duplicate(ln net.Listener) (*os.File, error) {
	sock, ok := ln.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("a %T has no socket", ln)
	}
	raw, err := sock.SyscallConn()
	if err != nil {
		return nil, err
	}
	var fd int
	var failed error
	err = raw.Control(func(s uintptr) { fd, failed = unix.FcntlInt(s, unix.F_DUPFD_CLOEXEC, 3) })
	if err = errors.Join(err, failed); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), ln.Addr().String()), nil
}

// Addr implements net.Listener.
func (a *acceptor) Addr() net.Addr { return a.addr }

// stop makes Accept return errStopped as soon as the queue is empty.
func (a *acceptor) stop() {
	a.stopBy.Store(time.Now().Add(emptyingLimit).UnixNano())
	a.file.SetReadDeadline(time.Unix(1, 0)) // ends every wait from now on
}

// Close gives up our copy of the socket.
func (a *acceptor) Close() error {
	if a.unlink != "" {
		os.Remove(a.unlink)
	}
	return a.file.Close()
}

// Accept implements net.Listener for http.Server.
func (a *acceptor) Accept() (net.Conn, error) {
	a.once.Do(a.started)
	var broken time.Time // since when the socket does not listen
	for {
		c, err := a.take()
		switch {
		case err == nil:
			return c, nil
		case errors.Is(err, unix.ECONNABORTED):
			// The client gave up while it waited.
		case errors.Is(err, unix.EINVAL):
			if broken.IsZero() {
				broken = time.Now()
				a.server.log.Error("listener was shut down, waiting for its repair", "address", a.addr.String())
			}
			if !a.repaired(broken) {
				return nil, fmt.Errorf("cannot accept on %s: it was shut down: %w", a.addr, err)
			}
		default:
			return nil, err
		}
	}
}

// take waits for one connection, accepts and counts it. Accepting covers the time in between.
func (a *acceptor) take() (net.Conn, error) {
	fd, refusal := -1, error(nil)
	err := a.raw.Read(func(socket uintptr) bool {
		fd, refusal = a.accept(int(socket))
		return refusal != unix.EAGAIN
	})
	if errors.Is(err, os.ErrDeadlineExceeded) { // stopped: what is in the queue, and no waiting
		if time.Now().UnixNano() > a.stopBy.Load() {
			return nil, errStopped
		}
		err = a.raw.Control(func(socket uintptr) { fd, refusal = a.accept(int(socket)) })
		if refusal == unix.EAGAIN {
			return nil, errStopped
		}
	}
	if err != nil {
		return nil, err
	}
	if refusal != nil {
		return nil, &net.OpError{Op: "accept", Net: a.addr.Network(), Addr: a.addr, Err: os.NewSyscallError("accept4", refusal)}
	}
	defer a.server.board.Accepting(false)
	a.server.board.ConnNew()
	c, err := connection(fd)
	if err != nil {
		a.server.board.ConnMove(scoreboard.Unread, scoreboard.Nowhere)
		return nil, err
	}
	return a.server.track(c), nil
}

// accept leaves Accepting raised when it returns a connection.
func (a *acceptor) accept(socket int) (int, error) {
	a.server.board.Accepting(true)
	for {
		// Blocking until net.FileConn says otherwise: os.File would register a non-blocking one.
		fd, _, err := unix.Accept4(socket, unix.SOCK_CLOEXEC)
		switch err {
		case nil:
			return fd, nil
		case unix.EINTR:
			continue
		}
		a.server.board.Accepting(false)
		return -1, err
	}
}

// connection makes a net.Conn of an accepted socket, a *net.TCPConn or *net.UnixConn.
func connection(fd int) (net.Conn, error) {
	f := os.NewFile(uintptr(fd), "")
	defer f.Close()
	return net.FileConn(f)
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
