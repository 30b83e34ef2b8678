package worker

import (
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"revenant/worker/scoreboard"
)

// conn is what the worker knows of one connection, from accept(2) to close(2), hijacked or not.
//
// net/http says Active only when it has read a whole header; a connection that dies before that has lost a
// request all the same. So the first byte makes it Active here, and the hooks of net/http do the rest.
type conn struct {
	server *server
	net    net.Conn // the wrapper around this conn
	raw    syscall.Conn
	place  atomic.Uint32 // a scoreboard.State
	since  atomic.Int64  // unix nanoseconds when it came to rest, if that was during the drain

	// guarded by server.mu
	prev, next *conn
	onClose    []func()
}

// tcpConn keeps every method of *net.TCPConn: net/http finds ReadFrom (sendfile) and CloseWrite on it.
type tcpConn struct {
	*net.TCPConn
	conn
}

func (c *tcpConn) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	c.read(n)
	return n, err
}

func (c *tcpConn) Close() error {
	err := c.TCPConn.Close()
	c.closed()
	return err
}

// NetConn is the connection itself, for handlers that hijacked it and need its own type.
func (c *tcpConn) NetConn() net.Conn { return c.TCPConn }

type unixConn struct {
	*net.UnixConn
	conn
}

func (c *unixConn) Read(p []byte) (int, error) {
	n, err := c.UnixConn.Read(p)
	c.read(n)
	return n, err
}

func (c *unixConn) Close() error {
	err := c.UnixConn.Close()
	c.closed()
	return err
}

// NetConn is the connection itself, for handlers that hijacked it and need its own type.
func (c *unixConn) NetConn() net.Conn { return c.UnixConn }

// tracked finds what we know of a connection that net/http shows us.
func tracked(nc net.Conn) *conn {
	switch c := nc.(type) {
	case *tcpConn:
		return &c.conn
	case *unixConn:
		return &c.conn
	}
	return nil
}

// track takes a connection that was just accepted, and counted, under our wing.
func (s *server) track(nc net.Conn) net.Conn {
	var c *conn
	switch nc := nc.(type) {
	case *net.TCPConn:
		w := &tcpConn{TCPConn: nc}
		c, w.conn.net, w.conn.raw = &w.conn, w, nc
	case *net.UnixConn:
		w := &unixConn{UnixConn: nc}
		c, w.conn.net, w.conn.raw = &w.conn, w, nc
	}
	c.server = s
	c.place.Store(uint32(scoreboard.Unread))
	if s.isDraining() {
		c.since.Store(time.Now().UnixNano())
	}
	s.enter(c)
	return c.net
}

// read notes that n bytes came from the client.
func (c *conn) read(n int) {
	if n > 0 && scoreboard.State(c.place.Load()) != scoreboard.Active {
		c.move(scoreboard.Active)
	}
}

// move notes a new place and reports whether it is one. A hijacked connection stays that until it is closed.
func (c *conn) move(to scoreboard.State) bool {
	for {
		from := scoreboard.State(c.place.Load())
		if from == to || from == scoreboard.Nowhere || from == scoreboard.Hijacked {
			return false
		}
		if c.place.CompareAndSwap(uint32(from), uint32(to)) {
			c.server.board.ConnMove(from, to)
			return true
		}
	}
}

// rest notes that the connection waits for its next request.
func (c *conn) rest() {
	if c.server.isDraining() {
		// It got an answer without "Connection: close", from before the drain. Its client may reuse it.
		c.since.Store(time.Now().UnixNano())
		defer c.server.poke()
	}
	c.move(scoreboard.Idle)
}

// closed notes the end, once.
func (c *conn) closed() {
	from := scoreboard.State(c.place.Swap(uint32(scoreboard.Nowhere)))
	if from != scoreboard.Nowhere {
		c.server.board.ConnMove(from, scoreboard.Nowhere)
	}
	c.server.leave(c)
}

// restingSince says since when the connection has had no request, in unix nanoseconds, given when the drain
// began; false when it has one.
func (c *conn) restingSince(drain int64) (int64, bool) {
	switch scoreboard.State(c.place.Load()) {
	case scoreboard.Unread, scoreboard.Idle:
		return max(drain, c.since.Load()), true
	}
	return 0, false
}

// retire closes a connection at rest, unless a request is on its way in. Between the last look and the close
// lies a gap that HTTP/1.1 cannot close; the quiet period is there to make it empty.
func (c *conn) retire() {
	place := c.place.Load()
	if _, resting := c.restingSince(0); !resting || c.pending(unix.SIOCINQ) != 0 {
		return
	}
	if c.place.CompareAndSwap(place, uint32(scoreboard.Nowhere)) {
		c.server.board.ConnMove(scoreboard.State(place), scoreboard.Nowhere)
		c.net.Close()
	}
}

// pending asks the kernel how many bytes wait to be read (SIOCINQ) or to be acknowledged (SIOCOUTQ), 0 when
// the connection is gone.
func (c *conn) pending(queue uint) int {
	raw, err := c.raw.SyscallConn()
	if err != nil {
		return 0
	}
	n := 0
	raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), queue) })
	if err != nil {
		return 0
	}
	return n
}
