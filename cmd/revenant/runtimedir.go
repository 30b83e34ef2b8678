package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

func instanceName(value string) (string, error) {
	if !nameForm.MatchString(value) {
		return "", fmt.Errorf("not a name (use up to 64 letters, digits, '.', '_' and '-')")
	}
	return value, nil
}

// instanceDir is where an instance of that name has its control socket.
func instanceDir(s *settings, name string) string {
	return filepath.Join(runtimeDir(s), name)
}

func runtimeDir(s *settings) string {
	if dir := s.one("runtime-dir"); dir != "" {
		return dir
	}
	if dir := os.Getenv("RUNTIME_DIRECTORY"); dir != "" { // systemd's
		return dir
	}
	if os.Geteuid() == 0 {
		return "/run/revenant"
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "revenant")
	}
	return filepath.Join(os.TempDir(), "revenant-"+strconv.Itoa(os.Geteuid()))
}

func controlSocket(dir string) string { return filepath.Join(dir, "control.sock") }

// runtimeClaim is this instance's folder and the lock that makes it ours. The
// lock is the keeper's: it ends with the process, however that ends.
type runtimeClaim struct {
	dir  string
	lock *os.File
}

// longestPath is what fits into a unix socket's address.
const longestPath = 107

// claim makes the folder and takes the lock in the name of owner, a keeper.
func claim(dir string, owner int) (*runtimeClaim, error) {
	if path := controlSocket(dir) + ".4194304"; len(path) > longestPath {
		return nil, fmt.Errorf("the path of the control socket would be %d bytes long and %d are possible (choose a shorter folder)", len(path), longestPath)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the folder: %w (choose one that this user can write)", cause(err))
	}
	if err := private(dir); err != nil {
		return nil, err
	}
	for {
		lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
		if err != nil {
			return nil, fmt.Errorf("cannot write into %s: %w (choose a folder that this user can write)", dir, cause(err))
		}
		if err := unix.FcntlFlock(lock.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
			pid := make([]byte, 16)
			n, _ := lock.Read(pid)
			_ = lock.Close()
			return nil, &runningError{string(pid[:n])}
		}
		if sameFile(lock) {
			_ = lock.Truncate(0)
			_, _ = lock.WriteString(strconv.Itoa(owner))
			c := &runtimeClaim{dir, lock}
			c.removeDrafts()
			return c, nil
		}
		_ = lock.Close() // an instance that was ending removed it under our hands
	}
}

// claimAgain makes sure that the folder is the instance's, for a master that
// was started anew: an operator may have removed it. The lock that replaces the
// keeper's ends with this process, and the next master takes it again.
func claimAgain(dir string, keeper int) error {
	c, err := claim(dir, keeper)
	var running *runningError
	if errors.As(err, &running) && running.pid == strconv.Itoa(keeper) {
		return nil
	}
	if err != nil {
		return err
	}
	defer c.lock.Close()
	// A bare number, which nothing closes before the end. The lock is that of the
	// open file, not of the descriptor.
	_, err = unix.FcntlInt(c.lock.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	return err
}

// private refuses a folder in which somebody else could put a socket.
func private(dir string) error {
	var stat unix.Stat_t
	if err := unix.Lstat(dir, &stat); err != nil {
		return fmt.Errorf("cannot look at %s: %w", dir, err)
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFDIR || int(stat.Uid) != os.Geteuid() {
		return fmt.Errorf("%s is not a folder of this user (remove it, or choose another one)", dir)
	}
	if stat.Mode&0o077 == 0 {
		return nil
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("cannot make %s private: %w", dir, cause(err))
	}
	return nil
}

// claimed tells whether an instance holds the folder's lock. It asks without
// taking it: whoever takes it at this moment must not fail because of us.
func claimed(dir string) bool {
	lock, err := os.Open(filepath.Join(dir, "lock"))
	if err != nil {
		return false
	}
	defer lock.Close()
	held := unix.Flock_t{Type: unix.F_WRLCK}
	return unix.FcntlFlock(lock.Fd(), unix.F_OFD_GETLK, &held) == nil && held.Type != unix.F_UNLCK
}

func sameFile(lock *os.File) bool {
	held, err1 := lock.Stat()
	named, err2 := os.Stat(lock.Name())
	return err1 == nil && err2 == nil && os.SameFile(held, named)
}

// release leaves nothing behind.
func (c *runtimeClaim) release() {
	c.removeDrafts()
	_ = os.Remove(controlSocket(c.dir))
	_ = os.Remove(c.lock.Name())
	_ = os.Remove(c.dir)
	_ = c.lock.Close()
}

// removeDrafts removes what masters left that were killed while they bound the
// control socket.
func (c *runtimeClaim) removeDrafts() {
	drafts, _ := filepath.Glob(controlSocket(c.dir) + ".*")
	for _, draft := range drafts {
		_ = os.Remove(draft)
	}
}

// runningError says that the name is taken. The pid is "" while its keeper is
// about to write it.
type runningError struct{ pid string }

func (e *runningError) Error() string {
	if e.pid == "" {
		return "an instance of this name is starting (give this one another name)"
	}
	return fmt.Sprintf("an instance of this name is running, pid %s (give this one another name)", e.pid)
}

// cause is the reason of a file system error without the operation and path,
// which the message around it names in the operator's words.
func cause(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}
