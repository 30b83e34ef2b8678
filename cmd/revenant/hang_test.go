package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor"
	"revenant/supervisor/event"
	"revenant/supervisor/supervisortest"
)

// foundHung waits until a worker is found, ended with the cause, and replaced.
func foundHung(t *testing.T, i *supervisortest.Instance, events <-chan event.Event, worker uint64, why string) event.Event {
	t.Helper()
	e := supervisortest.AwaitEvent(t, events, "a worker that hangs", func(e event.Event) bool {
		return e.Kind == event.WorkerHung && (worker == 0 || e.Worker == worker)
	})
	if !strings.Contains(e.Message, why) {
		t.Errorf("the event says %q, want %q", e.Message, why)
	}
	gone := supervisortest.AwaitEvent(t, events, "its end", func(g event.Event) bool { return g.Kind == event.WorkerExited && g.Worker == e.Worker })
	if gone.Cause != "hang" || gone.Planned || !strings.HasSuffix(gone.Message, e.Message) {
		t.Errorf("it ended by %q (%q), planned %t", gone.Cause, gone.Message, gone.Planned)
	}
	supervisortest.AwaitEvent(t, events, "its successor", func(g event.Event) bool { return g.Kind == event.WorkerReady && *g.Slot == *e.Slot })
	return gone
}

func TestWorkerThatIsStoppedIsFoundNamedAndReplaced(t *testing.T) {
	for name, program := range map[string][]string{"any program": actor(t, "quiet", "poll"), "package worker": nil} {
		t.Run(name, func(t *testing.T) {
			i := supervisortest.Start(t, append([]string{"--workers=2", "--liveness=2s"}, program...)...)
			events, w := i.Follow(), i.Now().Workers[0]
			signalNow(t, w.PID, unix.SIGSTOP)
			why := "it is stopped (SIGSTOP)"
			if program == nil {
				why = "" // whichever of its two debts is noticed first
			}
			foundHung(t, i, events, w.Worker, why)
			get(t, i.URL())
		})
	}
}

func TestDeadlockIsFoundAndItsStacksAreKept(t *testing.T) {
	i := supervisortest.Start(t, "--workers=2", "--liveness=2s", "--chaos")
	events := i.Follow()
	get(t, i.URL()+"/workerKiller?mode=hang")
	gone := foundHung(t, i, events, 0, "it answered no request for 2s")
	out, errs, code := client(i, t, "show", fmt.Sprint(gone.Worker))
	for _, want := range []string{"hang", "chaos: hang; it answered no request for 2s", "dead", "printed last"} {
		if code != 0 || !strings.Contains(out, want) {
			t.Errorf("show says nothing of %q: %d %s%s", want, code, out, errs)
		}
	}
	out, errs, code = client(i, t, "logs", fmt.Sprint(gone.Worker))
	if code != 0 || !strings.Contains(out, "SIGABRT") || !strings.Contains(out, "goroutine ") {
		t.Errorf("the logs hold no stacks: %d %s%s", code, out, errs)
	}
}

func TestProgramThatStopsToBeatIsFound(t *testing.T) {
	flag := filepath.Join(openDir(t), "enough")
	i := runActor(t, []string{"--workers=1", "--liveness=2s"}, "ready", "beat="+flag, "hang")
	events := i.Follow()
	if err := os.WriteFile(flag, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w := i.Now().Workers[0].Worker
	e := supervisortest.AwaitEvent(t, events, "a worker that hangs", func(e event.Event) bool { return e.Kind == event.WorkerHung })
	if e.Worker != w || e.Message != "it did not say WATCHDOG=1 for 2s" {
		t.Errorf("worker %d: %q", e.Worker, e.Message)
	}
}

// No word, no signal: connections wait, nobody takes one, and nobody even tries.
func TestProgramsThatDoNothingWhileConnectionsWaitAreFound(t *testing.T) {
	for _, listener := range []string{"tcp://127.0.0.1:0", "unix:" + filepath.Join(t.TempDir(), "s")} {
		t.Run(listener[:4], func(t *testing.T) {
			i := runActor(t, []string{"--workers=2", "--liveness=1s", "--listen=" + listener}, "ready", "hang")
			events := i.Follow()
			sends(t, i, "/")
			foundHung(t, i, events, 0, "1 connections wait on "+listener+" and nobody took one for 1s, and it used no CPU meanwhile")
		})
	}
}

func TestProgramThatClosedTheListenerIsFound(t *testing.T) {
	i := runActor(t, []string{"--workers=2", "--liveness=1s"}, "quiet", "only=0:poll", "ready", "drop", "hang")
	foundHung(t, i, i.Follow(), i.Now().Workers[1].Worker, "it closed the listener")
}

// The twins. Nothing waits, or somebody takes it: who does nothing is idle.
func TestIdleWorkersAreNotTakenForHung(t *testing.T) {
	i := supervisortest.Start(t, "--workers=2", "--liveness=1s")
	quiet := runActor(t, []string{"--workers=2", "--liveness=1s"}, "quiet", "poll")
	later := time.Now().Add(4 * time.Second)
	awaitTrue(t, "four intervals pass", func() bool { get(t, quiet.URL()); return time.Now().After(later) })
	for _, i := range []*supervisortest.Instance{i, quiet} {
		noneHung(t, i)
	}
}

func noneHung(t *testing.T, i *supervisortest.Instance) {
	t.Helper()
	if strings.Contains(i.Log(), `"msg":"worker hung"`) {
		t.Error("a worker was taken for hung")
	}
	for _, w := range i.Now().Workers {
		if w.Worker > 2 {
			t.Errorf("worker %d is new", w.Worker)
		}
	}
}

// A virtual machine that is paused, a laptop that sleeps: everybody was silent
// for longer than the interval, and nobody is to blame.
func TestNobodyIsToBlameWhenTheMachineStoodStill(t *testing.T) {
	i := supervisortest.Start(t, "--workers=2", "--liveness=2s")
	s := i.Now()
	all := []int{s.KeeperPID, s.MasterPID, s.Workers[0].PID, s.Workers[1].PID}
	each := func(sig unix.Signal) {
		for _, pid := range all {
			signalNow(t, pid, sig)
		}
	}
	each(unix.SIGSTOP)
	thaw := time.Now().Add(6 * time.Second)
	awaitTrue(t, "three intervals pass", func() bool { time.Sleep(50 * time.Millisecond); return time.Now().After(thaw) })
	each(unix.SIGCONT)
	later := time.Now().Add(3 * time.Second)
	awaitTrue(t, "one and a half pass", func() bool { get(t, i.URL()); return time.Now().After(later) })
	noneHung(t, i)
	i.Await("ready", func(s supervisor.Status) bool { return isReady(s) })
}
