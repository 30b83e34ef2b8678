package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor"
	"revenant/supervisor/event"
	"revenant/supervisor/supervisortest"
)

func TestPsBeginsWithAVerdictAndShowsEverySlot(t *testing.T) {
	i := supervisortest.Start(t, "--workers", "2")
	s := i.Now()
	signalNow(t, s.Workers[0].PID, unix.SIGKILL)
	s = i.Await("healed", func(now supervisor.Status) bool { return isReady(now) && now.Workers[0].Worker == 3 })
	out, errs, code := client(i, t, "ps")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if code != exitOK || errs != "" || len(lines) != 4 {
		t.Fatalf("ps exits with %d and says %s%s", code, out, errs)
	}
	if want := "READY 2/2 · generation 1 · last exit worker 1 signal KILL "; !strings.HasPrefix(lines[0], want) {
		t.Errorf("the verdict is %q, want it to begin with %q", lines[0], want)
	}
	if want := "SLOT WORKER STATE PID UP RESTARTS CPU MEM IN FLIGHT LAST EXIT NEXT"; strings.Join(strings.Fields(lines[1]), " ") != want {
		t.Errorf("the head is %q, want %q", lines[1], want)
	}
	first := strings.Fields(lines[2])
	if first[0] != "0" || first[1] != "3" || first[2] != "ready" || first[3] != fmt.Sprint(s.Workers[0].PID) || first[5] != "1" || !strings.Contains(lines[2], "signal KILL") {
		t.Errorf("slot 0 is shown as %q", lines[2])
	}
	if !strings.HasSuffix(first[7], "M") || first[7] == "0.0M" {
		t.Errorf("the memory of slot 0 is shown as %q", first[7])
	}
}

func TestPsInJSONIsWhatScriptsWereToldToRead(t *testing.T) {
	i := supervisortest.Start(t, "--workers", "2")
	signalNow(t, i.Now().Workers[1].PID, unix.SIGKILL)
	i.Await("healed", func(now supervisor.Status) bool { return isReady(now) && now.Workers[1].Worker == 3 })
	out, _, code := client(i, t, "ps", "-o", "json")
	var s map[string]any
	if err := json.Unmarshal([]byte(out), &s); err != nil || code != exitOK {
		t.Fatalf("exit code %d, %v: %s", code, err, out)
	}
	for _, key := range []string{"instance", "name", "version", "generation", "state", "ready", "desired", "keeper_pid", "master_pid", "listeners", "workers"} {
		if _, ok := s[key]; !ok {
			t.Errorf("no %q in %s", key, out)
		}
	}
	worker := s["workers"].([]any)[1].(map[string]any)
	for _, key := range []string{"slot", "worker", "state", "pid", "generation", "uptime_ms", "restarts", "cpu_seconds", "rss_bytes", "in_flight", "last_exit"} {
		if _, ok := worker[key]; !ok {
			t.Errorf("no %q in the worker %v", key, worker)
		}
	}
	if last := worker["last_exit"].(map[string]any); last["cause"] != "signal KILL" || last["time"] == nil {
		t.Errorf("the last exit is %v", last)
	}
}

// running is a client command that goes on by itself.
type running struct {
	*exec.Cmd
	lines <-chan string
}

func beginClient(t *testing.T, i *supervisortest.Instance, args ...string) *running {
	t.Helper()
	c := exec.Command(supervisortest.Binary(t), append(args, "--runtime-dir", i.Dir, "--name", i.Name)...)
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 1<<12)
	// Ends with the command, which the cleanup ends.
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- s.Text()
		}
	}()
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	return &running{c, lines}
}

func (r *running) await(t *testing.T, what string, good func(string) bool) string {
	t.Helper()
	limit := time.After(supervisortest.Patience)
	for {
		select {
		case line, open := <-r.lines:
			if !open {
				t.Fatalf("the command ended before it said %s", what)
			}
			if good(line) {
				return line
			}
		case <-limit:
			t.Fatalf("the command never said %s", what)
		}
	}
}

func TestPsWatchShowsAFrameAndAnother(t *testing.T) {
	i := supervisortest.Start(t, "--workers", "1")
	watch := beginClient(t, i, "ps", "--watch")
	for range 2 {
		watch.await(t, "a verdict on a cleared screen", func(line string) bool { return strings.HasPrefix(line, "\x1b[H\x1b[2JREADY 1/1 ") })
	}
}

func TestEventsFollowTheInstanceOverTheDeathOfItsMasterToItsEnd(t *testing.T) {
	i := supervisortest.Start(t, "--workers", "1")
	follow := beginClient(t, i, "events", "-f", "-o", "json")
	last := uint64(0)
	next := func(kind event.Kind, generation int) event.Event {
		var e event.Event
		follow.await(t, string(kind), func(line string) bool {
			e = event.Event{}
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Errorf("not an event: %q: %v", line, err)
			}
			if e.ID <= last {
				t.Errorf("event %d after %d", e.ID, last)
			}
			last = e.ID
			return e.Kind == kind && e.Generation == generation
		})
		return e
	}
	s := i.Now()
	next(event.MasterStarted, 1)
	next(event.InstanceReady, 1)
	signalNow(t, s.Workers[0].PID, unix.SIGKILL)
	if e := next(event.WorkerExited, 1); e.Cause != "signal KILL" || e.PID != s.Workers[0].PID {
		t.Errorf("the exit is told as %+v", e)
	}
	next(event.WorkerReady, 1)
	signalNow(t, s.MasterPID, unix.SIGKILL)
	next(event.MasterStarted, 2)
	next(event.InstanceReady, 2)
	signalNow(t, i.Command.Process.Pid, unix.SIGTERM)
	next(event.InstanceStopping, 2)
	next(event.WorkerExited, 2)
	if code := i.Wait(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	for line := range follow.lines {
		t.Logf("after the end: %s", line)
	}
	if err := follow.Wait(); err != nil {
		t.Errorf("events -f: %v", err)
	}
}

func TestEventsShowWhatHappenedInOneLineEach(t *testing.T) {
	i := supervisortest.Start(t, "--workers", "1")
	out, _, code := client(i, t, "events")
	if code != exitOK || !strings.Contains(out, "worker.ready") || !strings.Contains(out, "slot=0 worker=1 pid=") {
		t.Errorf("events exits with %d and says\n%s", code, out)
	}
	out, _, _ = client(i, t, "events", "--since", "2")
	if strings.Contains(out, "master.started") || !strings.Contains(out, "worker.ready") {
		t.Errorf("events --since 2 says\n%s", out)
	}
}

func TestKillEndsAWorkerAsPlannedAndItsSlotIsFilledAgain(t *testing.T) {
	i := supervisortest.Start(t, "--workers", "2")
	events := i.Follow()
	for n, args := range [][]string{{"kill", "1"}, {"kill", "2", "--signal", "KILL"}, {"kill", "3", "-s", "sigterm"}} {
		i.Await("ready", isReady)
		out, errs, code := client(i, t, args...)
		if code != exitOK || !strings.HasPrefix(out, fmt.Sprintf("worker %d: sent ", n+1)) {
			t.Fatalf("%v exits with %d and says %s%s", args, code, out, errs)
		}
		e := supervisortest.AwaitEvent(t, events, "the exit", func(e event.Event) bool { return e.Kind == event.WorkerExited })
		if e.Worker != uint64(n+1) || e.Cause != "requested" || !e.Planned {
			t.Errorf("%v: worker %d ended by %q, planned %v", args, e.Worker, e.Cause, e.Planned)
		}
	}
	s := i.Await("ready", func(s supervisor.Status) bool { return isReady(s) && s.Workers[0].Worker+s.Workers[1].Worker == 9 })
	if s.Workers[0].Failures+s.Workers[1].Failures != 0 {
		t.Errorf("planned ends count as failures: %+v", s.Workers)
	}
	_, errs, code := client(i, t, "kill", "999")
	if code != exitFailed || errs != "revenant: there is no worker 999 (see revenant ps)\n" {
		t.Errorf("kill of nobody exits with %d and says %q", code, errs)
	}
}

func TestHealthIs0WhenServing3WhenNot4WhenThereIsNone(t *testing.T) {
	i := supervisortest.Start(t, "--workers", "1")
	if out, _, code := client(i, t, "health"); code != exitOK || out != "ready: 1 of 1 workers ready\n" {
		t.Errorf("a ready instance: %d, %q", code, out)
	}
	c := begunRequest(t, i) // keeps it from ending
	signalNow(t, i.Command.Process.Pid, unix.SIGTERM)
	i.Await("stopping", func(s supervisor.Status) bool { return s.State == "stopping" })
	if out, _, code := client(i, t, "health"); code != exitNotReady || !strings.HasPrefix(out, "stopping: ") {
		t.Errorf("a stopping instance: %d, %q", code, out)
	}
	c.send(t, secondHalf)
	c.answer(t)
	_ = c.Close()
	i.Wait()
	if _, errs, code := client(i, t, "health"); code != exitNotRunning || !strings.HasPrefix(errs, "revenant: no instance is running") {
		t.Errorf("after the end: %d, %q", code, errs)
	}
}

func TestHealthIs3WhileNoWorkerIsReadyYet(t *testing.T) {
	other := startCurable(t, "--workers", "1")
	other.infect()
	signalNow(t, other.Now().Workers[0].PID, unix.SIGKILL)
	other.Await("without a worker", func(s supervisor.Status) bool { return s.Workers[0].Failures > 3 })
	if out, _, code := client(other.Instance, t, "health"); code != exitNotReady || !strings.Contains(out, "0 of 1 workers ready") {
		t.Errorf("without a worker: %d, %q", code, out)
	}
	if out, _, _ := client(other.Instance, t, "ps"); !strings.HasPrefix(out, "DEGRADED 0/1 ") || !strings.Contains(out, "next try in ") || !strings.Contains(out, "exit 2") {
		t.Errorf("ps says %s", out)
	}
}

func TestStopWaitsUntilTheInstanceIsGone(t *testing.T) {
	i := supervisortest.Start(t, "--workers", "2")
	s := i.Now()
	out, errs, code := client(i, t, "stop")
	if code != exitOK || !strings.HasPrefix(out, "instance t stopped in ") {
		t.Fatalf("stop exits with %d and says %s%s", code, out, errs)
	}
	for _, pid := range []int{s.MasterPID, s.Workers[0].PID, s.Workers[1].PID} {
		if unix.Kill(pid, 0) == nil {
			t.Errorf("process %d is still there", pid)
		}
	}
	if code := i.Wait(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

func TestVersionNamesTheProgramAndTheRunningInstance(t *testing.T) {
	i := supervisortest.Start(t, "--workers", "1")
	out, _, code := client(i, t, "version")
	s := i.Now()
	if want := fmt.Sprintf("revenant %[1]s\ninstance t (%[2]s) runs %[1]s, generation 1\n", s.Version, s.Instance); code != exitOK || out != want {
		t.Errorf("version exits with %d and says %q, want %q", code, out, want)
	}
}

func TestEveryCommandSaysWhenNothingRuns(t *testing.T) {
	dir := openDir(t)
	for _, args := range [][]string{{"ps"}, {"ps", "-o", "json"}, {"ps", "--watch"}, {"events"}, {"events", "-f"}, {"kill", "1"}, {"health"}, {"stop"}} {
		out, errs, code := supervisortest.Run(t, nil, append(args, "--runtime-dir", dir)...)
		checkOneLine(t, out, errs, code, wrong{code: exitNotRunning, says: []string{"no instance is running", dir + "/default/control.sock"}})
	}
	if out, errs, code := supervisortest.Run(t, nil, "version", "--runtime-dir", dir); code != exitOK || errs != "" || !strings.HasPrefix(out, "revenant ") {
		t.Errorf("version exits with %d and says %q, %q", code, out, errs)
	}
}

func TestAnotherUserIsRefused(t *testing.T) {
	needRoot(t)
	i := supervisortest.Start(t, "--workers", "1")
	as := func(args ...string) (errs string, code int) {
		_, errs, code = begun(t, i.Dir, asNobody, nil, append(args, "--runtime-dir", i.Dir, "--name", i.Name)...)
		return errs, code
	}
	if errs, code := as("ps"); code != exitFailed || !strings.Contains(errs, "permission denied") {
		t.Errorf("through closed folders: %d, %q", code, errs)
	}
	// Even if somebody opens the way, the kernel says who asks.
	dir := filepath.Join(i.Dir, i.Name)
	for path, mode := range map[string]os.FileMode{i.Dir: 0o755, dir: 0o755, controlSocket(dir): 0o666} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"ps"}, {"events"}, {"kill", "1"}, {"stop"}, {"health"}} {
		if errs, code := as(args...); code != exitFailed || errs != "revenant: only root and the instance's own user may do this\n" {
			t.Errorf("%v: %d, %q", args, code, errs)
		}
	}
	if s := i.Now(); s.State != "ready" || s.Workers[0].Worker != 1 {
		t.Errorf("the instance is %+v", s)
	}
}

func TestInstanceOfAUserWithoutRightsServesAndObeysItsUserAndRoot(t *testing.T) {
	needRoot(t)
	dir := mine(t)
	c := exec.Command(supervisortest.Binary(t), "run", "--runtime-dir", dir, "--name", "t", "--workers", "2", "--listen", "unix:"+dir+"/app.sock")
	asNobody(c)
	c.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	c.Stderr = &supervisortest.Log{}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	awaitTrue(t, "ready", func() bool {
		_, _, code := begun(t, dir, asNobody, nil, "health", "--runtime-dir", dir, "--name", "t")
		return code == exitOK
	})
	h := dialTo(t, "unix", dir+"/app.sock")
	h.send(t, wholeGet)
	h.answer(t)
	_ = h.Close()
	if out, errs, code := supervisortest.Run(t, nil, "stop", "--runtime-dir", dir, "--name", "t"); code != exitOK {
		t.Errorf("root's stop exits with %d: %s%s", code, out, errs)
	}
	if err := c.Wait(); err != nil {
		t.Errorf("%v; log: %s", err, c.Stderr)
	}
}
