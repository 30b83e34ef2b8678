package ledger

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Request is one request, sent at most once.
type Request struct {
	Method string // GET unless a body says POST
	Path   string
	ID     string // sent as X-Request-Id, and as X-Ledger-Id for proxies that give a request an id of their own
	Header string // further lines, each with its CR LF
	Body   []byte
	Sum    string // the SHA-256 of the body, in hexadecimal
}

// Outcome is what became of a request.
type Outcome struct {
	Class    Class
	Err      error // why, when it is no answer
	Response Response
	Begin    time.Time // before connecting, if it had to
	End      time.Time // after the last byte
}

// hangUp is how long the end of a connection is waited for.
const hangUp = 100 * time.Millisecond

// Client sends requests over raw connections, one after the other, none twice.
// A connection that was closed while it was idle is not used: nothing had been
// asked on it. One that is closed after the request was sent has lost it.
type Client struct {
	Target         string // tcp://HOST:PORT or unix:/PATH
	KeepAlive      bool   // else each request has a new connection
	ConnectTimeout time.Duration
	Timeout        time.Duration // of a request, connecting included

	network, address string
	conn             net.Conn
	reader           *bufio.Reader
	request, body    []byte
	lastID           string // answered last
}

// Do sends a request and waits for the whole answer. Its class is Answered for
// any answer with status 200: only the caller knows what the body should be.
func (c *Client) Do(r Request) Outcome {
	outcome := Outcome{Begin: time.Now()}
	outcome.Class, outcome.Response, outcome.Err = c.do(r, outcome.Begin.Add(c.Timeout), &outcome.End)
	if outcome.Class != Answered && outcome.Class != Status {
		c.Close()
	}
	return outcome
}

// Close gives up the connection that is kept.
func (c *Client) Close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

func (c *Client) do(r Request, deadline time.Time, end *time.Time) (Class, Response, error) {
	defer func() {
		if end.IsZero() {
			*end = time.Now()
		}
	}()
	if class, err := c.connect(deadline); err != nil {
		return class, Response{}, err
	}
	if err := c.conn.SetDeadline(deadline); err != nil {
		return void, Response{}, err
	}
	sendErr := c.send(r)
	if sendErr != nil && ofRead(sendErr, false) != Reset {
		return ofRead(sendErr, false), Response{}, sendErr
	}
	// A server may answer and close before it has read the whole request.
	a, begun, err := readAnswer(c.reader, c.body)
	*end = time.Now()
	if a.Body != nil {
		c.body = a.Body
	}
	if sendErr != nil && err != nil {
		return Reset, Response{}, errors.Join(sendErr, err)
	}
	if err != nil {
		return ofRead(err, begun), Response{}, err
	}
	if class, err := c.finish(a); err != nil {
		return class, a.Response, err
	}
	if a.Status != 200 {
		return Status, a.Response, fmt.Errorf("the status is %d", a.Status)
	}
	if a.ID != "" && a.ID == c.lastID {
		return Duplicate, a.Response, fmt.Errorf("request %s was answered again", a.ID)
	}
	if a.ID != "" && r.ID != "" && a.ID != r.ID {
		return WrongBody, a.Response, fmt.Errorf("the answer is to request %s", a.ID)
	}
	c.lastID = r.ID
	return Answered, a.Response, nil
}

func (c *Client) connect(deadline time.Time) (Class, error) {
	if c.conn != nil && c.isStale() {
		c.Close()
	}
	if c.conn != nil {
		return Answered, nil
	}
	if c.network == "" {
		if err := c.parseTarget(); err != nil {
			return void, err
		}
	}
	timeout := time.Until(deadline)
	if c.ConnectTimeout > 0 {
		timeout = min(timeout, c.ConnectTimeout)
	}
	conn, err := net.DialTimeout(c.network, c.address, timeout)
	if err != nil {
		return ofDial(err), err
	}
	c.conn = conn
	if c.reader == nil {
		c.reader = bufio.NewReader(conn)
	} else {
		c.reader.Reset(conn)
	}
	return Answered, nil
}

func (c *Client) parseTarget() error {
	if address, ok := strings.CutPrefix(c.Target, "tcp://"); ok {
		c.network, c.address = "tcp", address
		return nil
	}
	if path, ok := strings.CutPrefix(c.Target, "unix:"); ok {
		c.network, c.address = "unix", path
		return nil
	}
	return fmt.Errorf("%q is no target (write tcp://HOST:PORT or unix:/PATH)", c.Target)
}

// isStale says whether the peer has closed the idle connection, or sent what
// nobody asked for.
func (c *Client) isStale() bool {
	raw, err := c.conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return true
	}
	stale := true
	err = raw.Control(func(fd uintptr) {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN | unix.POLLRDHUP}}
		n, err := unix.Poll(poll, 0)
		stale = err != unix.EINTR && (err != nil || n > 0)
	})
	return err != nil || stale
}

func (c *Client) send(r Request) error {
	method, connection := r.Method, "close"
	if method == "" {
		method = "GET"
		if r.Body != nil {
			method = "POST"
		}
	}
	if c.KeepAlive {
		connection = "keep-alive"
	}
	b := append(c.request[:0], method...)
	b = append(append(b, ' '), r.Path...)
	b = append(b, " HTTP/1.1\r\nHost: localhost\r\nConnection: "...)
	b = append(append(b, connection...), "\r\n"...)
	if r.ID != "" {
		b = append(append(append(b, "X-Request-Id: "...), r.ID...), "\r\n"...)
		b = append(append(append(b, "X-Ledger-Id: "...), r.ID...), "\r\n"...)
	}
	if r.Sum != "" {
		b = append(append(append(b, "X-Body-Sha256: "...), r.Sum...), "\r\n"...)
	}
	b = append(b, r.Header...)
	if r.Body != nil {
		b = fmt.Appendf(b, "Content-Length: %d\r\n", len(r.Body))
	}
	b = append(append(b, "\r\n"...), r.Body...)
	c.request = b
	_, err := c.conn.Write(b)
	return err
}

// finish leaves the connection ready for the next request, or closed. Bytes
// after the answer are another answer.
func (c *Client) finish(a answer) (Class, error) {
	if c.reader.Buffered() > 0 {
		return Duplicate, errors.New("more came after the answer")
	}
	if c.KeepAlive && !a.close {
		return Answered, nil
	}
	defer c.Close()
	if !a.close {
		return Answered, nil // asked to close it does not; so do we
	}
	// Whoever closes first keeps the port for a minute: let it be the server.
	// However it does, and if it does not, the answer was whole.
	c.conn.SetReadDeadline(time.Now().Add(hangUp))
	if _, err := c.reader.Peek(1); err == nil {
		return Duplicate, errors.New("more came after the answer")
	}
	return Answered, nil
}
