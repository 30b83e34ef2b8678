package listen

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// BindError says why an address could not be had, and what to do. It begins
// with the address, so that the caller puts only the name of the flag before it.
type BindError struct {
	Address Address
	Owner   string // who holds the address, "" when that is hidden or nobody
	Err     error
}

func (e *BindError) Error() string {
	return fmt.Sprintf("%s: cannot bind: %s", e.Address, e.reason())
}

func (e *BindError) Unwrap() error { return e.Err }

func (e *BindError) reason() string {
	if errno := syscall.Errno(0); errors.As(e.Err, &errno) {
		if remedy := e.remedy(errno); remedy != "" {
			return fmt.Sprintf("%s (%s)", errno, remedy)
		}
		return errno.Error()
	}
	return e.Err.Error()
}

func (e *BindError) remedy(errno syscall.Errno) string {
	tcp := e.Address.network == "tcp"
	switch {
	case errno == unix.EADDRINUSE && e.Owner != "":
		return fmt.Sprintf("held by %s; choose another %s or stop it", e.Owner, e.what())
	case errno == unix.EADDRINUSE:
		return fmt.Sprintf("choose another %s or stop the program that holds it", e.what())
	case errno == unix.EACCES && tcp:
		return "a port below 1024 needs CAP_NET_BIND_SERVICE; choose a higher one"
	case errno == unix.EADDRNOTAVAIL:
		return "this machine has no such address; use one that `ip address` shows"
	case errno == unix.EACCES, errno == unix.EROFS:
		return fmt.Sprintf("the directory %s is not writable; choose another or change its owner", filepath.Dir(e.Address.path))
	case errno == unix.ENOENT && !tcp:
		return fmt.Sprintf("the directory %s does not exist; create it", filepath.Dir(e.Address.path))
	default:
		return ""
	}
}

func (e *BindError) what() string {
	if e.Address.network == "unix" {
		return "path"
	}
	return "port"
}

// Bind listens on an address that nobody holds. A unix path that a dead
// instance left behind is taken over; one that answers is not. It is called
// once per address in the life of an instance: SO_REUSEPORT is not set, so that
// nobody can share the address by accident and take a part of its connections.
func Bind(ctx context.Context, address Address) (*Socket, error) {
	s, err := bind(ctx, address)
	if errors.Is(err, unix.EADDRINUSE) && address.network == "unix" {
		s, err = bindOverStale(ctx, address)
	}
	if err == nil {
		return s, nil
	}
	failed := &BindError{Address: address, Err: err}
	if errors.Is(err, unix.EADDRINUSE) {
		failed.Owner = owner(address)
	}
	return nil, failed
}

func bind(ctx context.Context, address Address) (*Socket, error) {
	config := net.ListenConfig{Control: address.beforeBind}
	// Go 1.24 and later listen with MPTCP, which costs on each request and
	// refuses socket options that steering will need.
	config.SetMultipathTCP(false)
	target := address.path
	if address.network == "tcp" {
		target = net.JoinHostPort(address.host, strconv.Itoa(address.port))
	}
	ln, err := config.Listen(ctx, address.network, target)
	if err != nil {
		return nil, err
	}
	defer ln.Close()
	if ln, ok := ln.(*net.UnixListener); ok {
		ln.SetUnlinkOnClose(false)
	}
	s, err := duplicate(ln.(syscall.Conn), address)
	if err != nil && address.path != "" {
		os.Remove(address.path)
	}
	return s, err
}

// beforeBind makes a unix socket appear with no more rights than were asked
// for: the mode of the socket, less the umask, is that of the path. A TCP socket
// hands TCP_NODELAY on to its connections: most servers set it themselves, but one
// that takes the listener for another kind (uvicorn --fd) does not, and its client's
// delayed acknowledgement holds the second half of each answer up for 40 ms.
func (a Address) beforeBind(_, _ string, conn syscall.RawConn) error {
	var optionErr error
	err := conn.Control(func(fd uintptr) {
		switch {
		case a.network == "tcp":
			optionErr = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		case a.mode != 0:
			optionErr = unix.Fchmod(int(fd), uint32(a.mode))
		}
	})
	return errors.Join(err, optionErr)
}

func duplicate(conn syscall.Conn, address Address) (*Socket, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd, dupErr := -1, error(nil)
	err = raw.Control(func(original uintptr) {
		fd, dupErr = unix.FcntlInt(original, unix.F_DUPFD_CLOEXEC, 3)
	})
	if err := errors.Join(err, dupErr); err != nil {
		return nil, err
	}
	s := &Socket{name: address, fd: fd}
	bound, local, err := addressOf(fd)
	if err == nil && address.mode != 0 {
		err = os.Chmod(address.path, address.mode)
	}
	if err == nil && address.path != "" {
		s.file, err = os.Lstat(address.path)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	s.bound, s.local = resolve(address, bound), local
	return s, nil
}

// bindOverStale removes a path on which nobody listens and binds there. Two
// instances that start together would each remove the other's new socket, so
// the directory is locked meanwhile.
func bindOverStale(ctx context.Context, address Address) (*Socket, error) {
	unlock := lockDirectory(ctx, filepath.Dir(address.path))
	defer unlock()
	if err := removeStale(address.path); err != nil {
		return nil, err
	}
	return bind(ctx, address)
}

func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%w: the path is a %s and no socket (choose another path or remove it)", errInTheWay, describe(info.Mode()))
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	switch err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); {
	case errors.Is(err, unix.ECONNREFUSED):
		return os.Remove(path)
	case errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.EACCES):
		return err
	default: // it answers, its queue is full, or it is of another kind
		return unix.EADDRINUSE
	}
}

var errInTheWay = errors.New("something else is there")

func describe(mode fs.FileMode) string {
	switch mode.Type() {
	case fs.ModeDir:
		return "directory"
	case fs.ModeSymlink:
		return "symbolic link"
	default:
		return "file"
	}
}

// lockDirectory waits at most a second: a stranger who holds a lock on the
// directory for longer must not keep the instance from starting.
func lockDirectory(ctx context.Context, path string) (unlock func()) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	dir, err := os.Open(path)
	if err != nil {
		return func() {}
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		select {
		case <-ctx.Done():
			return func() { dir.Close() }
		case <-tick.C:
		}
	}
	return func() { dir.Close() }
}

// backlog is the longest queue that the kernel allows, which is what Go asks
// for when it listens.
func backlog() int {
	text, err := os.ReadFile("/proc/sys/net/core/somaxconn")
	if err != nil {
		return unix.SOMAXCONN
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || n <= 0 {
		return unix.SOMAXCONN
	}
	return n
}
