package listen

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Watch tells that somebody has shut down one of its sockets. It asks epoll for
// hang-ups alone: connections wake whoever accepts them and not us, which a
// registration with Go's own poller could not be told.
type Watch struct {
	file *os.File // the epoll instance, itself in Go's poller
	raw  syscall.RawConn
}

// NewWatch watches nothing yet.
func NewWatch() (*Watch, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err == nil {
		err = unix.SetNonblock(fd, true) // or Go would not wait for it without a thread
	}
	if err != nil {
		return nil, fmt.Errorf("cannot watch sockets: %w", err)
	}
	w := &Watch{file: os.NewFile(uintptr(fd), "watch of the listeners")}
	w.raw, err = w.file.SyscallConn()
	return w, err
}

// Add watches a socket. One that Replace made anew is another one, and has to be
// added again; so remove it before that.
func (w *Watch) Add(s *Socket) error {
	// Told once for each time: a socket that cannot be repaired at once stays as it is.
	event := unix.EpollEvent{Events: unix.EPOLLRDHUP | unix.EPOLLET}
	return w.change(unix.EPOLL_CTL_ADD, s, &event)
}

// Remove watches a socket no more.
func (w *Watch) Remove(s *Socket) error { return w.change(unix.EPOLL_CTL_DEL, s, nil) }

func (w *Watch) change(how int, s *Socket, event *unix.EpollEvent) error {
	var failed error
	err := w.raw.Control(func(fd uintptr) { failed = unix.EpollCtl(int(fd), how, s.fd, event) })
	if err == nil {
		err = failed
	}
	if err != nil {
		return fmt.Errorf("cannot watch %s: %w", s.name, err)
	}
	return nil
}

// Wait returns nil when a socket was shut down, since the last time or now, and an
// error once the watch is closed.
func (w *Watch) Wait() error {
	var failed error
	err := w.raw.Read(func(fd uintptr) bool {
		var n int
		n, failed = unix.EpollWait(int(fd), make([]unix.EpollEvent, 8), 0)
		if failed == unix.EINTR {
			failed = nil
		}
		return n > 0 || failed != nil
	})
	if err == nil {
		err = failed
	}
	return err
}

// Close ends the watch and whoever waits for it.
func (w *Watch) Close() error { return w.file.Close() }
