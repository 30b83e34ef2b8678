package supervisor

import (
	"fmt"
	"time"
)

// phase is where a slot stands. A worker that was asked to leave is no longer
// in its slot: it drains beside it while the slot already has, or awaits, the
// next one. So a slot knows at most one worker, and, while that one is replaced
// on purpose, its successor.
type phase int

const (
	empty     phase = iota // no worker is wanted here
	starting               // a worker runs and has not said READY
	ready                  // the worker serves
	killing                // the worker missed the start deadline and was sent SIGKILL
	backoff                // no worker; the next start has a time
	replacing              // the worker serves; its successor has not said READY
	proving                // the worker serves; its successor has, and is asked for an answer
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
	case replacing:
		return "replacing"
	case proving:
		return "proving"
	}
	return fmt.Sprintf("phase(%d)", int(p))
}

// worker is the operator's word for the worker of a slot in this phase.
func (p phase) worker() string {
	if p == replacing || p == proving {
		return ready.String()
	}
	return p.String()
}

// successor is the same for the one that is to take its place.
func (p phase) successor() string {
	if p == replacing {
		return starting.String()
	}
	return p.String()
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

	replace           // the worker is to be replaced, successor first
	successorReady    // the successor said READY
	successorAnswered // and answered a request
	successorFailed   // it did not: it ended, or answered badly, or is no longer wanted
	triggers          // how many there are
)

func (t trigger) String() string {
	names := [...]string{"want", "unwant", "start-failed", "said-ready", "leaves", "leaves-crowd", "exit-planned", "exit-killed", "exit-crashed", "tick",
		"replace", "successor-ready", "successor-answered", "successor-failed"}
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

	actSuccessor // start a successor; report successorFailed if that fails
	actProve     // have the successor answer a request
	actPromote   // the successor becomes the slot's worker
	actOverdue   // say that the successor missed its deadline
	actDismiss   // end the successor
)

func (a action) String() string {
	names := [...]string{"start", "retire", "kill", "wait", "successor", "prove", "promote", "overdue", "dismiss"}
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
	after slotStart     // of the successor, while there is one
	fails int           // crashes and failed starts in a row, without a stable run between
}

// slotStart is one start: when it began, and how long it took once that is known.
type slotStart struct {
	began time.Time
	took  time.Duration
}

// serves tells whether the slot has a worker that is ready.
func (s slot) serves() bool {
	return s.phase == ready || s.phase == replacing || s.phase == proving
}

// stable tells whether the worker has been ready for so long that what its
// predecessors did is forgiven.
func (s slot) stable(now time.Time, p Policy) bool {
	return s.serves() && now.Sub(s.since) >= p.StableAfter
}

// deadline is when the slot wants a tick; zero for never.
func (s slot) deadline(p Policy) time.Time {
	switch s.phase {
	case starting:
		return s.began.Add(p.StartTimeout)
	case backoff:
		return s.next
	case replacing, proving:
		return s.after.began.Add(p.StartTimeout)
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
		replace:     replaceWorker,
		tick:        stay,
	},
	replacing: {
		saidReady:       stay,
		leaves:          promote,
		leavesCrowd:     promote,
		exitPlanned:     promote,
		exitKilled:      promote,
		exitCrashed:     promoteAfterCrash,
		unwant:          retireBoth,
		successorReady:  prove,
		successorFailed: dismiss,
		tick:            checkSuccessorDeadline,
	},
	proving: {
		saidReady:         stay,
		leaves:            promote,
		leavesCrowd:       promote,
		exitPlanned:       promote,
		exitKilled:        promote,
		exitCrashed:       promoteAfterCrash,
		unwant:            retireBoth,
		successorAnswered: succeed,
		successorFailed:   dismiss,
		tick:              checkSuccessorDeadline,
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
	if next.phase != s.phase && !(next.serves() && s.serves()) {
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
	if !s.serves() {
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

// replaceWorker starts a successor beside a worker that goes on serving.
func replaceWorker(s slot, now time.Time, _ Policy) (slot, []action) {
	s.phase, s.after = replacing, slotStart{began: now}
	return s, []action{actSuccessor}
}

func prove(s slot, now time.Time, _ Policy) (slot, []action) {
	s.phase, s.after.took = proving, now.Sub(s.after.began)
	return s, []action{actProve}
}

// succeed is the end of a replacement: only now the former worker may go.
func succeed(s slot, now time.Time, p Policy) (slot, []action) {
	return s.inherit(now, p), []action{actPromote, actRetire}
}

// inherit gives the slot to the successor, as far as that has come.
func (s slot) inherit(now time.Time, p Policy) slot {
	if s.stable(now, p) {
		s.fails = 0
	}
	if s.phase == replacing {
		s.phase = starting
	} else {
		s.phase = ready
	}
	s.began, s.took, s.since, s.after = s.after.began, s.after.took, now, slotStart{}
	return s
}

// promote fills the place of a worker that ended with the successor that was
// already under way.
func promote(s slot, now time.Time, p Policy) (slot, []action) {
	return s.inherit(now, p), []action{actPromote}
}

func promoteAfterCrash(s slot, now time.Time, p Policy) (slot, []action) {
	s = s.inherit(now, p)
	s.fails++
	return s, []action{actPromote}
}

// dismiss leaves the slot to the worker that it has.
func dismiss(s slot, _ time.Time, _ Policy) (slot, []action) {
	s.phase, s.after = ready, slotStart{}
	return s, []action{actDismiss}
}

func retireBoth(slot, time.Time, Policy) (slot, []action) {
	return slot{phase: empty}, []action{actRetire, actDismiss}
}

func checkSuccessorDeadline(s slot, now time.Time, p Policy) (slot, []action) {
	if now.Before(s.after.began.Add(p.StartTimeout)) {
		return s, nil
	}
	s, todo := dismiss(s, now, p)
	return s, append([]action{actOverdue}, todo...)
}
