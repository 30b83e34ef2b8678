package supervisor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"revenant/supervisor/event"
	"revenant/supervisor/listen"
)

// What one worker can do to the sockets of all is looked for when a worker ends
// and, while a program runs that is not ours, all the time: it may clear
// O_NONBLOCK, which blocks its siblings in accept, or shut a socket down.

const (
	// guardPause is how long a socket may be harmed, and some more. A look is three
	// system calls for each.
	guardPause = 150 * time.Millisecond
	// complainPause is the time between two words about the same.
	complainPause = 10 * time.Second
)

// guard is the loop's book of what was done to the sockets.
type guard struct {
	next  time.Time         // look
	harms map[string]*harms // by listener
}

type harms struct {
	told     time.Time
	count    int // since then
	replaced time.Time
	again    int // replacements in a row
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

// guards tells whether the sockets are looked at all the time.
func (m *Master) guards() bool {
	return m.phase == running && m.cfg.Program.External() && len(m.cfg.Sockets) > 0
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
	for _, s := range m.cfg.Sockets {
		found, err := s.Repair()
		if errors.Is(err, listen.ErrNotListening) && found != "" {
			if err = m.replaceSocket(s); err == nil {
				found += "; every worker gets a new one"
			}
		}
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
	if err != nil {
		e.Message = err.Error()
	}
	m.publish(e)
	h.told, h.count = time.Now(), 0
}

const reasonNewListener = "new-listener"

// replaceSocket makes a unix socket anew, which cannot be repaired, and replaces
// the workers, whose copies are dead. A program that does so always gets a new one
// with the pauses that there are between starts of one that crashes.
func (m *Master) replaceSocket(s *listen.Socket) error {
	h, p := m.guard.of(s.Name().String()), m.cfg.Policy
	if time.Since(h.replaced) > p.StableAfter+p.delay(h.again) {
		h.again = 0
	}
	if due := h.replaced.Add(p.delay(h.again)); time.Now().Before(due) {
		return fmt.Errorf("listener %s was shut down again; there is a new one in %v", s.Name(), time.Until(due).Round(time.Millisecond))
	}
	if err := s.Replace(context.Background()); err != nil {
		return err
	}
	h.replaced = time.Now()
	h.again++
	m.platform.store(s.Name().String(), s.FD())
	for _, seat := range m.seats {
		if seat.successor != nil {
			m.fail(seat, "its listener was shut down")
		}
		if c := seat.worker; c != nil && !c.draining() {
			m.retire(c, reasonNewListener)
			m.step(seat, exitPlanned)
		}
	}
	return nil
}
