// Package listen owns the listening sockets of an instance: it binds them once,
// takes them back from whoever kept them, tells how long their queues are, and
// stops them without a reset for anyone who was already connected.
//
// A Socket is a plain descriptor and no net.Listener: O_NONBLOCK belongs to the
// description that all workers share, and handing a listener's File to a child
// clears it, so that everyone blocks in accept (golang/go#29277).
package listen

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// ErrNotListening is what Adopt and Repair say of a descriptor on which nobody
// can connect.
var ErrNotListening = errors.New("not a listening stream socket")

// Socket is one listening socket. Its descriptor is close-on-exec and
// non-blocking. Bind or Adopt make one.
type Socket struct {
	name  Address
	bound Address
	fd    int
	local unix.Sockaddr // bound, as the kernel says it
	file  fs.FileInfo   // unix: the path as we left it

	borrowed bool

	once     sync.Once
	closeErr error
}

// Adopt takes over a descriptor that was bound before: by an earlier master, or
// by systemd. Its name is what Bind was once called with, or anything else, and
// then the socket is named by its bound address. The descriptor is owned by the
// socket when Adopt succeeds and remains the caller's otherwise.
func Adopt(fd int, name string) (*Socket, error) {
	bound, local, err := addressOf(fd)
	if err != nil {
		return nil, fmt.Errorf("cannot adopt descriptor %d for %q: %w", fd, name, err)
	}
	if err := makeOurs(fd); err != nil {
		return nil, fmt.Errorf("cannot adopt descriptor %d for %q: %w", fd, name, err)
	}
	configured, err := Parse(name)
	if err != nil || configured.network != bound.network {
		configured = bound
	}
	s := &Socket{name: configured, bound: resolve(configured, bound), fd: fd, local: local}
	if s.bound.path != "" {
		s.file, _ = os.Lstat(s.bound.path)
	}
	return s, nil
}

// Borrow is Adopt for a socket that somebody else made and may go on with, as a
// service manager does: its path and what it lets in are not ours to change.
func Borrow(fd int, name string) (*Socket, error) {
	s, err := Adopt(fd, name)
	if err == nil {
		s.borrowed = true
	}
	return s, err
}

// Borrowed tells whether the socket is somebody else's.
func (s *Socket) Borrowed() bool { return s.borrowed }

// FD is the descriptor, valid until Close. Pass the number to a child; an
// os.File around it would close it one day, or make it block.
func (s *Socket) FD() int { return s.fd }

// Inode is the number by which the kernel names the socket in /proc.
func (s *Socket) Inode() (uint64, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(s.fd, &stat); err != nil {
		return 0, fmt.Errorf("cannot inspect %s: %w", s.name, err)
	}
	return stat.Ino, nil
}

// Name is the configured address, by which the socket is stored and found again.
func (s *Socket) Name() Address { return s.name }

// Bound is the address with the port that :0 became.
func (s *Socket) Bound() Address { return s.bound }

// Close gives up this descriptor. Others of the same socket go on; when it was
// the last, the kernel resets what is still in the queue (see StopNew).
func (s *Socket) Close() error {
	s.once.Do(func() { s.closeErr = unix.Close(s.fd) })
	return s.closeErr
}

// Unlink removes the path of a unix socket, unless somebody else has put
// another file there since; that of a borrowed one stays. It is for the end of
// the instance only.
func (s *Socket) Unlink() error {
	if s.bound.path == "" || s.file == nil || s.borrowed {
		return nil
	}
	now, err := os.Lstat(s.bound.path)
	// Inode numbers are used again at once: the time tells two sockets apart.
	if errors.Is(err, fs.ErrNotExist) || err == nil && (!os.SameFile(now, s.file) || !now.ModTime().Equal(s.file.ModTime())) {
		return nil
	}
	if err == nil {
		err = os.Remove(s.bound.path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove the path of %s: %w", s.name, err)
	}
	return nil
}

// What Repair finds.
const (
	Blocks   = "O_NONBLOCK was cleared"
	ShutDown = "the socket was shut down"
)

// Repair undoes what one worker can do to the socket of all: it clears
// O_NONBLOCK, which blocks its siblings in accept, or shuts the socket down.
// It says what it found, Blocks or ShutDown, "" when nothing was wrong. A unix socket that was shut
// down cannot listen again: ErrNotListening.
func (s *Socket) Repair() (string, error) {
	flags, err := unix.FcntlInt(uintptr(s.fd), unix.F_GETFL, 0)
	if err != nil {
		return "", fmt.Errorf("cannot inspect %s: %w", s.name, err)
	}
	found := ""
	if flags&unix.O_NONBLOCK == 0 {
		found = Blocks
		if err := unix.SetNonblock(s.fd, true); err != nil {
			return found, fmt.Errorf("cannot make %s non-blocking again: %w", s.name, err)
		}
	}
	if isListening(s.fd) && s.events()&shutDown == 0 {
		return found, nil
	}
	if s.name.network == "unix" {
		return ShutDown, fmt.Errorf("cannot repair %s: %w", s.name, ErrNotListening)
	}
	// A port that was given for :0 is taken away by the shutdown; one that was
	// asked for stays, and binding it again is invalid.
	if err := unix.Bind(s.fd, s.local); err != nil && err != unix.EINVAL {
		return ShutDown, fmt.Errorf("cannot bind %s again: %w", s.bound, err)
	}
	if err := unix.Listen(s.fd, backlog()); err != nil {
		return ShutDown, fmt.Errorf("cannot listen on %s again: %w", s.name, err)
	}
	return ShutDown, nil
}

// Replace puts a new socket in the place of a unix socket that was shut down, at
// the same path and under the same descriptor. Whoever else holds the old one has
// nothing any more.
func (s *Socket) Replace(ctx context.Context) error {
	fresh, err := Bind(ctx, s.name)
	if err != nil {
		return err
	}
	defer fresh.Close()
	if err := unix.Dup3(fresh.fd, s.fd, unix.O_CLOEXEC); err != nil {
		return fmt.Errorf("cannot replace %s: %w", s.name, err)
	}
	s.file, s.local = fresh.file, fresh.local
	return nil
}

func isListening(fd int) bool {
	accepting, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	return err == nil && accepting == 1
}

func addressOf(fd int) (Address, unix.Sockaddr, error) {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return Address{}, nil, fmt.Errorf("%w: %w", ErrNotListening, err)
	}
	if kind != unix.SOCK_STREAM || !isListening(fd) {
		return Address{}, nil, ErrNotListening
	}
	local, err := unix.Getsockname(fd)
	if err != nil {
		return Address{}, nil, err
	}
	switch local := local.(type) {
	case *unix.SockaddrInet4:
		return Address{network: "tcp", host: netip.AddrFrom4(local.Addr).String(), port: local.Port}, local, nil
	case *unix.SockaddrInet6:
		return Address{network: "tcp", host: netip.AddrFrom16(local.Addr).String(), port: local.Port}, local, nil
	case *unix.SockaddrUnix:
		return Address{network: "unix", path: local.Name}, local, nil
	default:
		return Address{}, nil, fmt.Errorf("%w: neither TCP nor unix", ErrNotListening)
	}
}

// resolve gives a configured address the port of the bound one. The host stays
// as configured where the kernel only spells it otherwise: [::] for "".
func resolve(configured, bound Address) Address {
	if configured.network == "unix" {
		configured.path = bound.path
		return configured
	}
	if configured.host == "" && (bound.host == "::" || bound.host == "0.0.0.0") {
		bound.host = ""
	}
	return bound
}

func makeOurs(fd int) error {
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
		return err
	}
	return unix.SetNonblock(fd, true)
}
