package notify

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// sendTimeout bounds a send to a supervisor that does not read: nobody below may hang because
// somebody above does.
const sendTimeout = time.Second

// Client sends to the supervisor. A nil Client is one without a supervisor: it sends nothing.
type Client struct {
	address string
	timeout time.Duration
}

// Dial makes a client of the socket at "@abstract" or "/path". Nothing is sent and nothing is kept
// open, so that a supervisor that comes back on the same address is reached again.
func Dial(address string) (*Client, error) {
	if len(address) < 2 || address[0] != '@' && address[0] != '/' {
		return nil, fmt.Errorf("cannot notify %q: only @name and /path are known", address)
	}
	if len(address) > 107 {
		return nil, fmt.Errorf("cannot notify %q: longer than the 107 bytes of a socket's name", address)
	}
	return &Client{address: address, timeout: sendTimeout}, nil
}

// FromEnv makes a client of the socket that NOTIFY_SOCKET names, nil when it is unset.
func FromEnv() (*Client, error) {
	address := os.Getenv(SocketVariable)
	if address == "" {
		return nil, nil
	}
	return Dial(address)
}

// Within is a client that waits no longer than d for a supervisor that does not read, where this
// one waits a second.
func (c *Client) Within(d time.Duration) *Client { return &Client{address: c.address, timeout: d} }

// Send sends assignments, within a second or not at all.
func (c *Client) Send(state ...string) error { return c.SendFiles(nil, state...) }

// SendFiles sends assignments and descriptors, which stay the caller's.
func (c *Client) SendFiles(fds []int, state ...string) error {
	if c == nil {
		return nil
	}
	text, err := join(state)
	if err != nil {
		return err
	}
	if err := c.send(text, rights(fds)); err != nil {
		return fmt.Errorf("cannot notify %s: %w", c.address, err)
	}
	return nil
}

func (c *Client) send(text, oob []byte) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	deadline := time.Now().Add(c.timeout)
	for {
		// The kernel waits, not the runtime's poller, which sees an unconnected socket as
		// writable whether its receiver has room or not.
		left := unix.NsecToTimeval(max(time.Until(deadline), time.Millisecond).Nanoseconds())
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &left); err != nil {
			return err
		}
		err := unix.Sendmsg(fd, text, oob, &unix.SockaddrUnix{Name: c.address}, unix.MSG_NOSIGNAL)
		if err == unix.EAGAIN {
			return fmt.Errorf("the receiver did not read for %v: %w", c.timeout, err)
		}
		if err != unix.EINTR {
			return err
		}
	}
}
