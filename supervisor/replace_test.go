package supervisor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor/event"
)

// rereading adds what a reload reads: the same settings but for a change.
func rereading(cfg Config, change func(*Settings), lines ...string) Config {
	s := cfg.Settings
	cfg.Reread = func() (Settings, []string, error) {
		s.Policy.jitter = steady
		change(&s)
		return s, lines, nil
	}
	return cfg
}

func same(*Settings) {}

// begun is an operation that has begun, or the test ends.
func begun(t *testing.T) func(*Operation, error) *Operation {
	return func(op *Operation, err error) *Operation {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return op
	}
}

func (i *fakeInstance) reloadNow() *Operation {
	i.t.Helper()
	return begun(i.t)(i.Reload(context.Background(), "uid 7, pid 4711"))
}

// ended is the outcome of an operation that must have one.
func ended(t *testing.T, op *Operation) error {
	t.Helper()
	select {
	case <-op.Done():
		return op.Err()
	default:
		t.Fatal("the operation has not ended")
		return nil
	}
}

func (s Status) workers() (ids []uint64) {
	for _, w := range s.Workers {
		if !w.Former && !w.Successor {
			ids = append(ids, w.Worker)
		}
	}
	return ids
}

// servingRange is how few and how many workers served at a time, by the events,
// from the first moment at which all of them did.
func servingRange(events []event.Event, n int) (fewest, most int) {
	serving, fewest := map[uint64]bool{}, n
	full := false
	for _, e := range events {
		switch e.Kind {
		case event.WorkerReady:
			serving[e.Worker] = true
		case event.WorkerStopping, event.WorkerExited:
			delete(serving, e.Worker)
		}
		full = full || len(serving) == n
		if most = max(most, len(serving)); full {
			fewest = min(fewest, len(serving))
		}
		if e.Kind == event.InstanceStopping {
			break
		}
	}
	return fewest, most
}

func TestReloadReplacesOneSlotAfterTheOtherWithoutEverServingWithFewer(t *testing.T) {
	cfg := two
	cfg.Workers = 4
	cfg = rereading(cfg, same)
	inBubble(t, cfg, serve(10*time.Millisecond, time.Second), func(i *fakeInstance) {
		i.pass(time.Second)
		op := i.reloadNow()
		i.pass(5 * time.Millisecond)
		s := i.status()
		if s.Ready != 4 || s.Operation == nil || s.Operation.Kind != "reload" || !strings.Contains(s.Operation.Step, "worker 1") {
			t.Errorf("while the first successor starts: %d ready, operation %+v", s.Ready, s.Operation)
		}
		if w := s.Workers[1]; !w.Successor || w.Slot != 0 || w.State != "starting" || s.Workers[0].State != "ready" {
			t.Errorf("the first two rows of ps are %+v", s.Workers[:2])
		}
		i.pass(36 * time.Millisecond)
		if err := ended(t, op); err != nil {
			t.Fatal(err)
		}
		if s := i.status(); !slices.Equal(s.workers(), []uint64{5, 6, 7, 8}) || s.Operation != nil {
			t.Errorf("workers %v serve after the reload; operation %+v", s.workers(), s.Operation)
		}
		i.pass(2 * time.Second)
		if fewest, most := servingRange(i.Events().Since(0), 4); fewest != 4 || most != 5 {
			t.Errorf("between %d and %d workers served, want 4 to 5", fewest, most)
		}
		for _, e := range i.exits() {
			if e.Cause != "requested" || e.Reason != "reload" || !e.Planned {
				t.Errorf("worker %d left by %+v", e.Worker, e.Exit)
			}
		}
		if want := []string{"no setting differs", "slot 0: worker 1 → 5", "slot 1: worker 2 → 6", "slot 2: worker 3 → 7", "slot 3: worker 4 → 8"}; !slices.Equal(i.operationSteps(op), want) {
			t.Errorf("steps %q, want %q", i.operationSteps(op), want)
		}
	})
}

// The control to the range above: a worker that dies is seen.
func TestServingRangeSeesAGap(t *testing.T) {
	inBubble(t, two, serve(10*time.Millisecond, 0), func(i *fakeInstance) {
		i.pass(time.Second)
		_ = i.Kill(context.Background(), 1, unix.SIGTERM)
		i.pass(time.Second)
		if fewest, _ := servingRange(i.Events().Since(0), 2); fewest != 1 {
			t.Errorf("%d is the fewest, and a worker left before its successor came", fewest)
		}
	})
}

func TestSuccessorThatCannotTakeOverLeavesTheOldWorkersAndTheReloadSaysWhy(t *testing.T) {
	for _, c := range []struct {
		name string
		bad  func(*fakeProcess)
		says string
		exit string
	}{
		{"exits", crash(5*time.Millisecond, exitStatus(3)), "worker 3 ended before it took over: exit 3", "exit 3"},
		{"is killed", crash(5*time.Millisecond, unix.WaitStatus(unix.SIGKILL)), "worker 3 ended before it took over: signal KILL", "signal KILL"},
		{"hangs", deaf, "worker 3 was not ready within the start timeout of 3.0s", "start-timeout"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := two
			cfg.Policy.StartTimeout = 3 * time.Second
			cfg = rereading(cfg, func(s *Settings) { s.Chaos = false }, "chaos: true → false")
			var ill atomic.Bool
			inBubble(t, cfg, func(p *fakeProcess) {
				if ill.Load() {
					c.bad(p)
					return
				}
				serve(time.Millisecond, 0)(p)
			}, func(i *fakeInstance) {
				i.pass(time.Minute)
				ill.Store(true)
				op := i.reloadNow()
				i.pass(3100 * time.Millisecond)
				err := ended(t, op)
				if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "slot 0: ") || !strings.Contains(err.Error(), "worker 1 goes on serving") {
					t.Errorf("the reload ended with %v, want %q", err, c.says)
				}
				i.pass(time.Minute)
				s := i.status()
				if !slices.Equal(s.workers(), []uint64{1, 2}) || s.Ready != 2 || len(s.Workers) != 2 || s.State != "ready" {
					t.Errorf("afterwards %s with %+v", s.State, s.Workers)
				}
				if exits := i.exits(); len(exits) != 1 || exits[0].Cause != c.exit {
					t.Errorf("exits %+v, want the successor's by %s", exits, c.exit)
				}
				if i.world.starts() != 3 {
					t.Errorf("%d starts, want one more than two", i.world.starts())
				}
				if !i.cfg.Chaos {
					t.Error("the settings of the failed reload are in force")
				}
			})
		})
	}
}

func TestForkThatFailsInAReloadLeavesTheOldWorkers(t *testing.T) {
	inBubble(t, rereading(two, same), serve(time.Millisecond, 0), func(i *fakeInstance) {
		i.pass(time.Second)
		i.world.forksFail(errFork)
		op := i.reloadNow()
		i.pass(time.Millisecond)
		if err := ended(t, op); err == nil || !strings.Contains(err.Error(), errFork.Error()) {
			t.Errorf("the reload ended with %v", err)
		}
		if s := i.status(); !slices.Equal(s.workers(), []uint64{1, 2}) || s.Ready != 2 {
			t.Errorf("afterwards %+v", s.Workers)
		}
	})
}

func TestReloadThatStopsHalfWaySaysWhoServesWithWhat(t *testing.T) {
	cfg := rereading(two, func(s *Settings) { s.Workers = 3 }, "workers: 2 → 3")
	inBubble(t, cfg, serve(time.Millisecond, 0), func(i *fakeInstance) {
		i.pass(time.Second)
		i.world.behaves(func(p *fakeProcess) {
			if strings.Contains(p.launch.args[0], "slot 1") {
				crash(time.Millisecond, exitStatus(9))(p)
				return
			}
			serve(time.Millisecond, 0)(p)
		})
		op := i.reloadNow()
		i.pass(time.Second)
		if err := ended(t, op); err == nil || !strings.Contains(err.Error(), "slot 1: worker 5 ended before it took over: exit 9") {
			t.Errorf("the reload ended with %v", err)
		}
		s := i.status()
		if !slices.Equal(s.workers(), []uint64{4, 2}) || s.Ready != 2 || s.Desired != 2 {
			t.Errorf("afterwards %d of %d are ready: %v", s.Ready, s.Desired, s.workers())
		}
		last := i.operationSteps(op)
		if text := last[len(last)-1]; !strings.Contains(text, "former settings are in force again") || !strings.Contains(text, "1 new") {
			t.Errorf("the last step says %q", text)
		}
	})
}

func (i *fakeInstance) operationSteps(op *Operation) (steps []string) {
	for _, e := range i.Events().Since(0) {
		if e.Kind == event.OperationStep && e.Operation == op.Number() {
			steps = append(steps, e.Message)
		}
	}
	return steps
}

func TestWorkerKilledWhileItsSuccessorStartsIsFollowedByThatOne(t *testing.T) {
	inBubble(t, rereading(two, same), serve(10*time.Millisecond, 0), func(i *fakeInstance) {
		i.pass(time.Second)
		op := i.reloadNow()
		i.pass(5 * time.Millisecond)
		i.world.any().end(unix.WaitStatus(unix.SIGKILL)) // worker 1, which has the lowest pid
		i.pass(time.Millisecond)
		if s := i.status(); s.Ready != 1 || s.Workers[0].Worker != 3 || s.Workers[0].State != "starting" {
			t.Errorf("after the death: %+v", s.Workers[0])
		}
		i.pass(15 * time.Millisecond)
		if err := ended(t, op); err != nil {
			t.Errorf("the reload ended with %v", err)
		}
		if s := i.status(); !slices.Equal(s.workers(), []uint64{3, 4}) || i.world.starts() != 4 {
			t.Errorf("workers %v after %d starts, want [3 4] after 4", s.workers(), i.world.starts())
		}
	})
}

func TestRefusedSettingsChangeNothing(t *testing.T) {
	cfg := two
	cfg.Reread = func() (Settings, []string, error) { return Settings{}, nil, errors.New("file:1:2: wokers") }
	inBubble(t, cfg, serve(time.Millisecond, 0), func(i *fakeInstance) {
		i.pass(time.Second)
		op := i.reloadNow()
		i.pass(time.Second)
		if err := ended(t, op); err == nil || !strings.Contains(err.Error(), "refused, nothing was changed: file:1:2: wokers") {
			t.Errorf("the reload ended with %v", err)
		}
		if s := i.status(); !slices.Equal(s.workers(), []uint64{1, 2}) || i.world.starts() != 2 || i.cfg.Workers != 2 {
			t.Errorf("afterwards %v after %d starts", s.workers(), i.world.starts())
		}
	})
}

func TestReloadWithAnotherNumberGrowsFirstAndShrinksLast(t *testing.T) {
	for _, n := range []int{4, 1} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			cfg := two
			cfg.Procs = func(n int) []int { return slices.Repeat([]int{8 / n}, n) }
			cfg = rereading(cfg, func(s *Settings) { s.Workers = n }, fmt.Sprintf("workers: 2 → %d", n))
			inBubble(t, cfg, serve(10*time.Millisecond, 0), func(i *fakeInstance) {
				i.pass(time.Second)
				op := i.reloadNow()
				i.pass(time.Second)
				if err := ended(t, op); err != nil {
					t.Fatal(err)
				}
				if s := i.status(); s.Ready != n || s.Desired != n || slices.Min(s.workers()) < 3 {
					t.Errorf("%d of %d ready, workers %v", s.Ready, s.Desired, s.workers())
				}
				if fewest, _ := servingRange(i.Events().Since(0), 2); fewest < min(2, n) {
					t.Errorf("at one time only %d served", fewest)
				}
				for _, p := range i.world.living {
					if share := fmt.Sprintf("GOMAXPROCS=%d", 8/n); !slices.Contains(p.launch.env, share) {
						t.Errorf("a worker of %d is not told %s", n, share)
					}
				}
			})
		})
	}
}

func TestStopWinsOverAReloadAtEveryStep(t *testing.T) {
	for _, c := range []struct {
		name string
		wait time.Duration
	}{
		{"while it reads", 0}, {"while the first successor starts", 55 * time.Millisecond}, {"between two slots", 61 * time.Millisecond},
		{"while the last successor starts", 65 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := rereading(two, func(*Settings) { time.Sleep(50 * time.Millisecond) })
			inBubble(t, cfg, serve(10*time.Millisecond, 10*time.Millisecond), func(i *fakeInstance) {
				i.pass(time.Second)
				op := i.reloadNow()
				i.pass(c.wait)
				i.signals <- unix.SIGTERM
				i.pass(time.Second)
				var stopping *StoppingError
				if err := ended(t, op); !errors.As(err, &stopping) {
					t.Errorf("the reload ended with %v", err)
				}
				select {
				case err := <-i.result:
					i.result <- nil
					if err != nil {
						t.Errorf("Run: %v", err)
					}
				default:
					t.Error("the instance has not ended a second after TERM")
				}
			})
		})
	}
}

func TestRestartReplacesTheWorkerThatWasNamedAndNoOther(t *testing.T) {
	inBubble(t, two, serve(time.Millisecond, time.Second), func(i *fakeInstance) {
		i.pass(time.Second)
		op := begun(t)(i.Restart(context.Background(), 2, "me"))
		i.pass(100 * time.Millisecond)
		if err := ended(t, op); err != nil {
			t.Fatal(err)
		}
		if s := i.status(); !slices.Equal(s.workers(), []uint64{1, 3}) {
			t.Errorf("workers %v", s.workers())
		}
		var unknown *UnknownWorkerError
		if _, err := i.Restart(context.Background(), 99, "me"); !errors.As(err, &unknown) {
			t.Errorf("a restart of nobody: %v", err)
		}
		if _, err := i.Restart(context.Background(), 2, "me"); err == nil {
			t.Error("a worker that drains was restarted")
		}
		op = begun(t)(i.Restart(context.Background(), 0, "me"))
		i.pass(100 * time.Millisecond)
		if s := i.status(); ended(t, op) != nil || !slices.Equal(s.workers(), []uint64{4, 5}) {
			t.Errorf("after restarting all: %v", s.workers())
		}
		i.pass(2 * time.Second)
		for _, e := range i.exits() {
			if e.Reason != "restart" || e.Cause != "requested" {
				t.Errorf("worker %d left by %+v", e.Worker, e.Exit)
			}
		}
	})
}

func TestScaleWaitsForTheNewWorkersAndGoesBackWhenOneCannotServe(t *testing.T) {
	inBubble(t, two, serve(10*time.Millisecond, 0), func(i *fakeInstance) {
		i.pass(time.Second)
		op := begun(t)(i.Scale(context.Background(), 2, true, "me"))
		i.pass(9 * time.Millisecond)
		select {
		case <-op.Done():
			t.Error("done before the new ones are ready")
		default:
		}
		i.pass(2 * time.Millisecond)
		if s := i.status(); ended(t, op) != nil || s.Ready != 4 {
			t.Errorf("%d ready after %v", s.Ready, op.Err())
		}
		i.world.behaves(crash(time.Millisecond, exitStatus(5)))
		op = begun(t)(i.Scale(context.Background(), 6, false, "me"))
		i.pass(time.Second)
		if err := ended(t, op); err == nil || !strings.Contains(err.Error(), "exit 5") {
			t.Errorf("scaling with a program that crashes ended with %v", err)
		}
		if s := i.status(); s.Ready != 4 || s.Desired != 4 || i.state.sizeOr(2) != 4 {
			t.Errorf("%d of %d ready afterwards, and %d for a later master", s.Ready, s.Desired, i.state.sizeOr(2))
		}
		if _, err := i.Scale(context.Background(), 600, false, "me"); err == nil {
			t.Error("600 workers are allowed")
		}
	})
}

func TestSignalsToScaleInOneBreathAddUp(t *testing.T) {
	inBubble(t, two, serve(10*time.Millisecond, 0), func(i *fakeInstance) {
		i.pass(time.Second)
		for range 3 {
			i.signals <- unix.SIGTTIN
		}
		i.signals <- unix.SIGTTOU
		i.pass(time.Second)
		if s := i.status(); s.Ready != 4 || s.Desired != 4 {
			t.Errorf("%d of %d ready after two and +1 +1 +1 -1", s.Ready, s.Desired)
		}
	})
}

func TestReloadBringsBackASlotThatWaitsAfterFailures(t *testing.T) {
	inBubble(t, rereading(two, same), serve(time.Millisecond, 0), func(i *fakeInstance) {
		i.pass(time.Second)
		i.world.behaves(crash(time.Millisecond, exitStatus(1)))
		i.world.any().end(exitStatus(1))
		i.pass(10 * time.Second)
		if s := i.status(); s.Workers[0].State != "backoff" {
			t.Fatalf("slot 0 is %s", s.Workers[0].State)
		}
		i.world.behaves(serve(time.Millisecond, 0))
		op := i.reloadNow()
		i.pass(10 * time.Millisecond)
		if s := i.status(); ended(t, op) != nil || s.Ready != 2 {
			t.Errorf("%d ready after a reload that cures: %v", s.Ready, op.Err())
		}
	})
}

func TestReloadEndsAtASlotWhereNoWorkerCanBeStarted(t *testing.T) {
	inBubble(t, rereading(two, func(s *Settings) { s.Workers = 3 }), serve(time.Millisecond, 0), func(i *fakeInstance) {
		i.pass(time.Second)
		i.world.forksFail(errFork)
		i.world.any().end(exitStatus(1))
		i.pass(time.Second)
		op := i.reloadNow()
		i.pass(time.Minute)
		if err := ended(t, op); err == nil || !strings.Contains(err.Error(), "slot 0: cannot start a worker: "+errFork.Error()) {
			t.Errorf("the reload ended with %v", err)
		}
		op = begun(t)(i.Scale(context.Background(), 3, false, "uid 7"))
		i.pass(time.Minute)
		if err := ended(t, op); err == nil || !strings.Contains(err.Error(), "slot 2: cannot start a worker") {
			t.Errorf("the scaling ended with %v", err)
		}
		i.world.forksFail(nil)
		i.pass(time.Minute)
		if s := i.status(); s.Ready != 2 || s.Desired != 2 {
			t.Errorf("afterwards %d of %d are ready", s.Ready, s.Desired)
		}
	})
}

func TestReloadWaitsWhileTooManyDrain(t *testing.T) {
	cfg := two
	cfg.Policy.DrainTimeout = time.Minute
	cfg = rereading(cfg, same)
	inBubble(t, cfg, serve(time.Millisecond, 10*time.Second), func(i *fakeInstance) {
		i.pass(time.Second)
		for range 3 {
			op := i.reloadNow()
			i.pass(100 * time.Millisecond)
			if err := ended(t, op); err != nil {
				t.Fatal(err)
			}
		}
		op := i.reloadNow()
		i.pass(100 * time.Millisecond)
		if s := i.status(); s.Operation == nil || !strings.Contains(s.Operation.Step, "6 workers still drain") || len(s.Workers) != 8 {
			t.Errorf("with 6 workers that drain: %+v, %d rows", s.Operation, len(s.Workers))
		}
		i.pass(10 * time.Second)
		if err := ended(t, op); err != nil {
			t.Error(err)
		}
	})
}
