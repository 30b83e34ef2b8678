package supervisor

import (
	"fmt"
	"time"
)

// phase is where a slot stands. A worker that was asked to leave is no longer
// in its slot: it drains beside it while the slot already has, or awaits, the
// next one. So a slot knows at most one worker.
type phase int

const (
	empty    phase = iota // no worker is wanted here
	starting              // a worker runs and has not said READY
	ready                 // the worker serves
	killing               // the worker missed the start deadline and was sent SIGKILL
	backoff               // no worker; the next start has a time
)

func (p phase) String() string {
	switch p {
	case empty:
		return "empty"
	case starting:
		return "starting"
	case ready:
		return "ready"
	case killing:
		return "killing"
	case backoff:
		return "backoff"
	}
	return fmt.Sprintf("phase(%d)", int(p))
}

// trigger is what happens to a slot.
type trigger int

const (
	want        trigger = iota // the instance wants a worker here
	unwant                     // the instance wants none here any more
	startFailed                // fork or exec failed
	saidReady                  // the worker said READY
	leaves                     // the worker drains: by chaos, or by somebody's SIGTERM
	leavesCrowd                // the same, while more workers drain than finish
	exitPlanned                // the worker ended as we or an operator meant it to
	exitKilled                 // somebody else's signal ended it after it had been ready
	exitCrashed                // it ended by itself, or before it was ready
	tick                       // time has passed
)

func (t trigger) String() string {
	names := [...]string{"want", "unwant", "start-failed", "said-ready", "leaves", "leaves-crowd", "exit-planned", "exit-killed", "exit-crashed", "tick"}
	if int(t) < len(names) {
		return names[t]
	}
	return fmt.Sprintf("trigger(%d)", int(t))
}

// action is what the master has to do for a slot.
type action int

const (
	actStart  action = iota // start a worker; report startFailed if that fails
	actRetire               // ask the slot's former worker to drain, with a deadline
	actKill                 // SIGKILL the worker: it missed the start deadline
	actWait                 // tell that the slot waits, and until when
)

func (a action) String() string {
	names := [...]string{"start", "retire", "kill", "wait"}
	if int(a) < len(names) {
		return names[a]
	}
	return fmt.Sprintf("action(%d)", int(a))
}

// slot is a numbered seat for a worker. It is a value: step returns the next
// one and never touches the world.
type slot struct {
	phase phase
	began time.Time     // when the newest start began
	took  time.Duration // how long that start took, to READY or to its failure
	since time.Time     // when the phase was entered
	next  time.Time     // in backoff: when the next start is due
	fails int           // crashes and failed starts in a row, without a stable run between
}

// stable tells whether the worker has been ready for so long that what its
// predecessors did is forgiven.
func (s slot) stable(now time.Time, p Policy) bool {
	return s.phase == ready && now.Sub(s.since) >= p.StableAfter
}

// deadline is when the slot wants a tick; zero for never.
func (s slot) deadline(p Policy) time.Time {
	switch s.phase {
	case starting:
		return s.began.Add(p.StartTimeout)
	case backoff:
		return s.next
	}
	return time.Time{}
}

// move is one cell of the table: what a trigger does to a slot in a phase.
type move func(s slot, now time.Time, p Policy) (slot, []action)

// table is the whole life of a slot. A pair that is not in it cannot happen;
// step reports it as illegal.
var table = map[phase]map[trigger]move{
	empty: {
		want: start,
		tick: stay,
	},
	starting: {
		saidReady:   nowReady,
		startFailed: failed,
		leaves:      failed, // it never served: that is a failed start, though a polite one
		leavesCrowd: failed,
		exitPlanned: respawn,
		exitKilled:  failed,
		exitCrashed: failed,
		unwant:      retire,
		tick:        checkStartDeadline,
	},
	ready: {
		saidReady:   stay, // said twice
		leaves:      respawn,
		leavesCrowd: failed, // or their sum would grow without bound
		exitPlanned: respawn,
		exitKilled:  respawn,
		exitCrashed: failed,
		unwant:      retire,
		tick:        stay,
	},
	killing: {
		saidReady:   stay, // too late: the signal is on its way
		leaves:      stay,
		leavesCrowd: stay,
		exitPlanned: failed,
		exitKilled:  failed,
		exitCrashed: failed,
		unwant:      retire,
		tick:        stay,
	},
	backoff: {
		want:   start, // an operator's wish beats the wait
		unwant: leave,
		tick:   startWhenDue,
	},
}

// step is the slot's life: the state after the trigger, and what to do. legal is
// false, and nothing changes, for a pair that the table does not know.
func (s slot) step(now time.Time, t trigger, p Policy) (next slot, todo []action, legal bool) {
	m, legal := table[s.phase][t]
	if !legal {
		return s, nil, false
	}
	next, todo = m(s, now, p)
	if next.phase != s.phase {
		next.since = now
	}
	return next, todo, true
}

func stay(s slot, _ time.Time, _ Policy) (slot, []action) { return s, nil }

func start(s slot, now time.Time, _ Policy) (slot, []action) {
	s.phase, s.began, s.took, s.next = starting, now, 0, time.Time{}
	return s, []action{actStart}
}

func nowReady(s slot, now time.Time, _ Policy) (slot, []action) {
	s.phase, s.took = ready, now.Sub(s.began)
	return s, nil
}

func retire(s slot, _ time.Time, _ Policy) (slot, []action) {
	return slot{phase: empty}, []action{actRetire}
}

func leave(s slot, _ time.Time, _ Policy) (slot, []action) { return slot{phase: empty}, nil }

// respawn replaces a worker whose end says nothing against the program.
func respawn(s slot, now time.Time, p Policy) (slot, []action) {
	if s.phase == starting {
		s.took = now.Sub(s.began)
	}
	if s.stable(now, p) {
		s.fails = 0
	}
	return s.startAt(now, p.earliest(s), p)
}

// failed replaces a worker that crashed or never became ready.
func failed(s slot, now time.Time, p Policy) (slot, []action) {
	if s.stable(now, p) {
		s.fails = 0
	}
	if s.phase != ready {
		s.took = now.Sub(s.began)
	}
	s.fails++
	due := now.Add(p.delay(s.fails))
	if e := p.earliest(s); e.After(due) {
		due = e
	}
	return s.startAt(now, due, p)
}

func (s slot) startAt(now, due time.Time, p Policy) (slot, []action) {
	if !due.After(now) {
		return start(s, now, p)
	}
	s.phase, s.next = backoff, due
	return s, []action{actWait}
}

func startWhenDue(s slot, now time.Time, p Policy) (slot, []action) {
	if now.Before(s.next) {
		return s, nil
	}
	return start(s, now, p)
}

func checkStartDeadline(s slot, now time.Time, p Policy) (slot, []action) {
	if now.Before(s.began.Add(p.StartTimeout)) {
		return s, nil
	}
	s.phase = killing
	return s, []action{actKill}
}
