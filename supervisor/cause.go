package supervisor

import (
	"cmp"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor/notify"
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
	causeHang         cause = "hang"          // alive and did nothing, killed by us
	causeDrainTimeout cause = "drain-timeout" // not gone in time, killed by us
	causeCannotStart  cause = "cannot-start"  // it never came to be the program
	causeMemoryLimit  cause = "memory-limit"  // asked to leave because it had grown beyond max-memory
	causeUnknown      cause = "unknown"       // nobody who could tell us saw it
	causeOOM          cause = "oom"           // SIGKILL that nobody here sent while the cgroup's oom_kill count rose
)

// judge says why a worker ended and what that means for its slot.
func (m *Master) judge(c *child, status unix.WaitStatus) (cause, trigger) {
	m.lookForOOM()
	oom := status.Signaled() && status.Signal() == unix.SIGKILL && c.killed == "" && m.oom.claim()
	switch {
	case c.life.hung != "":
		return causeHang, exitCrashed
	case c.unborn:
		return causeCannotStart, exitCrashed
	case c.killed == causeStartTimeout:
		return causeStartTimeout, exitCrashed
	case c.killed != "":
		return c.killed, exitPlanned
	case c.chaos != "" && endsChaos(c.chaos, status):
		return causeChaos, exitPlanned
	case c.asked != 0 && answers(status, c.asked) && c.reason == reasonMaxMemory:
		return causeMemoryLimit, exitPlanned
	case c.asked != 0 && answers(status, c.asked):
		return causeRequested, exitPlanned
	case oom:
		return causeOOM, exitCrashed
	}
	return plainCause(status), endOf(c, status)
}

// judgeOrphan says why a worker ended whose master had gone, from what the keeper
// saw and sent, and from what that master had noted on the board.
func (m *Master) judgeOrphan(o *orphan, end notify.Ended) cause {
	m.lookForOOM()
	killed := end.Status.Signaled() && end.Status.Signal() == unix.SIGKILL
	asked := cmp.Or(end.Asked, o.board.Asked())
	switch {
	case end.Killed && killed:
		return causeDrainTimeout
	case asked != 0 && answers(end.Status, asked):
		return causeRequested
	case killed && m.oom.claim():
		return causeOOM
	}
	return plainCause(end.Status)
}

// oomKills is the cgroup's count of OOM kills and how many of the newest are not
// yet put down to a worker: the kernel may kill several before we hear of one,
// and may kill what was no worker of ours.
type oomKills struct {
	count     uint64
	unclaimed uint64
	rose      time.Time
}

// oomMemory is how long after the rise a death may still be put down to it.
const oomMemory = time.Second

// beginOOM goes on where the master before looked last: workers that ended when
// none lived are accounted for in the next moment.
func (m *Master) beginOOM() {
	m.oom.count = m.platform.oomKills()
	if m.alone {
		m.oom.count = m.state.oomKillsOr(m.oom.count)
		m.lookForOOM()
	}
}

// lookForOOM is called at every exit and now and then, so that a rise is not kept
// for a later exit. What the master before accounted for while this one began is
// not ours.
func (m *Master) lookForOOM() {
	now := m.platform.oomKills()
	if time.Since(m.oom.rose) > oomMemory {
		m.oom.unclaimed = 0
	}
	if now > m.oom.count {
		m.oom.unclaimed += now - m.oom.count
		m.oom.count, m.oom.rose = now, time.Now()
	}
	if m.alone {
		m.state.setOOMKills(now)
	}
}

func (o *oomKills) claim() bool {
	if o.unclaimed == 0 {
		return false
	}
	o.unclaimed--
	return true
}

// chaosEnds are the ends that the modes of /workerKiller lead to. A worker that
// was chosen to die and dies in another way was ended by something else. The
// modes that only make it sick are not here: whatever ends it then is their doing.
var chaosEnds = map[string]func(unix.WaitStatus) bool{
	"graceful": func(s unix.WaitStatus) bool { return s.Exited() && s.ExitStatus() == 0 },
	"exit":     func(s unix.WaitStatus) bool { return s.Exited() && s.ExitStatus() == 1 },
	"panic":    func(s unix.WaitStatus) bool { return s.Exited() && s.ExitStatus() == goFatal },
	"kill":     func(s unix.WaitStatus) bool { return s.Signaled() && s.Signal() == unix.SIGKILL },
	"segv":     func(s unix.WaitStatus) bool { return s.Signaled() && s.Signal() == unix.SIGSEGV },
}

// goFatal is the exit code of a Go program that panics, or that answers SIGQUIT,
// SIGABRT or SIGSEGV with its stack traces.
const goFatal = 2

// shellSignal and a signal's number are the exit code of a shell, a Java machine
// and others that end in good order because of it.
const shellSignal = 128

func endsChaos(mode string, status unix.WaitStatus) bool {
	expected, known := chaosEnds[mode]
	return !known || expected(status)
}

// answers tells whether an end is what the signal that we sent leads to.
func answers(status unix.WaitStatus, sent unix.Signal) bool {
	switch {
	case status.Signaled():
		return status.Signal() == sent
	case status.ExitStatus() == shellSignal+int(sent):
		return true
	case status.ExitStatus() == goFatal:
		return sent == unix.SIGQUIT || sent == unix.SIGABRT || sent == unix.SIGSEGV
	}
	return status.ExitStatus() == 0
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
