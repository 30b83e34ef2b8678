package supervisor

import (
	"slices"
	"testing"
	"time"
)

var epoch = time.Unix(1_000_000, 0)

func steady(d time.Duration) time.Duration { return d }

func testPolicy() Policy {
	return Policy{StartTimeout: time.Second, StableAfter: 10 * time.Second, jitter: steady}.withDefaults()
}

// A script is a list of triggers at times after the epoch.
type scripted struct {
	at time.Duration
	t  trigger
}

func TestSlotLife(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		name   string
		script []scripted
		phase  phase
		next   time.Duration // of the due start, in backoff
		last   []action      // of the last step
	}{
		{"starts when wanted", []scripted{{0, want}}, starting, 0, []action{actStart}},
		{"is ready when the worker says so", []scripted{{0, want}, {10 * ms, saidReady}}, ready, 0, nil},
		{"a killed worker is replaced at once",
			[]scripted{{0, want}, {10 * ms, saidReady}, {time.Second, exitKilled}}, starting, 0, []action{actStart}},
		{"a planned exit is replaced at once",
			[]scripted{{0, want}, {10 * ms, saidReady}, {time.Second, exitPlanned}}, starting, 0, []action{actStart}},
		{"a leaving worker has its successor started at once",
			[]scripted{{0, want}, {10 * ms, saidReady}, {time.Second, leaves}}, starting, 0, []action{actStart}},
		{"killed just after a slow start: waits out four times the start",
			[]scripted{{0, want}, {100 * ms, saidReady}, {101 * ms, exitKilled}}, backoff, 500 * ms, []action{actWait}},
		{"and starts when due",
			[]scripted{{0, want}, {100 * ms, saidReady}, {101 * ms, exitKilled}, {500 * ms, tick}}, starting, 0, []action{actStart}},
		{"not before",
			[]scripted{{0, want}, {100 * ms, saidReady}, {101 * ms, exitKilled}, {499 * ms, tick}}, backoff, 500 * ms, nil},
		{"the first crash is replaced at once",
			[]scripted{{0, want}, {ms, saidReady}, {time.Second, exitCrashed}}, starting, 0, []action{actStart}},
		{"the second one waits 100 ms",
			[]scripted{{0, want}, {ms, saidReady}, {time.Second, exitCrashed}, {1001 * ms, saidReady}, {2 * time.Second, exitCrashed}},
			backoff, 2100 * ms, []action{actWait}},
		{"a stable run between crashes forgives",
			[]scripted{{0, want}, {ms, saidReady}, {time.Second, exitCrashed}, {1001 * ms, saidReady}, {12 * time.Second, exitCrashed}},
			starting, 0, []action{actStart}},
		{"a failed fork is a failed start",
			[]scripted{{0, want}, {0, startFailed}, {0, startFailed}}, backoff, 100 * ms, []action{actWait}},
		{"a worker killed before it was ready has failed to start",
			[]scripted{{0, want}, {0, exitKilled}, {0, exitKilled}}, backoff, 100 * ms, []action{actWait}},
		{"a worker that is not ready in time is killed",
			[]scripted{{0, want}, {time.Second, tick}}, killing, 0, []action{actKill}},
		{"READY after the deadline is too late",
			[]scripted{{0, want}, {time.Second, tick}, {time.Second + ms, saidReady}}, killing, 0, nil},
		{"a missed start deadline counts as a crash and as starting time",
			[]scripted{{0, want}, {time.Second, tick}, {time.Second, exitCrashed}}, backoff, 5 * time.Second, []action{actWait}},
		{"a stable run forgives earlier failures however it ends",
			[]scripted{{0, want}, {0, startFailed}, {0, startFailed}, {100 * ms, tick}, {101 * ms, saidReady}, {time.Hour, exitKilled}, {time.Hour + ms, saidReady}, {time.Hour + time.Second, exitCrashed}},
			starting, 0, []action{actStart}},
		{"a worker that leaves while too many drain is replaced like a crashed one",
			[]scripted{{0, want}, {ms, saidReady}, {time.Second, leavesCrowd}, {1001 * ms, saidReady}, {2 * time.Second, leavesCrowd}},
			backoff, 2100 * ms, []action{actWait}},
		{"replaced on purpose: the worker serves on while a successor starts",
			[]scripted{{0, want}, {ms, saidReady}, {time.Second, replace}}, replacing, 0, []action{actSuccessor}},
		{"a successor that is ready has to answer first",
			[]scripted{{0, want}, {ms, saidReady}, {time.Second, replace}, {1001 * ms, successorReady}}, proving, 0, []action{actProve}},
		{"only when it has, the worker goes",
			[]scripted{{0, want}, {ms, saidReady}, {time.Second, replace}, {1001 * ms, successorReady}, {1002 * ms, successorAnswered}},
			ready, 0, []action{actPromote, actRetire}},
		{"a successor that ends leaves the worker alone",
			[]scripted{{0, want}, {ms, saidReady}, {time.Second, replace}, {1001 * ms, successorFailed}}, ready, 0, []action{actDismiss}},
		{"a successor that answers badly too",
			[]scripted{{0, want}, {ms, saidReady}, {time.Second, replace}, {1001 * ms, successorReady}, {1002 * ms, successorFailed}},
			ready, 0, []action{actDismiss}},
		{"a successor that is not ready in time is given up",
			[]scripted{{0, want}, {ms, saidReady}, {time.Second, replace}, {2 * time.Second, tick}}, ready, 0, []action{actOverdue, actDismiss}},
		{"and not before",
			[]scripted{{0, want}, {ms, saidReady}, {time.Second, replace}, {1999 * ms, tick}}, replacing, 0, nil},
		{"one that never answers too",
			[]scripted{{0, want}, {ms, saidReady}, {time.Second, replace}, {1001 * ms, successorReady}, {2 * time.Second, tick}},
			ready, 0, []action{actOverdue, actDismiss}},
		{"a worker killed meanwhile has its successor in its place, which goes on starting",
			[]scripted{{0, want}, {ms, saidReady}, {time.Second, replace}, {1001 * ms, exitKilled}}, starting, 0, []action{actPromote}},
		{"and is ready in the normal way",
			[]scripted{{0, want}, {ms, saidReady}, {time.Second, replace}, {1001 * ms, exitKilled}, {1002 * ms, saidReady}}, ready, 0, nil},
		{"or misses its own deadline",
			[]scripted{{0, want}, {ms, saidReady}, {time.Second, replace}, {1500 * ms, exitKilled}, {2 * time.Second, tick}}, killing, 0, []action{actKill}},
		{"a worker killed while its successor is asked leaves a ready slot",
			[]scripted{{0, want}, {ms, saidReady}, {time.Second, replace}, {1001 * ms, successorReady}, {1002 * ms, exitKilled}},
			ready, 0, []action{actPromote}},
		{"a crash counts, also with a successor under way",
			[]scripted{{0, want}, {ms, saidReady}, {time.Second, replace}, {1001 * ms, exitCrashed}, {1002 * ms, exitCrashed}},
			backoff, 1102 * ms, []action{actWait}},
		{"a failed replacement takes no stability away",
			[]scripted{{0, want}, {0, startFailed}, {ms, saidReady}, {10 * time.Second, replace}, {10001 * ms, successorFailed}, {10002 * ms, exitCrashed}},
			starting, 0, []action{actStart}},
		{"scaled away while it is replaced: both go",
			[]scripted{{0, want}, {ms, saidReady}, {time.Second, replace}, {1001 * ms, unwant}}, empty, 0, []action{actRetire, actDismiss}},
		{"scaled away: the worker is asked to drain",
			[]scripted{{0, want}, {ms, saidReady}, {time.Second, unwant}}, empty, 0, []action{actRetire}},
		{"scaled away while waiting: nothing to drain",
			[]scripted{{0, want}, {0, startFailed}, {0, startFailed}, {ms, unwant}}, empty, 0, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s slot
			var todo []action
			for _, line := range c.script {
				var legal bool
				if s, todo, legal = s.step(epoch.Add(line.at), line.t, testPolicy()); !legal {
					t.Fatalf("%v in phase %v is illegal", line.t, s.phase)
				}
			}
			if s.phase != c.phase || !slices.Equal(todo, c.last) {
				t.Errorf("ends %v with %v, want %v with %v", s.phase, todo, c.phase, c.last)
			}
			if c.phase == backoff && !s.next.Equal(epoch.Add(c.next)) {
				t.Errorf("next start after %v, want %v", s.next.Sub(epoch), c.next)
			}
		})
	}
}

func TestCrashLoopStartsAtMostTwelveTimesInHalfAMinute(t *testing.T) {
	p := Policy{}.withDefaults() // with its real jitter
	for range 200 {
		starts, now := 1, epoch
		s, _, _ := slot{}.step(now, want, p)
		for {
			now = now.Add(5 * time.Millisecond) // it dies 5 ms after its start
			s, _, _ = s.step(now, exitCrashed, p)
			if s.phase == backoff {
				now = s.next
				s, _, _ = s.step(now, tick, p)
			}
			if now.Sub(epoch) > 30*time.Second {
				break
			}
			starts++
		}
		if starts > 12 || starts < 8 {
			t.Fatalf("%d starts in 30 s, want 8 to 12", starts)
		}
	}
}

func TestIllegalPairChangesNothing(t *testing.T) {
	s := slot{phase: empty}
	next, todo, legal := s.step(epoch, saidReady, testPolicy())
	if legal || todo != nil || next != s {
		t.Errorf("READY in an empty slot: legal=%v, actions %v", legal, todo)
	}
}

// Every phase answers a tick, and every phase with a worker answers every way
// that a worker can end: a missing cell would leave a slot dead for ever.
func TestTableKnowsEveryEnd(t *testing.T) {
	for p := empty; p <= proving; p++ {
		if table[p][tick] == nil {
			t.Errorf("phase %v does not know tick", p)
		}
	}
	for _, p := range []phase{replacing, proving} {
		if table[p][successorFailed] == nil {
			t.Errorf("phase %v does not know %v", p, successorFailed)
		}
	}
	for _, p := range []phase{starting, ready, killing, replacing, proving} {
		for _, end := range []trigger{exitPlanned, exitKilled, exitCrashed, unwant, leaves, leavesCrowd, saidReady} {
			if table[p][end] == nil {
				t.Errorf("phase %v does not know %v", p, end)
			}
		}
	}
}

// FuzzSlot feeds any sequence of triggers and holds the invariants that the
// master relies on.
func FuzzSlot(f *testing.F) {
	f.Add([]byte{0, 3, 6, 3, 7, 7, 7, 8, 8, 8})
	f.Add([]byte{0, 2, 2, 2, 2, 2, 2, 2, 2, 8, 8, 8, 8})
	f.Add([]byte{0, 8, 8, 7, 8, 1, 0, 3, 4, 3, 5})
	f.Add([]byte{0, 3, 10, 11, 12, 10, 13, 10, 7, 3, 10, 11, 7})
	f.Fuzz(func(t *testing.T, script []byte) {
		checkInvariants(t, script, func(s slot, now time.Time, tr trigger, p Policy) (slot, []action, bool) { return s.step(now, tr, p) })
	})
}

type stepper func(slot, time.Time, trigger, Policy) (slot, []action, bool)

func checkInvariants(t testing.TB, script []byte, step stepper) {
	p := testPolicy()
	var s slot
	now, worker, successor := epoch, false, false
	var busy time.Duration // time spent starting
	for i, b := range script {
		tr := trigger(b) % triggers
		now = now.Add(time.Duration(b/byte(triggers)) * 20 * time.Millisecond)
		if s.phase == backoff && tr == want {
			tr = tick // an operator's wish may break the duty rule; it is not under test here
		}
		was := s
		var todo []action
		var legal bool
		if s, todo, legal = step(s, now, tr, p); !legal {
			if s != was || todo != nil {
				t.Fatalf("step %d: an illegal %v changed the slot", i, tr)
			}
			continue
		}
		switch tr {
		case startFailed, leaves, leavesCrowd, exitPlanned, exitKilled, exitCrashed:
			if was.phase != killing || tr != leaves && tr != leavesCrowd {
				worker = false
			}
			if successor && (len(todo) == 0 || todo[0] != actPromote) {
				t.Fatalf("step %d: %v in %v leaves a successor behind", i, tr, was.phase)
			}
			if was.phase == starting || was.phase == killing {
				busy += now.Sub(was.began)
			}
		case saidReady:
			if was.phase == starting {
				busy += now.Sub(was.began)
			}
		case unwant:
			worker = false
		}
		for _, a := range todo {
			switch a {
			case actStart:
				if worker {
					t.Fatalf("step %d: %v in %v starts a second worker", i, tr, was.phase)
				}
				worker = true
			case actSuccessor:
				if !worker || successor {
					t.Fatalf("step %d: %v in %v starts a successor, worker=%v, successor=%v", i, tr, was.phase, worker, successor)
				}
				successor = true
			case actPromote, actDismiss:
				if !successor {
					t.Fatalf("step %d: %v in %v wants a successor that is not there", i, tr, was.phase)
				}
				successor, worker = false, worker || a == actPromote
			}
			if a == actRetire && (was.phase == empty || was.phase == backoff) {
				t.Fatalf("step %d: retires a worker that is not there", i)
			}
		}
		hasSuccessor := s.phase == replacing || s.phase == proving
		if hasSuccessor != successor {
			t.Fatalf("step %d: after %v in %v the phase is %v but successor=%v", i, tr, was.phase, s.phase, successor)
		}
		hasWorker := s.phase == starting || s.phase == killing || s.serves()
		if hasWorker != worker {
			t.Fatalf("step %d: after %v in %v the phase is %v but worker=%v", i, tr, was.phase, s.phase, worker)
		}
		if s.phase == backoff && s.next.After(now.Add(max(maxDelay, dutyFactor*s.took))) {
			t.Fatalf("step %d: next start %v away", i, s.next.Sub(now))
		}
		if slices.Contains(todo, actStart) && was.phase != empty &&
			was.took > 0 && now.Before(was.began.Add(dutyFactor*was.took)) {
			t.Fatalf("step %d: started %v after the last start, which took %v", i, now.Sub(was.began), was.took)
		}
		if s.phase != empty && s.phase != ready && s.deadline(p).IsZero() && s.phase != killing {
			t.Fatalf("step %d: phase %v has no deadline", i, s.phase)
		}
	}
}

// The control to the fuzz test: a step function that forgets the start when a
// worker is killed, or starts twice, is caught by the same invariants.
func TestInvariantsCatchABrokenStep(t *testing.T) {
	for name, broken := range map[string]stepper{
		"forgets to start": func(s slot, now time.Time, tr trigger, p Policy) (slot, []action, bool) {
			next, todo, legal := s.step(now, tr, p)
			if tr == exitKilled {
				return next, nil, legal
			}
			return next, todo, legal
		},
		"ignores the duty rule": func(s slot, now time.Time, tr trigger, p Policy) (slot, []action, bool) {
			next, todo, legal := s.step(now, tr, p)
			if legal && next.phase == backoff {
				next, todo = start(next, now, p)
			}
			return next, todo, legal
		},
	} {
		probe := &recorder{TB: t}
		func() {
			defer func() { _ = recover() }()
			checkInvariants(probe, []byte{byte(want), byte(saidReady), byte(exitKilled), byte(saidReady) + 5*byte(triggers), byte(exitKilled), byte(saidReady), byte(exitKilled)}, broken)
		}()
		if !probe.failed {
			t.Errorf("a step that %s passes", name)
		}
	}
}

// recorder notes a failure in place of failing.
type recorder struct {
	testing.TB
	failed bool
}

func (r *recorder) Fatalf(string, ...any) { r.failed = true; panic("failed") }
