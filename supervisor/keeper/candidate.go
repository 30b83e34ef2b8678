package keeper

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"revenant/supervisor/notify"
)

// A candidate is a master that the master started, at an upgrade. It says so itself (MAINPID=, as a
// question) and is given what a master that we start inherits. It becomes the master when it says
// READY=1, or when the one that started it dies. Until then what it stores is set apart, and with it
// goes its generation.

// ancestry is how many parents of a candidate are looked at to find the master.
const ancestry = 4

// apply makes a candidate of the process that says MAINPID=, if it may be one.
func (k *keeper) apply(m notify.Message, now time.Time) {
	generation, err := k.admit(m)
	var line, pidfd int
	if err == nil {
		line, err = notify.Detach(m.Files[0])
	}
	if err == nil {
		if pidfd, err = unix.PidfdOpen(m.PID, 0); err != nil { // it has gone already
			unix.Close(line)
		}
	}
	if err != nil {
		k.Logger.Warn("candidate refused", "pid", m.PID, "err", err)
		return
	}
	k.candidate = master{pid: m.PID, generation: generation, startedAt: now, succeeds: true, line: line}
	k.started = max(k.started, generation)
	// Ends with the candidate, or with this process; loop takes what it sends until then.
	go func() {
		awaitDeath(pidfd)
		select {
		case k.gone <- m.PID:
		case <-k.done:
		}
	}()
	k.Logger.Debug("candidate started", "generation", generation, "pid", m.PID)
	k.bequeath(line)
}

// admit says why a process may not be the candidate, else which generation it begins.
func (k *keeper) admit(m notify.Message) (generation int, err error) {
	if k.candidate.pid != 0 && !running(k.candidate.pid) {
		k.candidateDied(k.candidate.pid, time.Now())
	}
	said, _ := m.Value(notify.MainPID)
	number, _ := m.Value(notify.GenerationVariable)
	generation, _ = strconv.Atoi(number)
	vars := environOf(m.PID)
	switch {
	case said != strconv.Itoa(m.PID):
		return 0, fmt.Errorf("it says MAINPID=%s, which is not itself", said)
	case len(m.Files) != 1:
		return 0, fmt.Errorf("it does not ask for what is stored")
	case m.UID != uint32(os.Geteuid()):
		return 0, fmt.Errorf("it runs as another user, %d", m.UID)
	case vars[notify.InstanceVariable] != k.Instance || vars[notify.RoleVariable] != notify.RoleMaster:
		return 0, fmt.Errorf("it is no master of this instance")
	case !k.descends(m.PID):
		return 0, fmt.Errorf("the master did not start it")
	case k.candidate.pid != 0:
		return 0, fmt.Errorf("there is one, pid %d", k.candidate.pid)
	case k.ending || k.stops > 0 || k.master.stopping:
		return 0, fmt.Errorf("the instance is stopping")
	case generation <= k.started:
		return 0, fmt.Errorf("generation %d is not a new one", generation)
	}
	return generation, nil
}

// descends tells whether the master started a process, or a master did that has died since.
func (k *keeper) descends(pid int) bool {
	for range ancestry {
		switch pid = parentOf(pid); pid {
		case 0, 1:
			return pid == 1 && os.Getpid() == 1
		case k.master.pid, os.Getpid():
			return true
		}
	}
	return false
}

// bequeath sends a candidate all that the next master would inherit. A packet holds as many names
// and descriptors as the protocol allows; the last one has no X_REVENANT_MORE.
func (k *keeper) bequeath(line int) {
	all := append(store{{"lifeline", k.lifeline[0]}}, k.store...)
	for len(all) > 0 {
		n, size := 0, 0
		for n < len(all) && n < 200 && size+len(all[n].name) < 3000 {
			size += len(all[n].name) + 1
			n++
		}
		state := []string{notify.NamesVariable + "=" + strings.Join(all[:n].names(), ":")}
		if n < len(all) {
			state = append(state, notify.MoreVariable+"=1")
		}
		fds := make([]int, n)
		for i, e := range all[:n] {
			fds[i] = e.fd
		}
		if err := notify.Reply(line, fds, state...); err != nil {
			k.Logger.Error("cannot give the candidate what is stored", "err", err)
			return
		}
		all = all[n:]
	}
}

// relay lets a successor hear of what its predecessors store and remove, until it is alone.
func (k *keeper) relay(from int, files []int, state ...string) {
	for _, m := range []master{k.candidate, k.master} {
		if m.line != 0 && m.pid != from {
			_ = notify.Reply(m.line, files, state...) // one that does not read is told nothing
		}
	}
}

// candidateDied takes back all that was done for one that never became the master.
func (k *keeper) candidateDied(pid int, now time.Time) {
	if pid != k.candidate.pid {
		return
	}
	c := k.candidate
	k.candidate = master{}
	c.hangUp()
	c.store.clear()
	k.Logger.Warn("candidate died", "generation", c.generation, "pid", pid, "uptime", humane(now.Sub(c.startedAt)))
	k.limboPause = limboPause
	k.look(now)
	if k.lookAt.IsZero() {
		k.lookAt = now.Add(lookAgain) // its workers become ours when it is reaped
	}
}

// departed acts on the end of a candidate, which may have become the master since. One whose parent
// lives is not our child: nobody tells us its status.
func (k *keeper) departed(pid int, now time.Time) {
	k.read(now) // what it said before it died counts
	k.candidateDied(pid, now)
	if pid != k.master.pid {
		return
	}
	if err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil); err != unix.ECHILD {
		return // reap will
	}
	k.died(now, false, "err", fmt.Errorf("it ended before the master that had started it"))
}

// promote makes the candidate the master.
func (k *keeper) promote(now time.Time) {
	former := k.master
	k.master, k.candidate = k.candidate, master{}
	k.deaths, k.kills, k.startAt = 0, 0, time.Time{}
	for _, name := range k.master.store.names() {
		if name != executableName { // which is ours when it is ready
			k.store.put(name, k.master.store.take(name))
		}
	}
	if former.pid != 0 {
		former.hangUp()
		k.leaving[former.pid] = now.Add(masterGrace)
	}
	k.Logger.Info("master succeeds", "generation", k.master.generation, "pid", k.master.pid, "former", former.generation)
	k.awake() // it spoke when it applied
	k.alone()
	if k.stops > 0 { // the former one was told, and had left already
		k.tell(unix.SIGTERM)
	}
}

// left notes the end of a master that was succeeded.
func (k *keeper) left(pid int, status syscall.WaitStatus) {
	delete(k.leaving, pid)
	k.Logger.Debug("former master left", "pid", pid, cause(status))
	k.alone()
}

// alone tells the master, once, that no earlier one lives.
func (k *keeper) alone() {
	if len(k.leaving) == 0 {
		k.master.hangUp()
	}
}

func (m *master) hangUp() {
	if m.line != 0 {
		unix.Close(m.line)
		m.line = 0
	}
}

// running tells whether a process lives: one that is dead and not reaped does not.
func running(pid int) bool {
	fields := statOf(pid)
	return len(fields) > 0 && fields[0] != "Z" && fields[0] != "X"
}

// awaitDeath owns the pidfd and returns when its process has died.
func awaitDeath(pidfd int) {
	_ = unix.SetNonblock(pidfd, true)
	f := os.NewFile(uintptr(pidfd), "pidfd")
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n > 0 || err != nil && err != unix.EINTR
	})
}
