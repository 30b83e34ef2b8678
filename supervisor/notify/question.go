package notify

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Ask sends assignments as a question and waits for the answer. The error is ErrNoAnswer when the
// supervisor closed the question, the context's when that ended first.
func (c *Client) Ask(ctx context.Context, state ...string) (Message, error) {
	q, err := c.Open(state...)
	if err != nil {
		return Message{}, err
	}
	defer q.Close()
	return q.Next(ctx)
}

// Question is one that may get several answers. It is its asker's, who closes it.
type Question struct {
	file *os.File
}

// Open sends assignments as a question.
func (c *Client) Open(state ...string) (*Question, error) {
	if c == nil {
		return nil, ErrNoSupervisor
	}
	// The end that is sent stays blocking: the receiver then need not watch it.
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot ask %s: %w", c.address, err)
	}
	if err := unix.SetNonblock(pair[0], true); err != nil {
		unix.Close(pair[0])
		unix.Close(pair[1])
		return nil, fmt.Errorf("cannot ask %s: %w", c.address, err)
	}
	q := &Question{os.NewFile(uintptr(pair[0]), "question")}
	err = c.SendFiles(pair[1:], state...)
	unix.Close(pair[1])
	if err != nil {
		q.Close()
		return nil, err
	}
	return q, nil
}

// Close ends the question; whoever answers it gets an error from now on.
func (q *Question) Close() error { return q.file.Close() }

// Next waits for the next answer. The error is ErrNoAnswer when there will be none any more, the
// context's when that ended first.
func (q *Question) Next(ctx context.Context) (Message, error) {
	stop := context.AfterFunc(ctx, func() { q.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := q.file.SyscallConn()
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

// Reply sends one answer on the descriptor that a question brought, which stays open for more. It
// never waits: an asker that left no room for the answer gets none. The descriptors stay the caller's.
func Reply(question int, fds []int, state ...string) error {
	text, err := join(state)
	if err != nil {
		return err
	}
	return unix.Sendmsg(question, text, rights(fds), nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
}
