package supervisor

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"revenant/supervisor/sockdiag"
	"revenant/supervisor/tree"
)

// What no worker that serves does for long, as it is seen from outside, without a
// word of its own. A worker that says nothing at all, neither through a door nor
// WATCHDOG=1, is looked at more closely: whether it sleeps for connections, and if
// not, whether it serves those that it has. One that computes for a client, or
// waits for somebody else, is told from one that spins or is deadlocked by proof
// and not by likelihood; without one it is left alone.

// sign is what is seen, and since when is in life.dead.
type sign int

const (
	stopped         sign = iota // in state T
	uninterruptible             // in state D, and used no CPU
	listenless                  // nothing of it holds a listener
	idle                        // used no CPU
	away                        // no thread of it sleeps for connections, as threads of the program do
	still                       // away, and it took no connection and moved no byte on any
	spinning                    // still, and a thread never slept, and a client has no answer
	deadlocked                  // still, and every thread waits for another one
	signs
)

// view is what there is to look with. It is used by one look.
type view struct {
	listeners []uint64 // by inode; none of our own program, which does them no harm
	paths     []string // of unix listeners
	crowds    []crowd
	// served asks once for the TCP connections of the listeners, by inode. It is an
	// error when one of the listeners is not to be seen.
	served func() (map[uint64]sockdiag.Connection, error)
}

func (m *Master) view() *view {
	v := &view{crowds: m.crowds()}
	if m.cfg.Program.External() {
		v.listeners = inodes(m.cfg.Sockets)
	}
	var ports []int
	var local []uint64
	for _, s := range m.cfg.Sockets {
		if s.Bound().Network() == "unix" {
			v.paths = append(v.paths, s.Bound().Path())
			if inode, err := s.Inode(); err == nil {
				local = append(local, inode)
			}
		} else {
			ports = append(ports, s.Bound().Port())
		}
	}
	v.served = sync.OnceValues(func() (map[uint64]sockdiag.Connection, error) {
		all := map[uint64]sockdiag.Connection{}
		for _, port := range ports {
			found, err := sockdiag.Connections(port)
			if err != nil {
				return nil, err
			}
			for _, c := range found {
				all[c.Inode] = c
			}
		}
		for _, inode := range local {
			if _, err := sockdiag.UnixListener(inode); err != nil {
				return nil, err
			}
		}
		return all, nil
	})
	return v
}

// seen is one look at one worker.
type seen struct {
	state      byte // 0: it is gone
	cpu        uint64
	listenless bool
	waits      bool  // a thread of it sleeps for connections
	work       *work // of one that does not, nil when it cannot be seen
	// elsewhere are the listeners with a queue that it does not wait at, of one that
	// waits.
	elsewhere map[string]bool
}

// work is what a worker has done until now: two looks show whether it did anything
// between.
type work struct {
	served  map[uint64]sockdiag.Traffic // by inode: the clients' connections that it holds
	owes    bool                        // one of them waits for an answer
	busy    bool                        // one of them may do so; unix sockets do not tell
	threads map[int]tree.Thread
}

// lookAt looks at all workers, or at those that are under suspicion or were never
// looked at, beside the loop.
func (m *Master) lookAt(all bool) {
	if m.vigil.looking || m.platform.see == nil {
		return
	}
	m.vigil.looking = true
	type target struct {
		pid  int
		mute bool
	}
	targets := map[uint64]target{}
	for id, c := range m.children {
		if c.watched() && (all || c.life.suspect() || c.life.workAt.IsZero()) {
			targets[id] = target{c.pid, c.life.owes == ""}
		}
	}
	see, v, began := m.platform.see, m.view(), time.Now()
	// Ends when all were looked at; nobody waits for it.
	go func() {
		waiting := map[string][]string{}
		for _, c := range v.crowds {
			waiting[c.name] = c.waiting()
		}
		found := make(map[uint64]seen, len(targets))
		for id, t := range targets {
			found[id] = see(t.pid, t.mute, v)
		}
		m.send(func() { m.saw(found, waiting, began) })
	}()
}

// seeProcess looks at a worker and its descendants; at one that says nothing,
// closely. What cannot be seen is not held against it.
func seeProcess(pid int, mute bool, v *view) seen {
	s := seen{state: tree.StatOf(pid).State, listenless: len(v.listeners) > 0}
	family := tree.Of(pid)
	if tree.Stopped(family) {
		s.state = 'T'
	}
	for _, p := range family {
		s.cpu += tree.StatOf(p).CPU
		if s.listenless {
			holds, err := tree.Holds(p, v.listeners)
			s.listenless = !holds && err == nil
		}
	}
	if !mute || s.listenless || len(v.listeners) == 0 {
		return s
	}
	var err error
	s.waits, err = tree.Waiting(pid, v.listeners)
	switch {
	case s.waits:
		s.elsewhere = v.elsewhere(pid)
	case err == nil:
		s.work = v.workOf(family)
	}
	return s
}

// elsewhere tells at which of the listeners with a queue a worker does not wait:
// with one listener at none, for it does wait.
func (v *view) elsewhere(pid int) map[string]bool {
	if len(v.listeners) < 2 {
		return nil
	}
	found := map[string]bool{}
	for _, c := range v.crowds {
		here, err := tree.Waiting(pid, []uint64{c.socket})
		found[c.name] = !here || err != nil
	}
	return found
}

// workOf is what the processes of a worker have done, nil when that is not to be
// seen.
func (v *view) workOf(family []int) *work {
	w := &work{served: map[uint64]sockdiag.Traffic{}, threads: map[int]tree.Thread{}}
	tcp, err := v.served()
	if err != nil {
		return nil
	}
	for _, pid := range family {
		threads, err := tree.Threads(pid)
		if err != nil {
			return nil
		}
		for _, t := range threads {
			w.threads[t.ID] = t
		}
		held, err := tree.Sockets(pid)
		if err != nil {
			return nil
		}
		for _, inode := range held {
			if c, is := tcp[inode]; is {
				w.serves(inode, c.Traffic, c.Owes(), c.Owes())
			} else if err := v.unixServed(w, inode); err != nil {
				return nil
			}
		}
	}
	return w
}

// unixServed notes a connection to a unix listener. Of those the kernel tells no
// more than what was not read.
func (v *view) unixServed(w *work, inode uint64) error {
	if len(v.paths) == 0 || slices.Contains(v.listeners, inode) {
		return nil
	}
	s, err := sockdiag.Unix(inode)
	if err == nil && slices.Contains(v.paths, s.Path) {
		w.serves(inode, sockdiag.Traffic{Unread: s.Unread}, s.Unread > 0, true)
	}
	return err
}

func (w *work) serves(inode uint64, t sockdiag.Traffic, owes, busy bool) {
	w.served[inode] = t
	w.owes, w.busy = w.owes || owes, w.busy || busy
}

// spun tells whether a process used the CPU since the look before and none of its
// threads slept or awoke meanwhile. One that awoke may take connections between two
// slices of the one that computes, as Go's threads do for each other.
func (w *work) spun(before *work) bool {
	used, awoke := map[int]bool{}, map[int]bool{}
	for id, now := range w.threads {
		then, is := before.threads[id]
		used[now.Process] = used[now.Process] || is && now.CPU > then.CPU
		awoke[now.Process] = awoke[now.Process] || !is || now.Sleeps != then.Sleeps
	}
	for process := range used {
		if used[process] && !awoke[process] {
			return true
		}
	}
	return false
}

// deadlocked tells whether only a thread that waits itself could wake any.
func (w *work) deadlocked() bool {
	for _, t := range w.threads {
		if !t.Deadlocked {
			return false
		}
	}
	return len(w.threads) > 0
}

// saw takes in what a look found, and judges by it: a sign has lasted when a look
// saw it that began an interval after the one that saw it first had ended. However
// long no look is made, nobody is judged by an old one.
func (m *Master) saw(found map[uint64]seen, waiting map[string][]string, looked time.Time) {
	m.vigil.looking = false
	now := time.Now()
	m.vigil.cost = now.Sub(looked)
	stuck := m.stuck(waiting, looked, now)
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
		m.vigil.waits = m.vigil.waits || s.waits && c.started.After(m.vigil.program)
		c.life.compare(s, m.vigil.waits, now)
		if c.life.suspect() {
			m.lookSoon(m.closePause())
		}
		why := c.life.inert(looked)
		if since := c.life.dead[idle]; why == "" && !since.IsZero() && looked.Sub(since) >= c.life.interval {
			why = c.neglects(s, stuck, m.vigil.waits, len(m.cfg.Sockets) > 1)
		}
		if why != "" {
			m.hung(c, why)
		}
	}
}

// suspect tells whether a worker does something that no worker should do for long.
func (l *life) suspect() bool {
	return slices.ContainsFunc([]sign{stopped, uninterruptible, listenless, away}, func(s sign) bool { return !l.dead[s].IsZero() })
}

// inert says what a worker was seen not to do for its interval, by a look.
func (l *life) inert(looked time.Time) string {
	lasted := func(s sign) bool { return !l.dead[s].IsZero() && looked.Sub(l.dead[s]) >= l.interval }
	switch {
	case lasted(stopped):
		return fmt.Sprintf("it is stopped (SIGSTOP) since %v", l.interval)
	case lasted(uninterruptible):
		return fmt.Sprintf("it sleeps uninterruptibly (state D) since %v", l.interval)
	case lasted(listenless):
		return fmt.Sprintf("it closed the listener, %v ago or more", l.interval)
	case lasted(spinning):
		return fmt.Sprintf("it spins: it uses the CPU without a pause, takes no connection and answers nobody, since %v, and a client waits", l.interval)
	case lasted(deadlocked):
		return fmt.Sprintf("all its threads wait for each other since %v", l.interval)
	case l.debt.probed && lasted(still):
		return fmt.Sprintf("it neither waited for a connection nor served one for %v", l.interval)
	}
	return ""
}

// compare notes what a worker did since the look before. A program that waits in a
// way that does not show is never away.
func (l *life) compare(s seen, shows bool, now time.Time) {
	before, since := l.work, l.workAt
	l.work, l.workAt = s.work, now
	isAway := shows && !s.waits && s.work != nil
	isStill := isAway && before != nil && maps.Equal(before.served, s.work.served)
	l.note(away, isAway, now)
	l.note(still, isStill, since)
	l.note(spinning, isStill && s.work.owes && s.work.spun(before), since)
	l.note(deadlocked, isStill && s.work.deadlocked(), since)
}

// moved forgets what it looked as if the worker did: it answered. On a kept unix
// connection, whose bytes nobody counts, one that is busy looks as if it did nothing.
func (l *life) moved() {
	for _, s := range []sign{still, spinning, deadlocked} {
		l.dead[s] = time.Time{}
	}
}

// note keeps since when a sign is seen without a break.
func (l *life) note(s sign, is bool, since time.Time) {
	switch {
	case !is:
		l.dead[s] = time.Time{}
	case l.dead[s].IsZero():
		l.dead[s] = since
	}
}
