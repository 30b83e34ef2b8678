package supervisor

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor/event"
	"revenant/supervisor/tree"
)

// A worker that hangs is alive to the kernel and to nobody else. It is found by
// what it owes: an answer through its door, when it is built with package worker;
// WATCHDOG=1, once it has said that for the first time; and from outside what no
// worker that serves does for long: to be stopped, to sleep uninterruptibly, to
// have closed the listener, or to use no CPU while connections wait and nobody
// takes one. All are measured over Settings.Liveness, and none while we ourselves
// were late: whoever froze us froze the workers too.

const (
	// looksPerInterval is how often a worker is looked at and asked. It is hung when
	// the interval has passed, so it is found a quarter later at the latest.
	looksPerInterval = 4
	longestLook      = 15 * time.Second
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
	dead     [signs]time.Time
	cpu      uint64
	hung     string    // why it is taken for hung
	killAt   time.Time // by when it must have dumped and ended
}

// sign is what is seen from outside, and since when is in life.dead.
type sign int

const (
	stopped         sign = iota // in state T
	uninterruptible             // in state D, and used no CPU
	listenless                  // nothing of it holds a listener
	idle                        // used no CPU
	signs
)

// seen is one look from outside.
type seen struct {
	state      byte
	cpu        uint64
	listenless bool
}

// watch begins to watch a worker that is ready.
func (m *Master) watch(c *child) {
	c.life = life{interval: m.cfg.Liveness, beat: time.Now(), owes: c.life.owes}
	if c.door >= 0 {
		c.life.owes = "it answered no request"
	}
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

func (m *Master) lookPause() time.Duration {
	return min(m.cfg.Liveness/looksPerInterval, longestLook)
}

// vigil is the loop's book of all workers' liveness.
type vigil struct {
	next    time.Time // look
	looking bool      // one is under way
	queues  map[string]*queue
	due     time.Time // of the timer
}

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
	m.vigil.next = now.Add(m.lookPause())
	for _, c := range m.children {
		if !c.watched() {
			continue
		}
		if why := c.silent(now); why != "" {
			m.hung(c, why)
			continue
		}
		m.askAlive(c)
	}
	m.lookAtAll()
}

// silent says what a worker did not do for its interval.
func (c *child) silent(now time.Time) string {
	l := &c.life
	passed := func(since time.Time) bool { return !since.IsZero() && now.Sub(since) >= l.interval }
	switch {
	case l.owes != "" && passed(l.beat):
		return fmt.Sprintf("%s for %v", l.owes, l.interval)
	case passed(l.dead[stopped]):
		return fmt.Sprintf("it is stopped (SIGSTOP) since %v", l.interval)
	case passed(l.dead[uninterruptible]):
		return fmt.Sprintf("it sleeps uninterruptibly (state D) since %v", l.interval)
	case passed(l.dead[listenless]):
		return fmt.Sprintf("it closed the listener, %v ago or more", l.interval)
	}
	return ""
}

// askAlive sends a request through the worker's door. Any answer is a sign of
// life, an error too: only silence is none.
func (m *Master) askAlive(c *child) {
	if c.door < 0 || c.life.asking {
		return
	}
	c.life.asking = true
	m.question(c, http.MethodHead, time.Now().Add(2*c.life.interval), func(err error) {
		c.life.asking = false
		var status *StatusError
		switch {
		case err == nil || errors.As(err, &status):
			c.life.beat = time.Now()
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

// lookAtAll looks at all workers from outside, beside the loop.
func (m *Master) lookAtAll() {
	if m.vigil.looking || m.platform.see == nil {
		return
	}
	m.vigil.looking = true
	pids := map[uint64]int{}
	for id, c := range m.children {
		if c.watched() {
			pids[id] = c.pid
		}
	}
	var held []uint64
	if m.cfg.Program.External() {
		held = inodes(m.cfg.Sockets)
	}
	waiting := m.waiting()
	see := m.platform.see
	// Ends when all were looked at; nobody waits for it.
	go func() {
		found := make(map[uint64]seen, len(pids))
		for id, pid := range pids {
			found[id] = see(pid, held)
		}
		m.send(func() { m.saw(found, waiting) })
	}()
}

// seeProcess looks at a worker and its descendants. Whether one holds a listener
// is asked when there are inodes; what cannot be seen is not held against it.
func seeProcess(pid int, sockets []uint64) seen {
	s := seen{state: tree.StatOf(pid).State, listenless: len(sockets) > 0}
	for _, p := range tree.Of(pid) {
		s.cpu += tree.StatOf(p).CPU
		if s.listenless {
			holds, err := tree.Holds(p, sockets)
			s.listenless = !holds && err == nil
		}
	}
	return s
}

// saw takes in what a look found.
func (m *Master) saw(found map[uint64]seen, waiting map[string][]string) {
	m.vigil.looking = false
	now := time.Now()
	stuck := m.stuck(waiting, now)
	for id, s := range found {
		c := m.children[id]
		if c == nil || !c.watched() || s.state == 0 {
			continue
		}
		same := s.cpu == c.life.cpu
		c.life.cpu = s.cpu
		c.life.note(stopped, s.state == 'T', now)
		c.life.note(uninterruptible, s.state == 'D' && same, now)
		c.life.note(listenless, s.listenless, now)
		c.life.note(idle, same, now)
		if since := c.life.dead[idle]; stuck != "" && !since.IsZero() && now.Sub(since) >= c.life.interval {
			m.hung(c, stuck+", and it used no CPU meanwhile")
		}
	}
}

// note keeps since when a sign is seen without a break.
func (l *life) note(s sign, is bool, now time.Time) {
	switch {
	case !is:
		l.dead[s] = time.Time{}
	case l.dead[s].IsZero():
		l.dead[s] = now
	}
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
