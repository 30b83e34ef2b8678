package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"revenant/supervisor"
	"revenant/supervisor/event"
	"revenant/supervisor/supervisortest"
)

// sameWord looks a worker's cause up everywhere that it is told.
func sameWord(t *testing.T, i *supervisortest.Instance, events <-chan event.Event, worker uint64, cause string) event.Event {
	t.Helper()
	e := supervisortest.AwaitEvent(t, events, "the end of the worker", func(e event.Event) bool { return e.Kind == event.WorkerExited && e.Worker == worker })
	if e.Cause != cause {
		t.Errorf("the event says %q, want %q", e.Cause, cause)
	}
	awaitTrue(t, "the log says it", func() bool { return strings.Contains(i.Log(), fmt.Sprintf(`"cause":%q`, cause)) })
	show, errs, code := client(i, t, "show", fmt.Sprint(worker))
	if code != 0 || !strings.Contains(show, "cause       "+cause+"\n") {
		t.Errorf("show says %d %s%s, want %q", code, show, errs, cause)
	}
	json, _, _ := client(i, t, "show", "-o", "json", fmt.Sprint(worker))
	if !strings.Contains(json, fmt.Sprintf(`"cause":%q`, cause)) {
		t.Errorf("the control socket says %s", json)
	}
	found := false
	i.Await("in ps", func(s supervisor.Status) bool {
		for _, w := range s.Workers {
			found = found || w.LastExit != nil && w.LastExit.Worker == worker && w.LastExit.Cause == cause
		}
		return found || e.Planned // of one that was replaced before, its successor's slot says nothing
	})
	return e
}

// What ends a worker that serves, and the word for it. A program ends as the
// bytes in the file say that it reads; an operator and others end it by signals.
func TestEveryCauseIsTheSameWordEverywhere(t *testing.T) {
	dir := openDir(t)
	serve := func(then ...string) []string {
		return actor(t, append([]string{"quiet", "only=0:poll", "ready"}, then...)...)
	}
	at := func(name string, deed ...string) []string {
		return serve(append([]string{"await=" + filepath.Join(dir, name)}, deed...)...)
	}
	now := func(name string) func(*testing.T, *supervisortest.Instance, supervisor.WorkerStatus) {
		return func(t *testing.T, _ *supervisortest.Instance, _ supervisor.WorkerStatus) {
			if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	send := func(s unix.Signal) func(*testing.T, *supervisortest.Instance, supervisor.WorkerStatus) {
		return func(t *testing.T, _ *supervisortest.Instance, w supervisor.WorkerStatus) { signalNow(t, w.PID, s) }
	}
	ask := func(args ...string) func(*testing.T, *supervisortest.Instance, supervisor.WorkerStatus) {
		return func(t *testing.T, i *supervisortest.Instance, w supervisor.WorkerStatus) {
			if _, errs, code := client(i, t, append(args, fmt.Sprint(w.Worker))...); code != 0 {
				t.Fatal(errs)
			}
		}
	}
	for _, c := range []struct {
		cause string
		flags []string
		args  []string
		end   func(*testing.T, *supervisortest.Instance, supervisor.WorkerStatus)
	}{
		{"exit 0", nil, at("a", "exit=0"), now("a")},
		{"exit 7", nil, at("b", "exit=7"), now("b")},
		{"signal KILL", nil, serve("hang"), send(unix.SIGKILL)},
		{"signal HUP", nil, serve("hang"), send(unix.SIGHUP)},
		{"requested", nil, serve("hang"), ask("kill")},
		{"requested", nil, serve("hang"), ask("kill", "--signal=KILL")},
		{"drain-timeout", []string{"--drain-timeout=200ms"}, serve("ignore=TERM", "hang"), ask("kill")},
	} {
		t.Run(strings.ReplaceAll(c.cause, " ", "-"), func(t *testing.T) {
			i := supervisortest.Start(t, append(append([]string{"--workers=2"}, c.flags...), c.args...)...)
			events, w := i.Follow(), i.Now().Workers[1]
			c.end(t, i, w)
			sameWord(t, i, events, w.Worker, c.cause)
		})
	}
}

func TestExitTellsWhatTheWorkerPrintedLast(t *testing.T) {
	flag := filepath.Join(openDir(t), "go")
	deeds := []string{"quiet", "only=0:poll", "ready"}
	for n := range 25 {
		deeds = append(deeds, fmt.Sprintf("line=this is line %d", n))
	}
	i := runActor(t, []string{"--workers=2"}, append(deeds, "await="+flag, "exit=1")...)
	events, w := i.Follow(), i.Now().Workers[1].Worker
	if err := os.WriteFile(flag, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	e := sameWord(t, i, events, w, "exit 1")
	if len(e.LastLines) != 20 || e.LastLines[0] != "this is line 5" || e.LastLines[19] != "this is line 24" {
		t.Errorf("the event holds %q", e.LastLines)
	}
	if out, _, _ := client(i, t, "show", fmt.Sprint(w)); !strings.Contains(out, "\n  this is line 5\n") || !strings.HasSuffix(out, "\n  this is line 24\n") {
		t.Errorf("show prints\n%s", out)
	}
	if out, errs, code := client(i, t, "show", "99"); code != exitFailed || out != "" || !strings.Contains(errs, "there is no worker 99") {
		t.Errorf("of a worker that never was: %d %s%s", code, out, errs)
	}
}

// The kernel's own kill is told from everybody else's by the cgroup's count.
func TestKillForWantOfMemoryIsCalledSo(t *testing.T) {
	group := memoryCgroup(t)
	wrapper := filepath.Join(openDir(t), "revenant")
	// Without the race detector, which needs more memory than there is.
	script := fmt.Sprintf("#!/bin/sh\necho $$ >%s/cgroup.procs && exec %s \"$@\"\n", group, supervisortest.Plain(t))
	if err := os.WriteFile(wrapper, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	flag := filepath.Join(openDir(t), "go")
	i := supervisortest.BeginProgram(t, wrapper, nil, append([]string{"--workers=2"}, actor(t, "quiet", "only=0:poll", "ready", "await="+flag, "once="+flag+"2:leak", "hang")...)...)
	events, w := i.Follow(), i.Await("ready", isReady).Workers[1].Worker
	if err := os.WriteFile(flag, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	sameWord(t, i, events, w, "oom")
	if out := get(t, i.URL()); out != fmt.Sprintln(i.Now().Workers[0].PID) {
		t.Errorf("%q answers", out)
	}
}

// memoryCgroup is a group of processes with room for an instance and no more.
func memoryCgroup(t *testing.T) string {
	t.Helper()
	const skip = "SKIPPED, NOT TESTED: that a kill for want of memory is told from others needs a memory cgroup of our own: "
	const room = 160 << 20
	own, limit := "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
	if _, err := os.Stat(own + "/memory.limit_in_bytes"); err != nil {
		own, limit = "/sys/fs/cgroup", "memory.max"
		if text, err := os.ReadFile(own + "/cgroup.subtree_control"); err != nil || !strings.Contains(string(text), "memory") {
			t.Skipf("%s%v", skip, "there is no controller to use")
		}
	}
	group := filepath.Join(own, "revenant-test-"+strconv.Itoa(os.Getpid()))
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Skipf("%s%v", skip, err)
	}
	t.Cleanup(func() {
		awaitTrue(t, "the cgroup is empty", func() bool { err := os.Remove(group); return err == nil || errors.Is(err, os.ErrNotExist) })
	})
	if err := os.WriteFile(filepath.Join(group, limit), []byte(strconv.Itoa(room)), 0o644); err != nil {
		t.Skipf("%s%v", skip, err)
	}
	return group
}
