package supervisor

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor/event"
)

// A worker that hangs is alive to the kernel and to nobody else. It is found by
// what it owes: an answer through its door, when it is built with package worker;
// WATCHDOG=1, once it has said that for the first time; an answer to the liveness
// probe, when there is one (liveprobe.go); and by what is seen from outside
// (look.go). All are measured over Settings.Liveness, and none while we ourselves
// were late: whoever froze us froze the workers too.

const (
	// looksPerInterval is how often a worker is looked at and asked. It is hung when
	// the interval has passed, so it is found a quarter later at the latest, or two
	// quarters when one look must be compared with the next.
	looksPerInterval = 4
	longestLook      = 15 * time.Second
	// probesPerInterval is how often when there is a probe: chance needs some tries.
	probesPerInterval = 8
	// closeLooks is how often while one is under suspicion: what happens between two
	// looks and leaves no trace must not look like standstill.
	closeLooks   = 32
	shortestLook = 20 * time.Millisecond
	// costShare bounds what close looks cost: a twentieth of the time.
	costShare = 20
	// dumpTime is how long a worker may take to dump what it does, after SIGABRT.
	dumpTime = 2 * time.Second
	// lateness is how late we may be without suspicion that the machine stood still.
	lateness = 500 * time.Millisecond
)

// life is what the master knows of a worker's liveness. Times are zero when there
// is nothing to say.
type life struct {
	interval time.Duration // 0: it is not watched
	beat     time.Time     // the newest sign of life
	owes     string        // what it owes one by: an answer, or WATCHDOG=1
	asking   bool          // a question is under way
	debt     debt
	dead     [signs]time.Time
	cpu      uint64
	work     *work     // at the last look, nil when it was not to be seen
	workAt   time.Time // when that was
	hung     string    // why it is taken for hung
	killAt   time.Time // by when it must have dumped and ended
}

// watch begins to watch a worker that is ready.
func (m *Master) watch(c *child) {
	c.life = life{interval: m.cfg.Liveness, beat: time.Now(), owes: c.life.owes}
	if c.door >= 0 {
		c.life.owes = "it answered no request"
	}
	m.lookSoon(m.closePause())
}

func (c *child) watched() bool {
	return c.life.interval > 0 && !c.ready.IsZero() && !c.draining() && c.life.hung == ""
}

// beats notes a sign of life.
func (m *Master) beats(c *child, message string) {
	switch {
	case message == "trigger":
		m.hung(c, "it said so (WATCHDOG=trigger)")
	case message == "1":
		c.life.beat = time.Now()
		if c.life.owes == "" {
			c.life.owes = "it did not say WATCHDOG=1"
		}
	}
}

// watchDue is when the workers are looked at next, zero for never.
func (m *Master) watchDue() time.Time {
	if m.cfg.Liveness <= 0 || m.phase != running {
		return time.Time{}
	}
	if m.vigil.next.IsZero() {
		m.vigil.next = time.Now().Add(m.lookPause())
	}
	return m.vigil.next
}

// lookPause is the time between two looks, and closePause under suspicion.
func (m *Master) lookPause() time.Duration {
	if m.cfg.LivenessProbe != "" {
		return min(m.cfg.Liveness/probesPerInterval, longestLook)
	}
	return min(m.cfg.Liveness/looksPerInterval, longestLook)
}

func (m *Master) closePause() time.Duration {
	return min(max(m.cfg.Liveness/closeLooks, shortestLook, costShare*m.vigil.cost), m.lookPause())
}

// lookSoon brings the next look forward.
func (m *Master) lookSoon(pause time.Duration) {
	if soon := time.Now().Add(pause); soon.Before(m.vigil.next) {
		m.vigil.next = soon
	}
}

// vigil is the loop's book of all workers' liveness.
type vigil struct {
	acquaintance
	next    time.Time     // look
	all     time.Time     // when they are all asked and looked at next, and not only suspects
	looking bool          // a look is under way
	cost    time.Duration // of the last one
	probes  int           // under way
	queues  map[string]*queue
	due     time.Time // of the timer
}

// acquaintance is what is known of the workers' program.
type acquaintance struct {
	program time.Time // since when it is what it is
	waits   bool      // a worker of it was seen waiting for connections: it shows
	answers bool      // it answers probes
	blind   bool      // it was said that probes are of no use
}

// newProgram forgets what is known of the workers' program, or of how it is asked.
func (v *vigil) newProgram() { v.acquaintance = acquaintance{program: time.Now()} }

// keepWatch judges the workers by what is known, asks them and looks at them anew.
func (m *Master) keepWatch(now time.Time) {
	for _, c := range m.children {
		if k := c.life.killAt; !k.IsZero() && !now.Before(k) {
			c.life.killAt = time.Time{}
			m.kill(c, causeHang)
		}
	}
	if due := m.watchDue(); due.IsZero() || now.Before(due) {
		return
	}
	all := !now.Before(m.vigil.all) || m.vigil.all.Sub(now) > m.lookPause() // or the interval is shorter now
	if all {
		m.vigil.all = now.Add(m.lookPause())
	}
	m.vigil.next = m.vigil.all
	m.lookForOOM() // it may have met no worker
	for _, c := range m.children {
		if !c.watched() {
			continue
		}
		if why := c.silent(now, m.vigil.answers); why != "" {
			m.hung(c, why)
		} else if all {
			m.askAlive(c)
		}
	}
	if all {
		m.sendProbes(now)
	}
	m.lookAt(all)
}

// silent says what a worker did not say for its interval; not to answer a probe
// counts when the program does answer it.
func (c *child) silent(now time.Time, answers bool) string {
	l := &c.life
	passed := func(since time.Time) bool { return !since.IsZero() && now.Sub(since) >= l.interval }
	switch {
	case l.owes != "" && passed(l.beat):
		return fmt.Sprintf("%s for %v", l.owes, l.interval)
	case answers && passed(l.debt.since):
		return fmt.Sprintf("%s for %v", l.debt.what, l.interval)
	case l.debt.bad.lasted() >= l.interval:
		return fmt.Sprintf("%s for %v", l.debt.bad.what, l.interval)
	}
	return ""
}

// askAlive sends a request through the worker's door. Any answer is a sign of
// life, an error too: only silence is none. Of a liveness probe, which an operator
// chose, more is expected, once it was met.
func (m *Master) askAlive(c *child) {
	if c.door < 0 || c.life.asking {
		return
	}
	c.life.asking = true
	method, path, named := http.MethodHead, m.cfg.ProbePath, m.cfg.LivenessProbe != ""
	if named {
		method, path = http.MethodGet, m.cfg.LivenessProbe
	}
	m.question(c, method, path, time.Now().Add(2*c.life.interval), func(err error) {
		c.life.asking = false
		if named {
			m.learns(c, path, err)
		}
		var status *StatusError
		switch {
		case err == nil, errors.As(err, &status) && !(named && m.vigil.answers):
			c.life.beat = time.Now()
		case status != nil:
			c.life.owes = badAnswer(path, status)
		case !errors.Is(err, os.ErrDeadlineExceeded):
			c.closeDoor() // it can be asked no more, and owes nothing
			c.life.owes = ""
		}
	})
}

// hung ends a worker that hangs: it may say first what it is doing, by the signal
// at which Go and others print their stacks.
func (m *Master) hung(c *child, why string) {
	if !c.watched() {
		return
	}
	c.life.hung, c.detail, c.life.killAt = why, why, time.Now().Add(dumpTime)
	e := m.about(c, event.WorkerHung)
	e.Message = why
	m.publish(e)
	m.platform.kill(c.pid, unix.SIGABRT)
	m.platform.kill(c.pid, unix.SIGCONT) // or one that is stopped would not hear it
}

// forgive moves all that is measured in time by how late we are: what was not
// heard or done while the machine stood still is nobody's fault.
func (m *Master) forgive(late time.Duration) {
	shift := func(t *time.Time) {
		if !t.IsZero() {
			*t = t.Add(late)
		}
	}
	for _, c := range m.children {
		shift(&c.deadline)
		shift(&c.permit)
		shift(&c.life.beat)
		shift(&c.life.killAt)
		shift(&c.life.debt.since)
		shift(&c.life.debt.bad.first)
		shift(&c.life.debt.bad.last)
		shift(&c.life.workAt)
		for i := range c.life.dead {
			shift(&c.life.dead[i])
		}
	}
	for _, s := range m.seats {
		if s.slot.phase == starting {
			shift(&s.slot.began)
		}
	}
	for _, q := range m.vigil.queues {
		shift(&q.since)
	}
}

// punctual tells forgive when the timer comes late, measured by what it was set to.
func (m *Master) punctual(now time.Time) {
	if late := now.Sub(m.vigil.due); !m.vigil.due.IsZero() && late > lateness {
		m.forgive(late)
	}
}
