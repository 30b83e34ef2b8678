package notify

import (
	"context"
	"errors"
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
	return &Client{address: address}, nil
}

// FromEnv makes a client of the socket that NOTIFY_SOCKET names, nil when it is unset.
func FromEnv() (*Client, error) {
	address := os.Getenv(SocketVariable)
	if address == "" {
		return nil, nil
	}
	return Dial(address)
}

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
	deadline := time.Now().Add(sendTimeout)
	for {
		// The kernel waits, not the runtime's poller, which sees an unconnected socket as
		// writable whether its receiver has room or not.
		left := unix.NsecToTimeval(max(time.Until(deadline), time.Millisecond).Nanoseconds())
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &left); err != nil {
			return err
		}
		err := unix.Sendmsg(fd, text, oob, &unix.SockaddrUnix{Name: c.address}, unix.MSG_NOSIGNAL)
		if err == unix.EAGAIN {
			return fmt.Errorf("the receiver did not read for %v: %w", sendTimeout, err)
		}
		if err != unix.EINTR {
			return err
		}
	}
}

// Ask sends assignments as a question and waits for the answer. The error is ErrNoAnswer when the
// supervisor closed the question, the context's when that ended first.
func (c *Client) Ask(ctx context.Context, state ...string) (Message, error) {
	if c == nil {
		return Message{}, ErrNoSupervisor
	}
	// The end that is sent stays blocking: the receiver then need not watch it.
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return Message{}, fmt.Errorf("cannot ask %s: %w", c.address, err)
	}
	if err := unix.SetNonblock(pair[0], true); err != nil {
		unix.Close(pair[0])
		unix.Close(pair[1])
		return Message{}, fmt.Errorf("cannot ask %s: %w", c.address, err)
	}
	ours := os.NewFile(uintptr(pair[0]), "question")
	defer ours.Close()
	err = c.SendFiles(pair[1:], state...)
	unix.Close(pair[1])
	if err != nil {
		return Message{}, err
	}
	return await(ctx, ours)
}

// await waits for one packet on f.
func await(ctx context.Context, f *os.File) (Message, error) {
	stop := context.AfterFunc(ctx, func() { f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := f.SyscallConn()
	if err != nil {
		return Message{}, err
	}
	var m Message
	var ok bool
	var received error
	err = raw.Read(func(fd uintptr) bool {
		m, ok, received = receiveAnswer(int(fd))
		return received != unix.EAGAIN && received != unix.EINTR
	})
	switch {
	case err != nil && ctx.Err() != nil:
		return Message{}, ctx.Err()
	case errors.Join(err, received) != nil:
		return Message{}, fmt.Errorf("cannot read the answer: %w", errors.Join(err, received))
	case !ok:
		return Message{}, ErrNoAnswer
	}
	return m, nil
}

// receiveAnswer is receive on a stream of packets, where ok is false at its end. The kernel finds
// no packet and then, in a second step, that the other end is closed: a packet sent between the two
// steps is still to be read, so the end counts only when it is seen twice.
func receiveAnswer(fd int) (m Message, ok bool, err error) {
	m, ok, err = receive(fd)
	if err == nil && !ok {
		m, ok, err = receive(fd)
	}
	return m, ok, err
}
