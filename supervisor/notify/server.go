package notify

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// Server receives what those below send.
type Server struct {
	conn *net.UnixConn
	raw  syscall.RawConn
	name string
}

// Listen makes a server on the abstract unix socket name (without the '@'). An abstract name needs
// no directory to write in and is gone with its last descriptor.
func Listen(name string) (*Server, error) {
	// Before bind: a message that came earlier than the option would carry no sender.
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var set error
		err := c.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1) })
		return errors.Join(err, set)
	}}
	conn, err := config.ListenPacket(context.Background(), "unixgram", "@"+name)
	if err != nil {
		return nil, fmt.Errorf("cannot listen for notifications on @%s: %w", name, err)
	}
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("cannot listen for notifications on @%s: %w", name, err)
	}
	return &Server{conn: conn.(*net.UnixConn), raw: raw, name: name}, nil
}

// Address is the value for NOTIFY_SOCKET.
func (s *Server) Address() string { return "@" + s.name }

// Receive waits for the next message. The error is net.ErrClosed after Close.
func (s *Server) Receive() (Message, error) {
	for {
		if err := s.Wait(); err != nil {
			return Message{}, err
		}
		if m, ok, err := s.TryReceive(); ok || err != nil {
			return m, err
		}
	}
}

// Wait returns when there is something to receive. An owner whose loop must not miss what was sent
// before some other event lets a goroutine Wait and reads in the loop itself, with TryReceive.
func (s *Server) Wait() error {
	err := s.raw.Read(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, 0)
		return n > 0 || err != nil
	})
	if err != nil {
		return fmt.Errorf("cannot receive notifications: %w", err)
	}
	return nil
}

// TryReceive returns the next message that was already sent, if there is one. It never waits, also
// not for a Receive or Wait under way. Messages that were cut short are passed over.
func (s *Server) TryReceive() (m Message, ok bool, err error) {
	// Control and not Read, which would queue behind a reader that waits.
	control := s.raw.Control(func(fd uintptr) {
		for !ok && (err == nil || err == unix.EINTR) {
			m, ok, err = receive(int(fd))
		}
	})
	if err = errors.Join(control, err); err == nil || errors.Is(err, unix.EAGAIN) {
		return m, ok, nil
	}
	return Message{}, false, fmt.Errorf("cannot receive notifications: %w", err)
}

// Close ends the server; whoever waits gets net.ErrClosed.
func (s *Server) Close() error { return s.conn.Close() }
