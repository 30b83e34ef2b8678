package supervisor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"revenant/supervisor/event"
	"revenant/supervisor/listen"
)

// What one worker can do to the sockets of all: it may shut one down, of which the
// kernel tells at once, or clear O_NONBLOCK, which blocks its siblings in accept.
// For that nobody can wait: it is looked for when a worker ends and, while a program
// runs that is not ours, all the time.

const (
	// guardPause is how long a socket may block, and some more. A look is three
	// system calls for each.
	guardPause = 100 * time.Millisecond
	// settledAfter is how long a worker must have been ready not to be suspected of
	// what is done to a socket, and for how long that explains its end.
	settledAfter = time.Second
	// complainPause is the time between two words about the same.
	complainPause = 10 * time.Second
)

// guard is the loop's book of what was done to the sockets.
type guard struct {
	watch  *listen.Watch     // nil when nobody tells
	next   time.Time         // look
	broken bool              // a socket could not be mended yet
	shut   time.Time         // when one was found shut down last
	harms  map[string]*harms // by listener
}

type harms struct {
	told  time.Time
	count int // since then
}

// of is the book of a listener.
func (g *guard) of(name string) *harms {
	if g.harms == nil {
		g.harms = map[string]*harms{}
	}
	if g.harms[name] == nil {
		g.harms[name] = &harms{}
	}
	return g.harms[name]
}

// watchSockets wakes the loop when a socket was shut down. end ends that.
func (m *Master) watchSockets() (end func()) {
	if m.platform.watch == nil || len(m.cfg.Sockets) == 0 {
		return func() {}
	}
	w, err := m.platform.watch()
	if err != nil {
		m.unwatched(err)
		return func() {}
	}
	m.guard.watch = w
	for _, s := range m.cfg.Sockets {
		m.unwatched(w.Add(s))
	}
	// Ends when the watch is closed, or Run has ended.
	go func() {
		for w.Wait() == nil {
			select {
			case m.hangups <- struct{}{}:
			case <-m.done:
				return
			}
		}
	}()
	return func() { _ = w.Close() }
}

// unwatched tells that a socket is only looked at now and then.
func (m *Master) unwatched(err error) {
	if err != nil {
		m.publish(event.Event{Kind: event.Warning, Message: err.Error() + "; what is done to it may be found late"})
	}
}

// guards tells whether the sockets are looked at all the time.
func (m *Master) guards() bool {
	return m.phase == running && len(m.cfg.Sockets) > 0 && (m.cfg.Program.External() || m.guard.broken)
}

// guardDue is when the sockets are looked at next, zero for never.
func (m *Master) guardDue() time.Time {
	if !m.guards() {
		return time.Time{}
	}
	if m.guard.next.IsZero() {
		m.guard.next = time.Now().Add(guardPause)
	}
	return m.guard.next
}

// guardSockets looks when it is time.
func (m *Master) guardSockets(now time.Time) {
	if m.guards() && !now.Before(m.guard.next) {
		m.guard.next = now.Add(guardPause)
		m.repairSockets("while all lived")
	}
}

// repairSockets undoes what a worker did. The kernel does not say who did it.
func (m *Master) repairSockets(when string) {
	if m.phase != running { // what StopNew did is meant
		return
	}
	m.guard.broken = false
	for _, s := range m.cfg.Sockets {
		found, err := s.Repair()
		if found == listen.ShutDown {
			m.guard.shut = time.Now()
		}
		if errors.Is(err, listen.ErrNotListening) {
			var done string
			done, err = m.replaceSocket(s)
			found += "; " + done
		}
		m.guard.broken = m.guard.broken || err != nil
		if found != "" || err != nil {
			m.tellHarm(s, found, when, err)
		}
	}
}

// tellHarm tells what was found, and of a program that does it again and again
// only now and then.
func (m *Master) tellHarm(s *listen.Socket, found, when string, err error) {
	name := s.Name().String()
	h := m.guard.of(name)
	h.count++
	if time.Since(h.told) < complainPause {
		return
	}
	e := event.Event{Kind: event.ListenerHarmed, Message: fmt.Sprintf("listener %s: %s; repaired %s", name, found, when)}
	if h.count > 1 {
		e.Message += fmt.Sprintf(", %d times since the last word", h.count)
	}
	e.Message += " (all workers share it: a program may close it, and must neither shut it down nor change its flags)"
	if err != nil {
		e.Message = err.Error()
	}
	m.publish(e)
	h.told, h.count = time.Now(), 0
}

const reasonNewListener = "new-listener"

// replaceSocket makes a unix socket anew, which cannot be repaired, and replaces
// the workers, whose copies are dead. Clients wait in the queue of the new one and
// are not refused. The suspect's end counts as a failure, so that a program which
// always does so meets the pauses of one that crashes, and its siblings do not. It
// says what was done.
func (m *Master) replaceSocket(s *listen.Socket) (done string, err error) {
	if m.candidate() { // the master before us does, and we were not given its new one
		err := fmt.Errorf("generation %d: listener %s was shut down before it took over", m.cfg.Generation, s.Name())
		m.decline(err)
		return "", err
	}
	if err := m.rebind(s); err != nil {
		return "", err
	}
	m.platform.store(s.Name().String(), s.FD())
	suspect := m.suspect()
	for _, seat := range m.seats {
		if n := seat.successor; n != nil && m.children[n.id] != nil {
			m.fail(seat, "its listener was shut down")
		}
		c := seat.worker
		if c == nil || c.draining() || m.children[c.id] == nil { // or it has ended, and its slot will hear of it
			continue
		}
		m.retire(c, reasonNewListener)
		if c == suspect {
			m.step(seat, exitCrashed)
		} else {
			m.step(seat, exitPlanned)
		}
	}
	done = "every worker gets a new one"
	if suspect != nil {
		done += fmt.Sprintf(", and it is put down to worker %d in slot %d, which was started last", suspect.id, suspect.n)
	}
	return done, nil
}

// settled tells whether a worker had been ready for so long that what happened then
// is hardly its doing.
func (c *child) settled(then time.Time) bool {
	return !c.ready.IsZero() && then.Sub(c.ready) >= settledAfter
}

// suspect is who shut a socket down, as far as can be told: the worker that was
// started last, unless all have settled.
func (m *Master) suspect() (newest *child) {
	now := time.Now()
	for _, seat := range m.seats {
		if c := seat.worker; c != nil && !c.settled(now) && (newest == nil || c.id > newest.id) {
			newest = c
		}
	}
	return newest
}

// hurt tells whether a worker that ended by itself may have done so because its
// listener had just been shut down: many programs do when they cannot accept.
func (m *Master) hurt(c *child) bool {
	then := m.guard.shut
	return !then.IsZero() && time.Since(then) < settledAfter && c.settled(then)
}

// rebind puts a new socket in the place of one, watched as that was. What is shut
// down and stays so is not: it would wake the loop again and again.
func (m *Master) rebind(s *listen.Socket) error {
	w := m.guard.watch
	if w != nil {
		_ = w.Remove(s) // before its number means another one
	}
	err := s.Replace(context.Background())
	if err == nil && w != nil {
		m.unwatched(w.Add(s))
	}
	return err
}
