package supervisor

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"revenant/supervisor/event"
	"revenant/worker/scoreboard"
)

func exactly() float64 { return 1 }

// answer notes n answered requests of a worker.
func (i *fakeInstance) answer(worker uint64, n int) {
	i.t.Helper()
	i.onBoard(worker, func(b *scoreboard.Board) {
		for range n {
			b.Request(200, time.Now(), time.Millisecond)
		}
	})
}

// onBoard does something with a worker's board, in the loop, which owns it here.
func (i *fakeInstance) onBoard(worker uint64, do func(*scoreboard.Board)) {
	i.t.Helper()
	if err := i.ask(context.Background(), func() { do(i.children[worker].board) }); err != nil {
		i.t.Fatal(err)
	}
}

func TestWorkerThatHasServedEnoughIsReplacedSuccessorFirst(t *testing.T) {
	for _, c := range []struct {
		limit  Limits
		wear   func(i *fakeInstance)
		cause  string
		reason string
	}{
		{Limits{Requests: 100}, func(i *fakeInstance) { i.answer(1, 100) }, "requested", "max-requests"},
		{Limits{Memory: 1 << 20}, func(i *fakeInstance) { i.world.occupies(i.world.any().pid, 1<<20+1) }, "memory-limit", "max-memory"},
	} {
		t.Run(c.reason, func(t *testing.T) {
			cfg := two
			cfg.Recycle = c.limit
			cfg.Recycle.spread = exactly
			inBubble(t, cfg, serve(10*time.Millisecond, time.Second), func(i *fakeInstance) {
				i.pass(10 * time.Second)
				if i.world.starts() != 2 {
					t.Fatal("a worker below its limit was replaced")
				}
				c.wear(i)
				i.pass(5 * time.Second)
				if s := i.status(); !slices.Equal(s.workers(), []uint64{3, 2}) {
					t.Errorf("workers %v, want [3 2]", s.workers())
				}
				exits := i.exits()
				if len(exits) != 1 || exits[0].Cause != c.cause || exits[0].Reason != c.reason || !exits[0].Planned {
					t.Errorf("exits %+v, want one by %s for %s", exits, c.cause, c.reason)
				}
				if fewest, most := servingRange(i.Events().Since(0), 2); fewest != 2 || most != 3 {
					t.Errorf("between %d and %d workers served", fewest, most)
				}
				if last := i.status().Workers[0].LastExit; last == nil || last.Reason != c.reason {
					t.Errorf("ps shows the last exit %+v", last)
				}
			})
		})
	}
}

func TestWorkersAgeOneAfterTheOther(t *testing.T) {
	cfg := two
	cfg.Recycle = Limits{Age: time.Minute, spread: exactly}
	inBubble(t, cfg, serve(10*time.Millisecond, 0), func(i *fakeInstance) {
		i.pass(59 * time.Second)
		if i.world.starts() != 2 {
			t.Error("replaced before its time")
		}
		i.pass(2 * time.Second)
		if s := i.status(); !slices.Equal(s.workers(), []uint64{3, 4}) {
			t.Errorf("after a minute %v serve", s.workers())
		}
		if fewest, most := servingRange(i.Events().Since(0), 2); fewest != 2 || most != 3 {
			t.Errorf("between %d and %d workers served", fewest, most)
		}
		i.pass(9*time.Minute + 30*time.Second)
		if n := i.world.starts(); n != 22 {
			t.Errorf("%d starts in ten and a half minutes, want 22", n)
		}
	})
}

func TestLimitsDifferFromWorkerToWorkerByATenth(t *testing.T) {
	ages := map[time.Duration]bool{}
	for range 1000 {
		l := Limits{Requests: 1000, Age: 1000 * time.Second, Memory: 1000}.share()
		for name, v := range map[string]float64{"requests": float64(l.Requests), "age": l.Age.Seconds(), "memory": float64(l.Memory)} {
			if v < 899 || v > 1101 {
				t.Fatalf("a share of 1000 %s is %v", name, v)
			}
		}
		ages[l.Age] = true
	}
	if len(ages) < 100 {
		t.Errorf("only %d different shares", len(ages))
	}
	if l := (Limits{}).share(); l.Requests != 0 || l.Age != 0 || l.Memory != 0 {
		t.Errorf("no limit became %+v", l)
	}
}

func TestRecyclingWaitsForTheOperationUnderWayAndGivesWayToTheNext(t *testing.T) {
	cfg := two
	cfg.Recycle = Limits{Age: time.Minute, spread: exactly}
	cfg = rereading(cfg, same)
	inBubble(t, cfg, serve(10*time.Millisecond, 0), func(i *fakeInstance) {
		i.pass(time.Second)
		op, err := i.beginNow(opUpgrade, "me")
		if err != nil {
			t.Fatal(err)
		}
		i.pass(5 * time.Minute)
		if i.world.starts() != 2 {
			t.Error("recycled during an operation")
		}
		i.world.behaves(serve(time.Second, 0))
		i.finishNow(op, nil)
		i.pass(500 * time.Millisecond)
		if s := i.status().Operation; s == nil || s.Kind != "recycle" || s.Who != "max-age of worker 1" {
			t.Fatalf("operation %+v, want the recycling that was due", s)
		}
		op = i.reloadNow()
		i.pass(3 * time.Second)
		if err := ended(t, op); err != nil {
			t.Errorf("the reload ended with %v", err)
		}
		if s := i.status(); s.Ready != 2 || len(s.Workers) != 2 {
			t.Errorf("afterwards %+v", s.Workers)
		}
	})
}

// A program that is above the limit as soon as it is up must not start all the
// time, nor keep the others from their turn.
func TestLimitThatIsTooLowDoesNotEatTheMachine(t *testing.T) {
	cfg := two
	cfg.Recycle = Limits{Memory: 1, spread: exactly}
	inBubble(t, cfg, serve(5*time.Second, 0), func(i *fakeInstance) {
		i.world.occupyAll(2)
		i.pass(10 * time.Minute)
		if n := i.world.starts(); n > 2+2*600/25 || n < 20 {
			t.Errorf("%d starts in 600 s of two slots with a program that takes 5 s", n)
		}
		slots := map[int]int{}
		for _, e := range i.exits() {
			slots[*e.Slot]++
		}
		if slots[0] < 10 || slots[1] < 10 {
			t.Errorf("recycled per slot: %v", slots)
		}
	})
}

func TestSlotWhoseSuccessorFailedIsLeftAloneForAWhile(t *testing.T) {
	cfg := two
	cfg.Recycle = Limits{Age: time.Minute, spread: exactly}
	inBubble(t, cfg, serve(time.Millisecond, 0), func(i *fakeInstance) {
		i.pass(time.Second)
		i.world.behaves(crash(time.Millisecond, exitStatus(1)))
		i.pass(10 * time.Minute)
		s := i.status()
		if !slices.Equal(s.workers(), []uint64{1, 2}) || s.Ready != 2 {
			t.Errorf("workers %v", s.workers())
		}
		if n := i.world.starts(); n > 2+2*20 || n < 2+2*15 {
			t.Errorf("%d starts in ten minutes, want one in half a minute for each slot", n)
		}
		failed := i.count(event.OperationFailed)
		if failed != i.world.starts()-2 {
			t.Errorf("%d failures were told, of %d", failed, i.world.starts()-2)
		}
	})
}

func TestRecycledWorkerIsSaidToBe(t *testing.T) {
	cfg := two
	cfg.Recycle = Limits{Age: time.Minute, spread: exactly}
	inBubble(t, cfg, serve(time.Millisecond, 0), func(i *fakeInstance) {
		i.pass(time.Minute + time.Second)
		for _, e := range i.Events().Since(0) {
			if e.Kind == event.OperationStarted && strings.Contains(e.Message, "recycle by max-age of worker 1") {
				return
			}
		}
		t.Error("nothing was said")
	})
}
