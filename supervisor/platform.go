package supervisor

import (
	"context"
	"fmt"
	"os"
	"syscall"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"revenant/supervisor/cgroup"
	"revenant/supervisor/listen"
	"revenant/supervisor/notify"
	"revenant/supervisor/tree"
)

// platform is what a master wants from the operating system and from its
// keeper. Tests put a fake in its place; nothing else here makes system calls
// about processes.
type platform struct {
	// start runs a worker. wait returns once it has ended and its process group has
	// been killed; it is called once, from a goroutine. reap takes its status then,
	// which nobody can take twice: whom a master does not come to reap, the keeper
	// does, and tells the next one.
	// pipe is for what a worker prints; nil lets it print where we do.
	pipe  func() (r, w int, err error)
	start func(launch) (pid int, wait func(), err error)
	reap  func(pid int) unix.WaitStatus
	// kill sends a signal to a process, or to a group (negative). One that has
	// gone is no error.
	kill func(pid int, sig unix.Signal)
	// parent is a process's parent, 0 when unknown.
	parent func(pid int) int
	// began is when a process began, in clock ticks since the machine booted, 0 when
	// unknown.
	began func(pid int) uint64
	// ended asks the keeper how a child of its own ended, and returns when it answers.
	ended func(pid int, began uint64) (notify.Ended, error)
	// memory is the resident memory of a process in bytes, 0 when unknown.
	memory func(pid int) int64
	// waits tells whether a process or one of its descendants waits for connections
	// on the sockets with these inodes.
	waits func(pid int, sockets []uint64) (bool, error)
	// see looks at a worker from outside, closely at one that says nothing itself;
	// nil when that cannot be.
	see func(pid int, mute bool, v *view) seen
	// watch tells when a listening socket is shut down; nil when nobody can.
	watch func() (*listen.Watch, error)
	// oomKills counts what the kernel killed in our cgroup for want of memory.
	oomKills func() uint64
	// store and remove hand descriptors to the keeper and take them back; tell
	// sends it assignments.
	store  func(name string, fds ...int)
	remove func(name string)
	tell   func(state ...string)
	inbox  inbox
}

// inbox is where workers' messages arrive.
type inbox interface {
	Wait() error
	TryReceive() (notify.Message, bool, error)
}

func systemPlatform(workers *notify.Server, keeper *notify.Client) platform {
	return platform{
		pipe:   systemPipe,
		start:  startProcess,
		reap:   reapProcess,
		kill:   func(pid int, sig unix.Signal) { _ = unix.Kill(pid, sig) },
		parent: tree.Parent,
		began:  func(pid int) uint64 { return tree.StatOf(pid).Began },
		ended: func(pid int, began uint64) (notify.Ended, error) {
			return keeper.HowEnded(context.Background(), pid, began) // whose end ends the question
		},
		waits:  tree.Waits,
		see:    seeProcess,
		watch:  listen.NewWatch,
		memory: memoryOf,
		oomKills: func() uint64 {
			n, _ := cgroup.Self().OOMKills() // a cgroup that cannot be read proves nothing
			return n
		},
		// The keeper lives as long as we do or our lifeline ends: an error here is
		// the beginning of that end, and not ours to handle.
		store:  func(name string, fds ...int) { _ = keeper.SendFiles(fds, notify.StoreFD, notify.FDName(name)) },
		remove: func(name string) { _ = keeper.Send(notify.RemoveFD, notify.FDName(name)) },
		tell:   func(state ...string) { _ = keeper.Send(state...) },
		inbox:  workers,
	}
}

// startProcess forks and execs a worker in a session and process group of its
// own. Descriptors go by number: an os.File around a listener would clear
// O_NONBLOCK for all who share it (golang/go#29277).
func startProcess(l launch) (int, func(), error) {
	pidfd := -1
	pid, err := syscall.ForkExec(l.path, l.args, &syscall.ProcAttr{
		Env: l.env, Files: l.files, Sys: &syscall.SysProcAttr{Setsid: true, PidFD: &pidfd},
	})
	if err != nil {
		return 0, nil, fmt.Errorf("cannot execute %s: %w", l.path, err)
	}
	return pid, func() { waitProcess(pid, pidfd) }, nil
}

// waitProcess waits in the runtime's poller, by the pidfd, so that 64 workers
// cost no thread; where the kernel gives no pidfd, it blocks one. The group is
// killed while the dead leader still holds its number.
func waitProcess(pid, pidfd int) {
	if pidfd >= 0 {
		awaitPidfd(pidfd, func(fd int) bool { return exited(unix.P_PIDFD, fd, unix.WNOHANG) })
	} else {
		exited(unix.P_PID, pid, 0)
	}
	_ = unix.Kill(-pid, unix.SIGKILL)
}

// reapProcess does not wait: the process is dead.
func reapProcess(pid int) unix.WaitStatus {
	var status unix.WaitStatus
	for {
		if _, err := unix.Wait4(pid, &status, 0, nil); err != unix.EINTR {
			return status
		}
	}
}

// exited looks for a dead child without reaping it.
func exited(kind, id, flags int) bool {
	for {
		var info unix.Siginfo
		err := unix.Waitid(kind, id, &info, unix.WEXITED|unix.WNOWAIT|flags, nil)
		if err != unix.EINTR {
			return err != nil || info.Signo != 0
		}
	}
}

// awaitPidfd owns the descriptor and returns when gone says so. It asks at once
// and whenever the pidfd becomes readable.
func awaitPidfd(pidfd int, gone func(fd int) bool) {
	_ = unix.SetNonblock(pidfd, true)
	f := os.NewFile(uintptr(pidfd), "pidfd")
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Read(func(fd uintptr) bool { return gone(int(fd)) })
}

func memoryOf(pid int) int64 {
	p, err := procfs.NewProc(pid)
	if err != nil {
		return 0
	}
	stat, err := p.Stat()
	if err != nil {
		return 0
	}
	return int64(stat.ResidentMemory())
}
