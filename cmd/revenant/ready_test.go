package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"revenant/supervisor"
	"revenant/supervisor/event"
	"revenant/supervisor/supervisortest"
)

// Programs that never say so are ready when they wait for connections, in
// whichever way, or one of their children does.
func TestProgramThatSaysNothingIsReadyWhenItWaitsForConnections(t *testing.T) {
	for _, deed := range []string{"serve", "poll", "select", "daemon=quiet,serve"} {
		t.Run(deed, func(t *testing.T) {
			flag := filepath.Join(openDir(t), "go")
			deeds := []string{"await=" + flag, "quiet", deed, "hang"}
			i := supervisortest.Begin(t, nil, append([]string{"--workers=1"}, actor(t, deeds...)...)...)
			i.Await("it starts", func(s supervisor.Status) bool { return len(s.Workers) == 1 && s.Workers[0].PID != 0 })
			if w := i.Now().Workers[0]; w.State != "starting" || w.WaitsFor != "notify or listen" {
				t.Errorf("it is %s, and waited for is %q", w.State, w.WaitsFor)
			}
			if out, _, _ := client(i, t, "ps"); !strings.Contains(out, "starting: notify or listen") {
				t.Errorf("ps does not say what it waits for:\n%s", out)
			}
			if err := os.WriteFile(flag, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			s := i.Await("ready", isReady)
			if s.Workers[0].WaitsFor != "" {
				t.Errorf("ready, it still waits for %s", s.Workers[0].WaitsFor)
			}
			get(t, i.URL())
		})
	}
}

func TestReadinessIsWhatTheOperatorChose(t *testing.T) {
	for _, c := range []struct {
		ready string
		deeds []string
	}{
		{"notify", []string{"ready", "hang"}},
		{"listen", []string{"quiet", "poll"}},
		{"http:/some/where", []string{"quiet", "poll"}},
		{"delay:50ms", []string{"hang"}},
	} {
		t.Run(c.ready, func(t *testing.T) {
			runActor(t, []string{"--workers=1", "--ready=" + c.ready}, c.deeds...)
		})
	}
}

// The twin: what does not count does not make it ready.
func TestProgramThatIsNotReadyInTheChosenWayIsNot(t *testing.T) {
	for _, c := range []struct {
		ready string
		deeds []string
	}{
		{"notify", []string{"quiet", "poll"}},
		{"listen", []string{"ready", "hang"}},
		{"http:/", []string{"ready", "hang"}},
	} {
		t.Run(c.ready, func(t *testing.T) {
			i := supervisortest.Begin(t, nil, append([]string{"--workers=1", "--start-timeout=1s", "--ready=" + c.ready}, actor(t, c.deeds...)...)...)
			if code := i.Wait(); code != exitNoWorker {
				t.Errorf("exit code %d, want %d", code, exitNoWorker)
			}
			if want := "slot 0: start-timeout: it was waited for " + c.ready; !strings.Contains(i.Log(), want) {
				t.Errorf("the log does not say %q", want)
			}
		})
	}
}

func TestWorkerOfThisBinaryIsReadyOnlyWhenItSaysSo(t *testing.T) {
	i := supervisortest.Start(t, "--workers=1", "--", supervisortest.Binary(t), "app")
	events := i.Follow()
	e := supervisortest.AwaitEvent(t, events, "ready", func(e event.Event) bool { return e.Kind == event.WorkerReady })
	if e.Start == 0 || !strings.HasPrefix(get(t, i.URL()), "Hello, I am worker [1]") {
		t.Errorf("%+v", e)
	}
}
