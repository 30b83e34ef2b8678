package supervisor

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor/event"
	"revenant/supervisor/notify"
)

var two = Config{Settings: Settings{Workers: 2, Chaos: true}, Generation: 1}

func TestKilledWorkerIsReplacedAtOnceAndTheOthersAreNotTouched(t *testing.T) {
	inBubble(t, two, serve(10*time.Millisecond, 0), func(i *fakeInstance) {
		i.pass(time.Second)
		before := i.status()
		i.world.any().end(unix.WaitStatus(unix.SIGKILL))
		i.pass(10 * time.Millisecond) // the boot, and nothing else
		after := i.status()
		if after.Ready != 2 || after.Workers[0].Worker != 3 || after.Workers[0].Restarts != 1 {
			t.Errorf("after a kill: %+v", after.Workers[0])
		}
		if after.Workers[1].PID != before.Workers[1].PID {
			t.Error("the sibling was replaced too")
		}
		if e := i.exits()[0]; e.Cause != "signal KILL" || e.Planned {
			t.Errorf("the exit is told as %q, planned %v", e.Cause, e.Planned)
		}
	})
}

func TestCausesAreEstablished(t *testing.T) {
	for _, c := range []struct {
		name    string
		end     func(i *fakeInstance, p *fakeProcess)
		cause   string
		planned bool
	}{
		{"exit 0", func(_ *fakeInstance, p *fakeProcess) { p.end(exitStatus(0)) }, "exit 0", false},
		{"exit 7", func(_ *fakeInstance, p *fakeProcess) { p.end(exitStatus(7)) }, "exit 7", false},
		{"signal", func(_ *fakeInstance, p *fakeProcess) { p.end(unix.WaitStatus(unix.SIGSEGV)) }, "signal SEGV", false},
		{"somebody's SIGTERM, obeyed", func(_ *fakeInstance, p *fakeProcess) { p.signals <- unix.SIGTERM }, "exit 0", true},
		{"operator", func(i *fakeInstance, p *fakeProcess) { _ = i.Kill(context.Background(), 1, unix.SIGTERM) }, "requested", true},
		{"operator's SIGKILL", func(i *fakeInstance, p *fakeProcess) { _ = i.Kill(context.Background(), 1, unix.SIGKILL) }, "requested", true},
		{"out of memory", func(i *fakeInstance, p *fakeProcess) { i.world.runOutOfMemory(); p.end(unix.WaitStatus(unix.SIGKILL)) }, "oom", false},
		{"killed while something else ran out of memory long ago", func(i *fakeInstance, p *fakeProcess) {
			i.world.runOutOfMemory()
			_ = i.ask(context.Background(), func() { i.oom.count++ })
			p.end(unix.WaitStatus(unix.SIGKILL))
		}, "signal KILL", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, two, serve(time.Millisecond, time.Millisecond), func(i *fakeInstance) {
				i.pass(time.Second)
				c.end(i, i.world.any())
				i.pass(time.Second)
				if len(i.exits()) != 1 {
					t.Fatalf("%d exits, want 1", len(i.exits()))
				}
				if e := i.exits()[0]; e.Cause != c.cause || e.Planned != c.planned {
					t.Errorf("cause %q, planned %v; want %q, %v", e.Cause, e.Planned, c.cause, c.planned)
				}
				if s := i.status(); s.Ready != 2 {
					t.Errorf("%d of 2 ready afterwards", s.Ready)
				}
			})
		})
	}
}

func TestTwoOOMKillsInOneBreathAreBothNamedAndLeaveNoneForLater(t *testing.T) {
	inBubble(t, two, serve(time.Millisecond, 0), func(i *fakeInstance) {
		i.pass(time.Second)
		i.world.runOutOfMemory()
		i.world.runOutOfMemory()
		for range 2 {
			i.world.any().end(unix.WaitStatus(unix.SIGKILL))
		}
		i.pass(2 * time.Second)
		i.world.runOutOfMemory() // a worker's helper, which nobody hears of
		i.world.runOutOfMemory()
		i.world.any().end(exitStatus(1))
		i.pass(2 * time.Second)
		i.world.any().end(unix.WaitStatus(unix.SIGKILL))
		i.pass(time.Second)
		var causes []string
		for _, e := range i.exits() {
			causes = append(causes, e.Cause)
		}
		if want := []string{"oom", "oom", "exit 1", "signal KILL"}; !slices.Equal(causes, want) {
			t.Errorf("causes %q, want %q", causes, want)
		}
	})
}

func TestDeafWorkerIsCutAtTheDrainDeadlineAndSoNamed(t *testing.T) {
	boot := serve(time.Millisecond, time.Hour) // it would drain for an hour
	cfg := two
	cfg.Policy.DrainTimeout = 5 * time.Second
	inBubble(t, cfg, boot, func(i *fakeInstance) {
		i.pass(time.Second)
		_ = i.Kill(context.Background(), 1, unix.SIGTERM)
		i.pass(4900 * time.Millisecond)
		if len(i.exits()) != 0 {
			t.Fatal("cut before the deadline")
		}
		if s := i.status(); s.Ready != 2 || len(s.Workers) != 3 || s.Workers[2].State != "draining" || s.Workers[2].Deadline == nil {
			t.Errorf("a draining worker must be listed beside a full house: %+v", s.Workers)
		}
		i.pass(200 * time.Millisecond)
		if exits := i.exits(); len(exits) != 1 || exits[0].Cause != "drain-timeout" || !exits[0].Planned {
			t.Errorf("exits: %+v", exits)
		}
	})
}

func TestSlowStarterIsKilledAtTheStartDeadline(t *testing.T) {
	cfg := two
	cfg.Policy.StartTimeout = 3 * time.Second
	var slow atomic.Bool
	inBubble(t, cfg, func(p *fakeProcess) {
		if strings.Contains(p.launch.args[0], "slot 1") && !slow.Swap(true) {
			deaf(p)
			return
		}
		serve(time.Millisecond, 0)(p)
	}, func(i *fakeInstance) {
		i.pass(2900 * time.Millisecond)
		if i.status().Ready != 1 {
			t.Error("the healthy slot should serve meanwhile")
		}
		i.pass(20 * time.Second)
		if exits := i.exits(); len(exits) != 1 || exits[0].Cause != "start-timeout" || exits[0].Planned {
			t.Errorf("exits: %+v", exits)
		}
		if i.status().Ready != 2 {
			t.Error("not healed afterwards")
		}
	})
}

func TestInstanceThatNeverServesEndsWithOneClearError(t *testing.T) {
	for name, behave := range map[string]func(*fakeProcess){
		"exits": crash(time.Millisecond, exitStatus(3)),
		"hangs": deaf,
	} {
		t.Run(name, func(t *testing.T) {
			cfg := two
			cfg.Policy.StartTimeout = time.Second
			inBubble(t, cfg, behave, func(i *fakeInstance) {
				i.pass(1100 * time.Millisecond)
				select {
				case err := <-i.result:
					i.result <- nil
					if !errors.Is(err, ErrNoWorkerReady) || !strings.Contains(err.Error(), "slot 1:") {
						t.Errorf("Run: %v", err)
					}
				default:
					t.Error("still trying")
					i.signals <- unix.SIGTERM
				}
				if !slices.Contains(i.world.heard(), notify.Stopping) {
					t.Error("the keeper would take this for a death and try again")
				}
			})
		})
	}
}

func TestInstanceThatServedOnceNeverGivesUp(t *testing.T) {
	var ill atomic.Bool
	inBubble(t, two, func(p *fakeProcess) {
		if !ill.Load() {
			serve(time.Millisecond, 0)(p)
		} else {
			crash(time.Millisecond, exitStatus(1))(p)
		}
	}, func(i *fakeInstance) {
		i.pass(time.Minute)
		ill.Store(true)
		for range 2 {
			i.world.any().end(exitStatus(1))
		}
		before := i.world.starts()
		i.pass(30 * time.Second)
		if n := (i.world.starts() - before); n > 24 || n < 10 {
			t.Errorf("%d starts of two slots in 30 s of crashes, want at most 24", n)
		}
		s := i.status()
		if s.State != "degraded" || s.Workers[0].NextStart == nil || s.Healthy() {
			t.Errorf("status in a crash loop: %+v", s)
		}
		if i.count(event.InstanceDegraded) != 1 {
			t.Errorf("degraded was told %d times", i.count(event.InstanceDegraded))
		}
		i.pass(time.Hour)
		ill.Store(false)
		i.pass(31 * time.Second)
		if s := i.status(); s.Ready != 2 {
			t.Errorf("%d of 2 ready half a minute after the cause has gone", s.Ready)
		}
	})
}

func TestWatchdogAboveIsFedOnlyWhileSomebodyServesOrStarts(t *testing.T) {
	cfg := two
	cfg.Watchdog = 2 * time.Second
	var ill atomic.Bool
	inBubble(t, cfg, func(p *fakeProcess) {
		if !ill.Load() {
			serve(time.Millisecond, 0)(p)
		} else {
			crash(time.Millisecond, exitStatus(1))(p)
		}
	}, func(i *fakeInstance) {
		fed := func(span time.Duration) (n int) {
			before := len(i.world.heard())
			i.pass(span)
			for _, said := range i.world.heard()[before:] {
				if said == notify.WatchdogAlive {
					n++
				}
			}
			return n
		}
		if n := fed(time.Minute); n < 59 || n > 61 {
			t.Errorf("fed %d times in a minute, want once a second", n)
		}
		ill.Store(true)
		for range 2 {
			i.world.any().end(exitStatus(1))
		}
		i.pass(time.Minute) // the pauses are long now
		if n := fed(25 * time.Second); n > 2 {
			t.Errorf("fed %d times while every worker crashes", n)
		}
		ill.Store(false)
		i.pass(31 * time.Second)
		if n := fed(time.Minute); n < 59 {
			t.Errorf("fed %d times in a minute once workers serve again", n)
		}
	})
}

func TestCrashLoopEndsTheInstanceOnlyWhenAskedTo(t *testing.T) {
	cfg := two
	cfg.Policy.ExitOnCrashLoop = true
	var ill atomic.Bool
	inBubble(t, cfg, func(p *fakeProcess) {
		if !ill.Load() {
			serve(time.Millisecond, 0)(p)
		} else {
			crash(time.Millisecond, exitStatus(1))(p)
		}
	}, func(i *fakeInstance) {
		i.pass(time.Second)
		ill.Store(true)
		for range 2 {
			i.world.any().end(exitStatus(1))
		}
		i.pass(10 * time.Second)
		select {
		case err := <-i.result:
			i.result <- nil
			if !errors.Is(err, ErrCrashLoop) {
				t.Errorf("Run: %v", err)
			}
		default:
			t.Error("still trying")
		}
	})
}

func TestFailedForkIsOneFailedStartAndNotTheMastersEnd(t *testing.T) {
	inBubble(t, two, serve(time.Millisecond, 0), func(i *fakeInstance) {
		i.pass(time.Second)
		i.world.forksFail(errFork)
		i.world.any().end(unix.WaitStatus(unix.SIGKILL))
		i.pass(time.Second)
		s := i.status()
		if s.Ready != 1 || !strings.Contains(s.Workers[0].LastExit.Cause, errFork.Error()) {
			t.Errorf("status while forks fail: %+v", s.Workers[0])
		}
		i.world.forksFail(nil)
		i.pass(10 * time.Second)
		if s := i.status(); s.Ready != 2 {
			t.Error("not healed when forks work again")
		}
	})
}

func TestOneBadSlotDoesNotDisturbTheOthers(t *testing.T) {
	inBubble(t, Config{Settings: Settings{Workers: 4}, Generation: 1}, func(p *fakeProcess) {
		if strings.Contains(p.launch.args[0], "slot 2") {
			crash(time.Millisecond, exitStatus(1))(p)
			return
		}
		serve(time.Millisecond, 0)(p)
	}, func(i *fakeInstance) {
		i.pass(time.Minute)
		s := i.status()
		for _, w := range s.Workers {
			if w.Slot != 2 && (w.State != "ready" || w.Restarts != 0) {
				t.Errorf("slot %d: %s, %d restarts", w.Slot, w.State, w.Restarts)
			}
		}
		if s.Ready != 3 || s.State != "degraded" {
			t.Errorf("%s, %d ready", s.State, s.Ready)
		}
	})
}

func TestStopDrainsEveryWorkerAndReturnsNil(t *testing.T) {
	inBubble(t, two, serve(time.Millisecond, 3*time.Second), func(i *fakeInstance) {
		i.pass(time.Second)
		began := time.Now()
		i.signals <- unix.SIGTERM
		err := <-i.result
		i.result <- nil
		if took := time.Since(began); err != nil || took < 3*time.Second || took > 3100*time.Millisecond {
			t.Errorf("stopped after %v with %v, want 3 s and nil", took, err)
		}
		for _, e := range i.exits() {
			if e.Cause != "requested" || !e.Planned {
				t.Errorf("exit %+v", e.Exit)
			}
		}
		if len(i.exits()) != 2 || i.world.starts() != 2 {
			t.Errorf("%d exits, %d starts; a stopping instance replaces nobody", len(i.exits()), i.world.starts())
		}
		if err := i.Stop(context.Background()); !errors.Is(err, ErrStopped) {
			t.Errorf("a wish to a stopped master: %v", err)
		}
	})
}

func TestSecondSignalStopsAtOnce(t *testing.T) {
	inBubble(t, two, serve(time.Millisecond, time.Hour), func(i *fakeInstance) {
		i.pass(time.Second)
		i.signals <- unix.SIGTERM
		i.pass(500 * time.Millisecond)
		i.signals <- unix.SIGINT
		i.pass(time.Millisecond)
		var killed *KilledError
		select {
		case err := <-i.result:
			i.result <- nil
			if !errors.As(err, &killed) || killed.Signal != unix.SIGINT {
				t.Errorf("Run: %v", err)
			}
		default:
			t.Error("still draining")
		}
	})
}

func TestSignalsChangeTheNumberOfWorkers(t *testing.T) {
	inBubble(t, two, serve(time.Millisecond, 0), func(i *fakeInstance) {
		i.pass(time.Second)
		for _, c := range []struct {
			signal unix.Signal
			want   int
		}{{unix.SIGTTIN, 3}, {unix.SIGTTIN, 4}, {unix.SIGTTOU, 3}, {unix.SIGTTOU, 2}, {unix.SIGTTOU, 1}, {unix.SIGTTOU, 1}, {unix.SIGUSR1, 1}} {
			i.signals <- c.signal
			i.pass(time.Second)
			if s := i.status(); s.Ready != c.want || s.Desired != c.want || len(s.Workers) != c.want {
				t.Errorf("after %v: %d of %d ready, want %d", c.signal, s.Ready, s.Desired, c.want)
			}
		}
		if i.count(event.SignalIgnored) != 1 {
			t.Error("SIGUSR1 has no meaning and should be said to be ignored")
		}
	})
}

func TestReadyIsToldToTheKeeperWhenAllWorkersAre(t *testing.T) {
	inBubble(t, two, func(p *fakeProcess) {
		boot := time.Millisecond
		if strings.Contains(p.launch.args[0], "slot 1") {
			boot = 2 * time.Second
		}
		serve(boot, 0)(p)
	}, func(i *fakeInstance) {
		i.pass(time.Second)
		if slices.Contains(i.world.heard(), notify.Ready) {
			t.Error("READY with one of two workers")
		}
		i.pass(2 * time.Second)
		if n := slices.Index(i.world.heard(), notify.Ready); n < 0 || slices.Contains(i.world.heard()[n+1:], notify.Ready) {
			t.Errorf("READY should be told once: %q", i.world.heard())
		}
	})
}

func TestReadyIsToldAfterTheStartTimeoutWhenSomeWorkersServe(t *testing.T) {
	cfg := two
	cfg.Policy.StartTimeout = 5 * time.Second
	inBubble(t, cfg, func(p *fakeProcess) {
		if strings.Contains(p.launch.args[0], "slot 1") {
			crash(time.Millisecond, exitStatus(1))(p)
			return
		}
		serve(time.Millisecond, 0)(p)
	}, func(i *fakeInstance) {
		i.pass(4900 * time.Millisecond)
		if slices.Contains(i.world.heard(), notify.Ready) {
			t.Error("too early")
		}
		i.pass(200 * time.Millisecond)
		if !slices.Contains(i.world.heard(), notify.Ready) {
			t.Error("one bad slot keeps the whole generation from being committed")
		}
	})
}

func TestWorkerIDsAreNeverReused(t *testing.T) {
	inBubble(t, two, serve(time.Millisecond, 0), func(i *fakeInstance) {
		for range 50 {
			i.pass(time.Second)
			i.world.any().end(unix.WaitStatus(unix.SIGKILL))
		}
		i.pass(time.Second)
		seen := map[uint64]bool{}
		for _, e := range i.Events().Since(0) {
			if e.Kind == event.WorkerStarted {
				if seen[e.Worker] {
					t.Errorf("worker %d started twice", e.Worker)
				}
				seen[e.Worker] = true
			}
		}
		if len(seen) != 52 {
			t.Errorf("%d workers, want 52", len(seen))
		}
	})
}

func TestMessagesOfStrangersAreDropped(t *testing.T) {
	inBubble(t, two, deaf, func(i *fakeInstance) {
		i.world.mail.put(notify.Message{State: []string{notify.Ready}, PID: 4242})
		i.pass(time.Millisecond)
		if i.status().Ready != 0 {
			t.Error("a stranger made a worker ready")
		}
		i.world.any().say(notify.Ready) // the control: the worker itself is believed
		i.pass(time.Millisecond)
		if i.status().Ready != 1 {
			t.Error("the worker itself was not believed")
		}
	})
}

func TestChaosNeverTakesTheLastReadyWorker(t *testing.T) {
	inBubble(t, two, serve(time.Second, 0), func(i *fakeInstance) {
		i.pass(1500 * time.Millisecond)
		refusal := func(worker uint64) (why string) {
			_ = i.ask(context.Background(), func() {
				c := i.children[worker]
				if why = i.chaosRefusal(c); why == "" {
					c.chaos = "kill"
				}
			})
			return why
		}
		if why := refusal(1); why != "" {
			t.Fatalf("one of two may go: %s", why)
		}
		if why := refusal(2); !strings.Contains(why, "last ready worker") {
			t.Errorf("the other one has a permit already, so this is the last: %q", why)
		}
		i.world.any().end(unix.WaitStatus(unix.SIGKILL))
		i.pass(500 * time.Millisecond)
		if why := refusal(2); !strings.Contains(why, "last ready worker") {
			t.Errorf("the successor is not ready: %q", why)
		}
		i.pass(5 * time.Second)
		if why := refusal(2); why != "" {
			t.Errorf("both are ready again: %s", why)
		}
		if e := i.exits()[0]; e.Cause != "chaos" || !e.Planned {
			t.Errorf("a granted death is told as %+v", e.Exit)
		}
	})
}

func TestChaosIsRefusedUnlessEnabled(t *testing.T) {
	inBubble(t, Config{Settings: Settings{Workers: 2}, Generation: 1}, serve(time.Millisecond, 0), func(i *fakeInstance) {
		i.pass(time.Second)
		_ = i.ask(context.Background(), func() {
			if why := i.chaosRefusal(i.children[1]); !strings.Contains(why, "--chaos") {
				t.Errorf("refusal %q", why)
			}
		})
	})
}

func TestPlannedDeathsNeverCountAsCrashes(t *testing.T) {
	inBubble(t, two, serve(time.Millisecond, 0), func(i *fakeInstance) {
		for range 100 {
			i.pass(50 * time.Millisecond)
			s := i.status()
			if s.Ready != 2 {
				t.Fatalf("%d of 2 ready", s.Ready)
			}
			if err := i.Kill(context.Background(), s.Workers[0].Worker, unix.SIGTERM); err != nil {
				t.Fatal(err)
			}
		}
		i.pass(50 * time.Millisecond)
		if s := i.status(); s.Workers[0].Failures != 0 || i.count(event.WorkerBackoff) != 0 {
			t.Errorf("after 100 requested deaths: %d failures, %d backoffs", s.Workers[0].Failures, i.count(event.WorkerBackoff))
		}
	})
}

func TestUnknownWorkerIsNamedInTheError(t *testing.T) {
	inBubble(t, two, serve(time.Millisecond, 0), func(i *fakeInstance) {
		var unknown *UnknownWorkerError
		if err := i.Kill(context.Background(), 99, unix.SIGTERM); !errors.As(err, &unknown) || unknown.Worker != 99 {
			t.Errorf("Kill: %v", err)
		}
	})
}

func TestDeathInAnotherWayThanAskedIsNotExplainedByTheAsking(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(i *fakeInstance)
		end     unix.WaitStatus
		cause   string
	}{
		"asked to drain, killed by somebody": {func(i *fakeInstance) { _ = i.Kill(context.Background(), 1, unix.SIGTERM) }, unix.WaitStatus(unix.SIGKILL), "signal KILL"},
		"asked to drain, crashed":            {func(i *fakeInstance) { _ = i.Kill(context.Background(), 1, unix.SIGTERM) }, unix.WaitStatus(unix.SIGSEGV), "signal SEGV"},
		"stopped and continued long ago": {func(i *fakeInstance) {
			_ = i.Kill(context.Background(), 1, unix.SIGSTOP)
			_ = i.Kill(context.Background(), 1, unix.SIGCONT)
		}, exitStatus(0), "exit 0"},
		"may exit for chaos, killed by somebody": {func(i *fakeInstance) {
			_ = i.ask(context.Background(), func() { i.children[1].chaos = "exit" })
		}, unix.WaitStatus(unix.SIGKILL), "signal KILL"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, two, func(p *fakeProcess) {
				if p.during(time.Millisecond) {
					p.say(notify.Ready)
				}
				<-p.dead // it hears SIGTERM and takes its time
			}, func(i *fakeInstance) {
				i.pass(time.Second)
				first := i.world.any()
				c.prepare(i)
				i.pass(100 * time.Millisecond)
				first.end(c.end)
				i.pass(time.Second)
				if e := i.exits()[0]; e.Worker != 1 || e.Cause != c.cause || e.Planned {
					t.Errorf("worker %d ended by %q, planned %v; want %q, not planned", e.Worker, e.Cause, e.Planned, c.cause)
				}
			})
		})
	}
}

func TestUnusedPermitIsTakenBack(t *testing.T) {
	inBubble(t, two, serve(time.Millisecond, 0), func(i *fakeInstance) {
		i.pass(time.Second)
		_ = i.ask(context.Background(), func() {
			i.children[1].chaos, i.children[1].permit = "kill", time.Now().Add(permitLimit)
		})
		i.pass(permitLimit - time.Second)
		mayGo := func(worker uint64) (why string) {
			_ = i.ask(context.Background(), func() { why = i.chaosRefusal(i.children[worker]) })
			return why
		}
		if mayGo(2) == "" {
			t.Error("while worker 1 may still die, worker 2 is the last")
		}
		i.pass(2 * time.Second)
		if why := mayGo(2); why != "" {
			t.Errorf("worker 1 never used its permit: %s", why)
		}
	})
}

func TestStormOfLeavingWorkersIsBounded(t *testing.T) {
	inBubble(t, two, serve(time.Millisecond, 20*time.Second), func(i *fakeInstance) {
		for range 1000 { // 10 s; somebody's SIGTERM to whoever serves
			i.pass(10 * time.Millisecond)
			_ = i.ask(context.Background(), func() {
				for _, s := range i.seats {
					if s.slot.phase == ready {
						i.platform.kill(s.worker.pid, unix.SIGTERM)
					}
				}
			})
		}
		i.world.mu.Lock()
		n := len(i.world.living)
		i.world.mu.Unlock()
		if n > 25 {
			t.Errorf("%d processes of an instance of two workers", n)
		}
		i.pass(time.Minute)
		if s := i.status(); s.Ready != 2 || len(s.Workers) != 2 {
			t.Errorf("not healed after the storm: %d ready, %d listed", s.Ready, len(s.Workers))
		}
	})
}

func TestLateGenerationDoesNotSpin(t *testing.T) {
	cfg := two
	cfg.Policy.StartTimeout = time.Second
	inBubble(t, cfg, deaf, func(i *fakeInstance) {
		_ = i.ask(context.Background(), func() { i.state.setReady() }) // a later master: it does not give up
		i.pass(3 * time.Second)                                        // the bubble's time stands still while anybody spins
		if i.status().Ready != 0 {
			t.Error("deaf workers are ready")
		}
	})
}

// The control to the tests above: a master whose slots forget to start again is
// seen to stay degraded, so "healed" is not something they see in any case.
func TestBrokenTableIsSeenByTheMastersTests(t *testing.T) {
	good := table[ready][exitKilled]
	table[ready][exitKilled] = func(s slot, now time.Time, _ Policy) (slot, []action) {
		s.phase, s.next = backoff, now.Add(time.Hour)
		return s, nil
	}
	defer func() { table[ready][exitKilled] = good }()
	inBubble(t, two, serve(time.Millisecond, 0), func(i *fakeInstance) {
		i.pass(time.Second)
		i.world.any().end(unix.WaitStatus(unix.SIGKILL))
		i.pass(time.Minute)
		if s := i.status(); s.Ready != 1 {
			t.Errorf("%d ready with a broken table", s.Ready)
		}
	})
}
