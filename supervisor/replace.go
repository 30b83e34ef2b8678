package supervisor

import (
	"fmt"
	"time"

	"revenant/supervisor/event"
)

// roll replaces the workers of some slots, one slot after the other: the next one
// is begun when the last one's new worker has answered a request. Former workers
// may still drain then. It is how reload, restart, scale and recycling are done.
type roll struct {
	op     *Operation
	reason string // for those that leave
	mark   uint64 // the newest worker when it began; whoever is newer is new
	first  int    // slots from here
	limit  int    // to before here; 0 for all that there are
	end    func(error)

	slot     int // at work
	began    time.Time
	former   uint64
	finished []bool // by slot
}

// startRoll begins one. Its end, if set, is called with the outcome before the
// operation finishes.
func (m *Master) startRoll(r *roll) {
	r.mark, r.slot = m.state.newestWorker(), -1
	m.roll = r
}

// reason says in what course a worker is asked to leave at this moment.
func (m *Master) reason() string {
	switch {
	case m.phase != running:
		return "stop"
	case m.roll != nil:
		return m.roll.reason
	case m.operation != nil:
		return m.operation.kind
	}
	return ""
}

// advance does what a roll can do now. It is called after each change.
func (m *Master) advance() {
	for r := m.roll; r != nil && m.roll == r; {
		n := r.next(len(m.seats))
		if n < 0 {
			m.endRoll(nil)
			return
		}
		if n != r.slot {
			r.slot, r.began, r.former = n, time.Now(), 0
		}
		if !m.renew(r, m.seats[n]) {
			return
		}
		r.finished[n] = true
	}
}

// next is the first slot that is not finished, -1 when all are.
func (r *roll) next(seats int) int {
	if r.limit > 0 {
		seats = min(seats, r.limit)
	}
	for len(r.finished) < seats {
		r.finished = append(r.finished, false)
	}
	for n := r.first; n < seats; n++ {
		if !r.finished[n] {
			return n
		}
	}
	return -1
}

// renew brings a slot on its way and tells whether it has arrived: with a worker
// that is new, is ready and has answered.
func (m *Master) renew(r *roll, s *seat) bool {
	switch {
	case s.successor != nil:
	case s.slot.phase == backoff:
		m.step(s, want) // the reason for its failures may be gone now
	case s.slot.phase != ready:
	case s.worker.id <= r.mark && m.crowded():
		r.op.step = fmt.Sprintf("slot %d: waiting, for %d workers still drain", s.n, m.drainers())
	case s.worker.id <= r.mark:
		r.former = s.worker.id
		r.op.step = fmt.Sprintf("slot %d: the successor of worker %d starts", s.n, r.former)
		m.step(s, replace)
	default:
		return m.proved(r, s)
	}
	return false
}

// proved asks a new worker, unless that was done, and tells whether it answered.
func (m *Master) proved(r *roll, s *seat) bool {
	if s.worker.proof == unproven {
		m.prove(s, s.worker)
	}
	if s.worker.proof != proven { // the answer is waited for, or was bad and has ended the roll
		return false
	}
	m.renewed(r, s)
	return true
}

func (m *Master) renewed(r *roll, s *seat) {
	c := s.worker
	text := fmt.Sprintf("slot %d: worker %d", s.n, c.id)
	if r.former != 0 {
		text = fmt.Sprintf("slot %d: worker %d → %d", s.n, r.former, c.id)
	}
	m.progress(r.op, event.Event{Slot: &s.n, Worker: c.id, PID: c.pid, Former: r.former, Start: ms(time.Since(r.began)), Message: text})
}

// endRoll ends a roll and its operation. A successor that is on its way goes.
func (m *Master) endRoll(err error) {
	r := m.roll
	m.roll = nil
	for _, s := range m.seats {
		if err != nil && s.successor != nil {
			m.fail(s, err.Error())
		}
	}
	if r.end != nil {
		r.end(err)
	}
	m.finish(r.op, err)
}

// cancel ends the operation under way, if there is one.
func (m *Master) cancel(why error) {
	switch {
	case m.roll != nil:
		m.endRoll(why)
	case m.operation != nil:
		m.finish(m.operation, why)
	}
}

// succeeds is the seat that a worker is to take over, nil for others.
func (m *Master) succeeds(c *child) *seat {
	if c.n < len(m.seats) && m.seats[c.n].successor == c {
		return m.seats[c.n]
	}
	return nil
}

// fail gives a slot's successor up, and with it the roll.
func (m *Master) fail(s *seat, why string) {
	s.failure = why
	m.step(s, successorFailed)
}

// notStarted ends a roll at whose slot no worker can be started.
func (m *Master) notStarted(s *seat, err error) {
	if r := m.roll; r != nil && r.slot == s.n {
		m.endRoll(kept(s, "cannot start a worker: "+err.Error()))
	}
}

// overdue says why a successor that missed its deadline is given up.
func (m *Master) overdue(s *seat, c *child) {
	limit := event.Humane(m.cfg.Policy.StartTimeout)
	if !c.ready.IsZero() {
		s.failure = fmt.Sprintf("worker %d was ready and answered no request, start timeout %s", c.id, limit)
		return
	}
	s.failure = fmt.Sprintf("worker %d was not ready within the start timeout of %s", c.id, limit)
	c.detail = "it was waited for " + m.expectedOf(c)
	m.kill(c, causeStartTimeout)
}

// dismiss ends a successor that does not take over; nil when it never came to be.
// One that was ready has taken connections from the queue of all, and finishes
// them.
func (m *Master) dismiss(s *seat, c *child) {
	why := s.failure
	s.failure = ""
	switch {
	case c == nil || m.children[c.id] != c: // has ended
	case c.ready.IsZero():
		m.kill(c, causeRequested)
	default:
		m.retire(c, reasonGivenUp)
	}
	if r := m.roll; r != nil && r.slot == s.n {
		m.endRoll(kept(s, why))
	}
}

const reasonGivenUp = "given-up"

// kept is the error of a roll that stops at a slot.
func kept(s *seat, why string) error {
	if s.worker != nil && s.slot.serves() {
		return fmt.Errorf("slot %d: %s; worker %d goes on serving", s.n, why, s.worker.id)
	}
	return fmt.Errorf("slot %d: %s", s.n, why)
}

// ended tells a roll that a worker has ended: one that is new must not crash.
func (m *Master) ended(c *child, end trigger, why string) {
	if c.detail != "" {
		why += ": " + c.detail
	}
	if s := m.succeeds(c); s != nil {
		m.fail(s, fmt.Sprintf("worker %d ended before it took over: %s", c.id, why))
		return
	}
	if r := m.roll; r != nil && c.id > r.mark && end == exitCrashed {
		m.endRoll(fmt.Errorf("slot %d: worker %d, which was new, ended: %s", c.n, c.id, why))
	}
}

// proof says whether a worker has answered a request of ours.
type proof int

const (
	unproven  proof = iota
	asked           // the request is under way
	proven          // it answered, or cannot be asked and said READY
	disproven       // it answered badly or not at all
)

// prove has a worker answer a request.
func (m *Master) prove(s *seat, c *child) {
	c.proof = asked
	m.probe(c, c.started.Add(m.cfg.Policy.StartTimeout), func(err error) {
		if c.proof = proven; err != nil {
			c.proof = disproven
		}
		switch {
		case m.succeeds(c) == s && err == nil:
			m.step(s, successorAnswered)
		case m.succeeds(c) == s:
			m.fail(s, err.Error())
		case m.roll != nil && s.worker == c && c.id > m.roll.mark && err != nil:
			m.endRoll(kept(s, err.Error()))
		}
	})
}
