package supervisor

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// Limits say when a worker is replaced because it has served enough. Each worker
// gets its own, up to a tenth more or less, so that those which were started
// together do not all leave together. Zero is no limit.
type Limits struct {
	Requests uint64        // answered; only workers of package worker count them
	Age      time.Duration // since it became ready
	Memory   int64         // resident, in bytes

	spread func() float64 // one worker's share of a limit; tests replace it
}

// Reasons of a worker that is recycled.
const (
	reasonMaxRequests = "max-requests"
	reasonMaxAge      = "max-age"
	reasonMaxMemory   = "max-memory"
)

const (
	// recycleLook is how often requests and memory are looked at, when they have a limit.
	recycleLook = time.Second
	// recycleAgain is how long a slot is left alone whose new worker could not take over.
	recycleAgain = 30 * time.Second
)

// share is one worker's own limits.
func (l Limits) share() Limits {
	f := l.spread
	if f == nil {
		f = func() float64 { return 0.9 + 0.2*rand.Float64() }
	}
	return Limits{
		Requests: uint64(float64(l.Requests) * f()),
		Age:      time.Duration(float64(l.Age) * f()),
		Memory:   int64(float64(l.Memory) * f()),
	}
}

// recycleAt is when the loop has to look; zero for never.
func (m *Master) recycleAt() time.Time {
	if m.phase != running || m.operation != nil {
		return time.Time{} // its end is a change, after which it is asked again
	}
	var next time.Time
	sooner := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	for _, s := range m.seats {
		if s.slot.phase != ready {
			continue
		}
		l := s.worker.limits
		if l.Age > 0 {
			sooner(later(s.worker.ready.Add(l.Age), m.sparedUntil(s)))
		}
		if l.Requests > 0 || l.Memory > 0 {
			sooner(later(m.looked.Add(recycleLook), m.sparedUntil(s)))
		}
	}
	return next
}

// sparedUntil is when a slot may be recycled again: a program that is slow to
// start, and above its limit as soon as it is up, must not start all the time.
func (m *Master) sparedUntil(s *seat) time.Time {
	return later(s.spared, m.cfg.Policy.earliest(s.slot))
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// recycle replaces one worker that has served enough.
func (m *Master) recycle(now time.Time) {
	if m.phase != running || m.operation != nil {
		return
	}
	look := !now.Before(m.looked.Add(recycleLook))
	if look {
		m.looked = now
	}
	for n := range m.seats {
		s := m.seats[(m.turn+n)%len(m.seats)]
		if s.slot.phase != ready || now.Before(m.sparedUntil(s)) {
			continue
		}
		if reason := m.enough(s.worker, now, look); reason != "" {
			m.turn = s.n + 1 // nobody starves behind one that is always due
			m.recycleWorker(s, reason)
			return
		}
	}
}

// enough says why a worker is to be replaced, "" when it is not.
func (m *Master) enough(c *child, now time.Time, look bool) string {
	l := c.limits
	switch {
	case l.Age > 0 && !now.Before(c.ready.Add(l.Age)):
		return reasonMaxAge
	case look && l.Requests > 0 && c.board.Snapshot().Answered() >= l.Requests:
		return reasonMaxRequests
	case look && l.Memory > 0 && m.platform.memory(c.pid) > l.Memory:
		return reasonMaxMemory
	}
	return ""
}

func (m *Master) recycleWorker(s *seat, reason string) {
	op, err := m.begin(opRecycle, fmt.Sprintf("%s of worker %d", reason, s.worker.id))
	if err != nil {
		return
	}
	m.startRoll(&roll{op: op, reason: reason, first: s.n, limit: s.n + 1, end: func(err error) {
		if err != nil {
			s.spared = time.Now().Add(recycleAgain)
		}
	}})
}
