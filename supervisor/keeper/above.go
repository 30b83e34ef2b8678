package keeper

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
	"revenant/supervisor/notify"
)

// AboveName stands before the names of the descriptors that whoever started the instance gave it.
// They are borrowed: nobody below may change what others see of them.
const AboveName = "above:"

// aboveTimeout bounds each message to a service manager that does not read.
const aboveTimeout = 100 * time.Millisecond

// bootLimit is how long the watchdog above is fed while no master is ready.
const bootLimit = 2 * time.Minute

// above is whoever started the instance, a service manager as a rule, and what it was told. We speak
// for all below under one pid, ours, which never changes.
type above struct {
	client    *notify.Client // nil when nobody listens
	watchdog  time.Duration  // within which it wants to hear WATCHDOG=1; 0 for never
	feedAt    time.Time
	heard     time.Time // when the master last showed that its loop runs
	ready     bool      // it was told so, and nothing else since
	stopping  bool      // it was told so
	status    string
	unhearing bool // the last message did not reach it
}

// openAbove reads what the level above said to this process.
func (k *keeper) openAbove(now time.Time) {
	var err error
	if k.above.client, err = notify.FromEnv(); err != nil {
		k.Logger.Warn("cannot tell readiness upward", "err", err)
	}
	if k.above.client != nil {
		k.above.client = k.above.client.Within(aboveTimeout)
		k.above.watchdog = notify.Watchdog(os.Getenv)
	}
	if k.above.watchdog > 0 {
		k.above.heard, k.above.feedAt = now, now.Add(k.above.watchdog/2)
	}
}

// sayAbove sends what the service manager should know. One that does not hear costs a moment and is
// complained of once.
func (k *keeper) sayAbove(state ...string) {
	err := k.above.client.Send(state...)
	if err != nil && !k.above.unhearing {
		k.Logger.Warn("cannot tell the service manager", "state", state, "err", err)
	}
	k.above.unhearing = err != nil
}

// relayAbove passes on what the master says of the instance as a whole.
func (k *keeper) relayAbove(m notify.Message, now time.Time) {
	if m.Says(notify.WatchdogAlive) {
		k.above.heard = now
	}
	if k.above.stopping {
		return
	}
	var news []string
	if status, ok := m.Value("STATUS"); ok && status != k.above.status {
		k.above.status = status
		news = append(news, "STATUS="+status)
	}
	switch {
	case m.Says(notify.Reloading) && k.above.ready:
		k.above.ready = false
		news = append(news, notify.Reloading, fmt.Sprintf("MONOTONIC_USEC=%d", monotonic()/int64(time.Microsecond)))
	case m.Says(notify.Ready) && !k.above.ready:
		k.above.ready = true
		news = append(news, notify.Ready)
	}
	if len(news) > 0 {
		k.sayAbove(news...)
	}
}

// readyAbove tells that the instance serves, unless it was told.
func (k *keeper) readyAbove() {
	if !k.above.ready && !k.above.stopping {
		k.above.ready = true
		k.sayAbove(notify.Ready)
	}
}

// stoppingAbove tells that the instance ends, and how long that may take from now on.
func (k *keeper) stoppingAbove(limit time.Duration) {
	k.above.stopping = true
	k.sayAbove(notify.Stopping, "STATUS=stopping", notify.ExtendTimeout(limit+masterGrace+leaveAfter))
}

// feed tells the watchdog above that this instance works, if it does. A master whose loop does not
// run is not spoken for, however well we are; its workers may serve, but nobody looks after them.
func (k *keeper) feed(now time.Time) {
	if k.above.feedAt.IsZero() || now.Before(k.above.feedAt) {
		return
	}
	k.above.feedAt = now.Add(k.above.watchdog / 2)
	limit := k.above.watchdog
	if k.master.readyAt.IsZero() || k.ending || k.stops > 0 {
		limit = max(limit, bootLimit, k.DrainTimeout+masterGrace)
	}
	if now.Sub(k.above.heard) <= limit {
		k.sayAbove(notify.WatchdogAlive)
	}
}

// monotonic is the clock that service managers compare the time of a reload by, in nanoseconds.
func monotonic() int64 {
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) != nil {
		return 0
	}
	return now.Nano()
}
