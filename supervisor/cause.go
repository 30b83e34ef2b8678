package supervisor

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// cause is why a worker ended, in the words that ps, events and the log share.
// It is established from the wait status, from what we sent and from the
// cgroup's count of OOM kills; where those do not tell, the word is what the
// wait status says and nothing more.
type cause string

const (
	causeRequested    cause = "requested"     // operator, scale, stop
	causeChaos        cause = "chaos"         // a client's /workerKiller, granted
	causeStartTimeout cause = "start-timeout" // not READY in time, killed by us
	causeDrainTimeout cause = "drain-timeout" // not gone in time, killed by us
	causeOOM          cause = "oom"           // SIGKILL that nobody here sent while the cgroup's oom_kill count rose
)

// judge says why a worker ended and what that means for its slot.
func (m *Master) judge(c *child, status unix.WaitStatus) (cause, trigger) {
	oom := false
	if status.Signaled() && status.Signal() == unix.SIGKILL && c.killed == "" {
		oom = m.oomRose()
	}
	switch {
	case c.killed == causeStartTimeout:
		return causeStartTimeout, exitCrashed
	case c.killed != "":
		return c.killed, exitPlanned
	case c.chaos != "":
		return causeChaos, exitPlanned
	case c.asked:
		return causeRequested, exitPlanned
	case oom:
		return causeOOM, exitCrashed
	}
	return plainCause(status), endOf(c, status)
}

// oomRose tells whether the cgroup killed something since we last looked.
func (m *Master) oomRose() bool {
	now := m.platform.oomKills()
	rose := now > m.oomKills
	m.oomKills = now
	return rose
}

func plainCause(status unix.WaitStatus) cause {
	if status.Signaled() {
		return cause("signal " + signalName(status.Signal()))
	}
	return cause(fmt.Sprintf("exit %d", status.ExitStatus()))
}

// endOf tells a worker that somebody killed from one that fell over by itself.
func endOf(c *child, status unix.WaitStatus) trigger {
	switch {
	case c.ready.IsZero():
		return exitCrashed
	case status.Signaled() && !selfRaised[status.Signal()]:
		return exitKilled
	case status.Exited() && status.ExitStatus() == 0 && c.draining():
		return exitPlanned // somebody's SIGTERM, answered in good order
	}
	return exitCrashed
}

// selfRaised are the signals by which a program ends itself.
var selfRaised = map[unix.Signal]bool{
	unix.SIGSEGV: true, unix.SIGABRT: true, unix.SIGBUS: true, unix.SIGFPE: true, unix.SIGILL: true,
	unix.SIGTRAP: true, unix.SIGSYS: true, unix.SIGPIPE: true, unix.SIGALRM: true, unix.SIGXCPU: true, unix.SIGXFSZ: true,
}
