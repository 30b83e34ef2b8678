package supervisor

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor/event"
	"revenant/worker/scoreboard"
)

func TestPreStopSaysNotReadyAndGoesOnBeforeItStops(t *testing.T) {
	cfg := two
	cfg.PreStop = 5 * time.Second
	inBubble(t, cfg, serve(time.Millisecond, time.Second), func(i *fakeInstance) {
		i.pass(time.Second)
		began := time.Now()
		i.signals <- unix.SIGTERM
		i.pass(4900 * time.Millisecond)
		if s := i.status(); s.State != "stopping" || s.Healthy() || s.Ready != 2 || i.count(event.WorkerStopping) != 0 {
			t.Errorf("during the delay: %s, healthy %v, %d ready", s.State, s.Healthy(), s.Ready)
		}
		i.world.any().end(unix.WaitStatus(unix.SIGKILL)) // it takes connections: its slot is filled again
		i.pass(50 * time.Millisecond)
		if s := i.status(); s.Ready != 2 {
			t.Errorf("%d of 2 ready after a death during the delay", s.Ready)
		}
		err := <-i.result
		i.result <- nil
		if took := time.Since(began); err != nil || took < 6*time.Second || took > 6100*time.Millisecond {
			t.Errorf("stopped after %v with %v, want 5 s and 1 s of draining", took, err)
		}
	})
}

func TestSecondSignalCutsThePreStopDelay(t *testing.T) {
	cfg := two
	cfg.PreStop = time.Hour
	inBubble(t, cfg, serve(time.Millisecond, time.Hour), func(i *fakeInstance) {
		i.pass(time.Second)
		i.signals <- unix.SIGTERM
		i.pass(time.Second)
		i.signals <- unix.SIGTERM
		i.pass(time.Millisecond)
		select {
		case err := <-i.result:
			i.result <- nil
			if !errors.As(err, new(*KilledError)) {
				t.Errorf("Run: %v", err)
			}
		default:
			t.Error("still there")
		}
	})
}

func TestStopCountsTheRequestsThatItCuts(t *testing.T) {
	cfg := two
	cfg.Policy.DrainTimeout = time.Second
	inBubble(t, cfg, serve(time.Millisecond, time.Hour), func(i *fakeInstance) {
		i.pass(time.Second)
		i.onBoard(1, func(b *scoreboard.Board) {
			for range 3 {
				b.ConnNew()
			}
		})
		i.signals <- unix.SIGTERM
		<-i.result
		i.result <- nil
		events := i.Events().Since(0)
		if last := events[len(events)-1]; last.Kind != event.InstanceStopped || last.Count != 3 || last.Message != "3 requests cut" {
			t.Errorf("the last event is %+v", last)
		}
	})
}
