package scoreboard

import "time"

// ceiling is more connections than one process can have; a gauge above it was not written by our code.
const ceiling = 1 << 32

// Snapshot is what the page said at one moment. The numbers are read one after another while the worker
// goes on, so they may be one request apart from each other.
type Snapshot struct {
	Identity
	PID int

	Accepted  uint64
	Accepting uint64 // connections that accept(2) may have returned without being counted yet
	Unread    int64
	Active    int64
	Idle      int64
	Hijacked  int64

	Requests     [classes]uint64 // by status class; 0 = ended without a status
	Latency      [LatencyBuckets]uint64
	LatencySum   time.Duration
	LastActivity time.Time // zero before the first answer
}

// InFlight is how many connections had something to lose, Accepting not included.
func (s Snapshot) InFlight() int64 { return s.Unread + s.Active }

// Answered is the sum over all status classes.
func (s Snapshot) Answered() uint64 {
	var n uint64
	for _, r := range s.Requests {
		n += r
	}
	return n
}

// Snapshot reads the page. It never fails, whatever the worker wrote; of a nil or closed board it is zero.
func (b *Board) Snapshot() Snapshot {
	if b == nil || b.page == nil {
		return Snapshot{}
	}
	p := b.page
	s := Snapshot{
		Identity:   b.id,
		PID:        b.PID(),
		Accepted:   p.accepted.Load(),
		Accepting:  uint64(gauge(p.accepting.Load())),
		Unread:     gauge(p.places[Unread].Load()),
		Active:     gauge(p.places[Active].Load()),
		Idle:       gauge(p.places[Idle].Load()),
		Hijacked:   gauge(p.places[Hijacked].Load()),
		LatencySum: time.Duration(max(p.latencySum.Load(), 0)),
	}
	for i := range s.Requests {
		s.Requests[i] = p.requests[i].Load()
	}
	for i := range s.Latency {
		s.Latency[i] = p.latency[i].Load()
	}
	if at := p.lastActivity.Load(); at > 0 {
		s.LastActivity = time.Unix(0, at)
	}
	return s
}

func gauge(n int64) int64 {
	if n < 0 || n > ceiling {
		return 0
	}
	return n
}
