package keeper

import (
	"slices"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
	"revenant/supervisor/notify"
)

// maxEnds bounds what is remembered for masters that ask.
const maxEnds = 256

// end is how a child ended that was no master. The number of a process is used again, so that it is
// known by when it began, too.
type end struct {
	pid   int
	began uint64 // in clock ticks since the machine booted
	notify.Ended
}

// remember keeps the newest ends: a master asks when it sees that a worker of an earlier one has gone,
// or when it begins.
func (k *keeper) remember(pid int, began uint64, status syscall.WaitStatus, o *orphan, now time.Time) {
	e := end{pid, began, notify.Ended{Status: unix.WaitStatus(status), Time: now}}
	if o != nil {
		e.Asked, e.Killed = o.asked, o.killed
	}
	if len(k.ends) == maxEnds {
		k.ends = slices.Delete(k.ends, 0, 1)
	}
	k.ends = append(k.ends, e)
}

// tellEnd answers a master that asks how a child of ours ended, as far as we know: it closes the
// question else.
func (k *keeper) tellEnd(m notify.Message, now time.Time) {
	pid, began, asks := m.AsksEnd()
	if !asks {
		return
	}
	// It may have seen the end before we did.
	if !k.isMaster(pid) && k.collect(pid, now) {
		k.look(now)
	}
	for _, e := range k.ends {
		if e.pid == pid && e.began == began {
			_ = m.Answer(nil, e.Assignment()) // one that does not wait for it is told nothing
			return
		}
	}
}

// collect reaps one child that is no master, if it is dead.
func (k *keeper) collect(pid int, now time.Time) bool {
	status, began, ok := k.take(pid)
	if ok {
		k.buried(pid, began, status, now)
	}
	return ok
}

// take reaps one child, if it is dead, and says when it began.
func (k *keeper) take(pid int) (status syscall.WaitStatus, began uint64, ok bool) {
	began = beganOf(pid)
	if got, err := syscall.Wait4(pid, &status, syscall.WNOHANG, nil); err != nil || got != pid {
		return 0, 0, false // interrupted, too
	}
	if !k.leaveAt.IsZero() && status.Signaled() && status.Signal() == syscall.SIGKILL {
		k.cut++
	}
	return status, began, true
}

// nextDead is a child that is dead and not reaped, 0 when there is none; the error is ECHILD when there
// is no child at all. What /proc says of it is there until it is reaped.
func nextDead() (pid int, err error) { return peek(unix.P_ALL, 0) }

// dead tells whether a child is dead and not reaped.
func dead(pid int) bool {
	found, err := peek(unix.P_PID, pid)
	return err == nil && found == pid
}

// peek finds a dead child without reaping it.
func peek(kind, id int) (pid int, err error) {
	for {
		var info unix.Siginfo
		err := unix.Waitid(kind, id, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if err != unix.EINTR {
			return int(*(*int32)(unsafe.Add(unsafe.Pointer(&info), siginfoPID))), err
		}
	}
}

// siginfoPID is where si_pid stands, which package unix hides: behind three numbers, on the boundary of
// a pointer.
const siginfoPID = (3*4 + unsafe.Sizeof(uintptr(0)) - 1) &^ (unsafe.Sizeof(uintptr(0)) - 1)

// beganOf is when a process began, dead ones included, 0 when unknown.
func beganOf(pid int) uint64 {
	fields := statOf(pid)
	if len(fields) < 20 {
		return 0
	}
	began, _ := strconv.ParseUint(fields[19], 10, 64)
	return began
}
