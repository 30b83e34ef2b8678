package supervisor

import (
	"math/rand/v2"
	"time"
)

// Policy says how patient the supervisor is. The zero value of a field means
// its default.
type Policy struct {
	// StartTimeout is how long a worker may take from fork to READY. Default 30 s.
	StartTimeout time.Duration
	// DrainTimeout is how long a worker may take from SIGTERM to its end before
	// its process group is killed. Default 25 s, below Kubernetes' grace of 30 s.
	DrainTimeout time.Duration
	// StableAfter is how long a worker must have been ready for its crash to
	// count as the first. Default 10 s.
	StableAfter time.Duration
	// ExitOnCrashLoop ends the instance (ErrCrashLoop) when every slot has
	// failed crashLoop times in a row, for platforms that want to act
	// themselves. Otherwise it never gives up.
	ExitOnCrashLoop bool

	// jitter spreads a delay; tests replace it. Nil means ±20 %.
	jitter func(time.Duration) time.Duration
}

// The respawn policy, from DESIGN 6. Worked out for a worker that dies at once:
// starts at 0, 0, 0.1, 0.3, 0.7, 1.5, 3.1, 6.3, 12.7 and 25.5 s, ten in the first
// half minute, then one in 30 s.
const (
	firstDelay = 100 * time.Millisecond
	maxDelay   = 30 * time.Second
	// dutyFactor keeps the share of time that a slot spends on starting at or
	// below a fifth: the next start begins no sooner than five times the last
	// one's duration after its beginning. A kill storm heals at full speed (a
	// start takes some 10 ms), and yet a slow program that is killed as soon as
	// it is up cannot eat the machine.
	dutyFactor = 5
	crashLoop  = 5
)

func (p Policy) withDefaults() Policy {
	setDefault(&p.StartTimeout, 30*time.Second)
	setDefault(&p.DrainTimeout, 25*time.Second)
	setDefault(&p.StableAfter, 10*time.Second)
	if p.jitter == nil {
		p.jitter = func(d time.Duration) time.Duration {
			return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64()))
		}
	}
	return p
}

func setDefault(d *time.Duration, value time.Duration) {
	if *d == 0 {
		*d = value
	}
}

// delay is the wait after the given number of failures in a row: none after the
// first, then doubling.
func (p Policy) delay(fails int) time.Duration {
	if fails <= 1 {
		return 0
	}
	d := maxDelay
	if doublings := fails - 2; doublings < 9 { // 100 ms << 9 is beyond the cap
		d = firstDelay << doublings
	}
	return min(p.jitter(d), maxDelay)
}

// earliest is when the slot may start again under its share of starting time.
func (p Policy) earliest(s slot) time.Time { return s.began.Add(dutyFactor * s.took) }
