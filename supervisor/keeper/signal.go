package keeper

import (
	"cmp"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// caught lists every signal that can be caught. Those we do nothing about are caught too, not
// ignored: an ignored signal stays ignored in every program started from here. SIGURG is the Go
// runtime's own; 32 to 34 are C libraries', and it catches them for nobody.
func caught() []os.Signal {
	var all []os.Signal
	for s := syscall.Signal(1); s <= 64; s++ {
		switch s {
		case syscall.SIGKILL, syscall.SIGSTOP, syscall.SIGCHLD, syscall.SIGURG, 32, 33, 34:
		default:
			all = append(all, s)
		}
	}
	return all
}

// blockTTOU blocks or unblocks SIGTTOU on the caller's thread alone; who sends it to the process is
// heard on another. Blocked, it is not sent for what the thread writes to a terminal with "stty
// tostop" whose foreground others have: it would be taken for "one worker less", and the write,
// interrupted by it, be tried again for ever.
func blockTTOU(how int) {
	var set unix.Sigset_t
	set.Val[0] = 1 << (unix.SIGTTOU - 1)
	_ = unix.PthreadSigmask(how, &set, nil)
}

// signal does what a signal to the keeper asks for.
func (k *keeper) signal(s syscall.Signal, now time.Time) {
	switch s {
	case syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT:
		k.stop(s, now)
	case syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGTTIN, syscall.SIGTTOU:
		k.wish(s)
	default:
		if !k.ignored[s] { // once: a terminal sends some again and again
			k.ignored[s] = true
			k.Logger.Info("signal ignored", "signal", signalName(s))
		}
	}
}

// stop ends the instance gently the first time and at once the second. The first time the master
// gets SIGTERM in any case, which ends it without a word also when it cannot hear yet.
func (k *keeper) stop(s syscall.Signal, now time.Time) {
	k.stops++
	switch {
	case k.stops == 1:
		k.Logger.Info("stopping", "signal", signalName(s), "drain_timeout", humane(k.DrainTimeout))
		k.stoppingAbove(k.DrainTimeout)
		if k.master.pid == 0 && !k.ending {
			k.end(0, now)
			return
		}
		k.killBy(now.Add(k.DrainTimeout + masterGrace))
		k.tell(syscall.SIGTERM)
	case k.stops == 2:
		k.Logger.Warn("stopping at once", "signal", signalName(s), "kill_in", humane(haste))
		k.code = 128 + int(s)
		k.killBy(now.Add(haste))
		k.tell(s)
	}
}

// wish hands on a signal that is no end. One that came before a master knows what to do with it would
// end that: it waits.
func (k *keeper) wish(s syscall.Signal) {
	if k.master.pid != 0 && k.master.heard {
		k.tell(s)
	} else if len(k.wishes) < maxWishes {
		k.wishes = append(k.wishes, s)
	}
}

// awake notes that the master can hear, and hands on what waited for that.
func (k *keeper) awake() {
	if k.master.heard {
		return
	}
	k.master.heard = true
	for _, s := range k.wishes {
		k.tell(s)
	}
	k.wishes = nil
}

// tell sends a signal to the master, if there is one.
func (k *keeper) tell(s syscall.Signal) {
	if k.master.pid != 0 {
		unix.Kill(k.master.pid, s)
	}
}

// killAll sends SIGKILL to everything below: all of the PID namespace where that is ours, else our
// children, whose children become ours by it and are met the next time.
func killAll() {
	if os.Getpid() == 1 {
		unix.Kill(-1, syscall.SIGKILL)
		return
	}
	for _, pid := range children() {
		kill(pid)
	}
}

// kill sends SIGKILL to a child and to the group it leads. The child is not reaped yet, so nobody
// else can have its number.
func kill(pid int) {
	unix.Kill(-pid, syscall.SIGKILL)
	unix.Kill(pid, syscall.SIGKILL)
}

// signalName is a signal's name, a number for those that have none.
func signalName(s syscall.Signal) string { return cmp.Or(unix.SignalName(s), strconv.Itoa(int(s))) }
