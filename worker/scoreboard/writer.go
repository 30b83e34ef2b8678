package scoreboard

import (
	"math/bits"
	"time"
)

// State is where a connection is. The zero value is nowhere: not accepted yet, or closed.
type State uint8

const (
	Nowhere State = iota
	Unread
	Active
	Idle
	Hijacked
	placeCount
)

func (s State) String() string {
	switch s {
	case Nowhere:
		return "nowhere"
	case Unread:
		return "unread"
	case Active:
		return "active"
	case Idle:
		return "idle"
	case Hijacked:
		return "hijacked"
	}
	return "unknown"
}

// classes are the status classes 1xx to 5xx, and 0 for everything else: an answer that never got a status.
const classes = 6

// Accepting says that accept(2) may now return a connection (true), or that it is counted or did not come (false).
func (b *Board) Accepting(may bool) {
	if b == nil {
		return
	}
	if may {
		b.page.accepting.Add(1)
	} else {
		b.page.accepting.Add(-1)
	}
}

// ConnNew counts a connection that accept(2) returned: it is Unread.
func (b *Board) ConnNew() {
	if b == nil {
		return
	}
	b.page.places[Unread].Add(1)
	b.page.accepted.Add(1)
}

// ConnMove counts a connection at a new place; Nowhere means it is closed. The caller knows where it was.
func (b *Board) ConnMove(from, to State) {
	if b == nil {
		return
	}
	if to != Nowhere {
		b.page.places[to].Add(1)
	}
	if from != Nowhere {
		b.page.places[from].Add(-1)
	}
}

// Request counts an answered request by its status, 0 when it ended without one.
func (b *Board) Request(status int, began time.Time, took time.Duration) {
	if b == nil {
		return
	}
	class := status / 100
	if class < 0 || class >= classes {
		class = 0
	}
	took = max(took, 0)
	b.page.requests[class].Add(1)
	b.page.latency[bucket(took)].Add(1)
	b.page.latencySum.Add(int64(took))
	b.page.lastActivity.Store(began.UnixNano() + int64(took))
}

// LatencyBuckets is how many buckets latencies are sorted into; each reaches twice as far as the one before.
const LatencyBuckets = 26

func bucket(d time.Duration) int {
	return min(bits.Len64(uint64(d/time.Microsecond)), LatencyBuckets-1)
}

// LatencyBound is the time that every request in bucket i stayed below. The last bucket has none and says 0.
func LatencyBound(i int) time.Duration {
	if i < 0 || i >= LatencyBuckets-1 {
		return 0
	}
	return time.Microsecond << i
}
