package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor/event"
	"revenant/supervisor/notify"
)

// patience bounds every wait for a real process.
const patience = 30 * time.Second

// realInstance is a master in this process with real workers: the test binary,
// which behaves as the file says when it is started.
type realInstance struct {
	*Master
	t         *testing.T
	behaviour string // the file
	notes     string // where workers write pids
	events    <-chan event.Event
	result    chan error
	settings  atomic.Pointer[Settings] // that a reload reads
}

// runReal starts a master. The test ends when all its workers have.
func runReal(t *testing.T, cfg Config, behaviour string) *realInstance {
	t.Helper()
	dir := t.TempDir()
	i := &realInstance{t: t, behaviour: filepath.Join(dir, "behaviour"), notes: filepath.Join(dir, "notes"), result: make(chan error, 1)}
	i.behave(behaviour)
	server, err := notify.Listen(fmt.Sprintf("revenant-test/%d/%s", os.Getpid(), filepath.Base(dir)+t.Name()))
	if err != nil {
		t.Fatal(err)
	}
	cfg.Lifeline = -1
	cfg.Generation = 1
	cfg.Notify, cfg.Instance = server.Address(), "test"
	cfg.Program = testProgram(cfg.Program.Path, i.behaviour, i.notes)
	i.settings.Store(&cfg.Settings)
	cfg.Reread = func() (Settings, []string, error) { return *i.settings.Load(), nil, nil }
	if i.Master, err = New(cfg, nil, server, nil); err != nil {
		t.Fatal(err)
	}
	_, live := i.Events().Subscribe(0, 1<<14)
	i.events = live.Events()
	go func() { i.result <- i.Run(context.Background(), nil) }() // waited for below
	t.Cleanup(func() {
		_ = i.Stop(context.Background())
		select {
		case <-i.done:
		case <-time.After(patience):
			t.Error("the master does not end")
		}
		live.Close()
		_ = server.Close()
		for _, pid := range i.noted() {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	})
	return i
}

// testProgram is the test binary in the part of a worker.
func testProgram(path, behaviour, notes string) Program {
	if path == "" {
		path = "/proc/self/exe"
	}
	return Program{Path: path, Environ: []string{
		"PATH=" + os.Getenv("PATH"), "GORACE=atexit_sleep_ms=0", behaviourVariable + "=" + behaviour, notesVariable + "=" + notes,
	}}
}

// behave says what workers do that are started from now on.
func (i *realInstance) behave(how string) {
	i.t.Helper()
	draft := i.behaviour + ".new"
	if err := errors.Join(os.WriteFile(draft, []byte(how), 0o600), os.Rename(draft, i.behaviour)); err != nil {
		i.t.Fatal(err)
	}
}

// noted are the pids that workers wrote down.
func (i *realInstance) noted() (pids []int) {
	text, _ := os.ReadFile(i.notes)
	for field := range strings.FieldsSeq(string(text)) {
		pid, _ := strconv.Atoi(field)
		pids = append(pids, pid)
	}
	return pids
}

func (i *realInstance) await(what string, good func(event.Event) bool) event.Event {
	i.t.Helper()
	return awaitEvent(i.t, i.events, what, good)
}

func awaitEvent(t *testing.T, events <-chan event.Event, what string, good func(event.Event) bool) event.Event {
	t.Helper()
	limit := time.After(patience)
	for {
		select {
		case e, open := <-events:
			if !open {
				t.Fatalf("the events ended before: %s", what)
			}
			if good(e) {
				return e
			}
		case <-limit:
			t.Fatalf("no event: %s", what)
		}
	}
}

func is(kind event.Kind) func(event.Event) bool {
	return func(e event.Event) bool { return e.Kind == kind }
}

func (i *realInstance) awaitReady(n int) Status {
	i.t.Helper()
	for limit := time.Now().Add(patience); ; {
		s, err := i.Status(context.Background())
		if err != nil || time.Now().After(limit) {
			i.t.Fatalf("never %d ready: %+v, %v", n, s, err)
		}
		if s.Ready == n {
			return s
		}
		i.await("another worker ready", is(event.WorkerReady))
	}
}

// awaitTrue is the one poll of these tests, for what tells nobody.
func awaitTrue(t *testing.T, what string, good func() bool) {
	t.Helper()
	for limit := time.Now().Add(patience); !good(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("never: %s", what)
		}
	}
}

func lives(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	return !strings.HasPrefix(string(stat[strings.LastIndexByte(string(stat), ')')+1:]), " Z")
}

func TestRealDeathsAreNamedByTheirCause(t *testing.T) {
	for _, c := range []struct {
		name    string
		end     func(i *realInstance, pid int)
		cause   string
		planned bool
	}{
		{"killed from outside", func(_ *realInstance, pid int) { _ = unix.Kill(pid, unix.SIGKILL) }, "signal KILL", false},
		{"aborted", func(_ *realInstance, pid int) { _ = unix.Kill(pid, unix.SIGUSR1) }, "signal ABRT", false},
		{"somebody's SIGTERM", func(_ *realInstance, pid int) { _ = unix.Kill(pid, unix.SIGTERM) }, "exit 0", true},
		{"its own exit code", func(_ *realInstance, pid int) { _ = unix.Kill(pid, unix.SIGUSR2) }, "exit 7", false},
		{"an operator", func(i *realInstance, _ int) { _ = i.Kill(context.Background(), 1, unix.SIGTERM) }, "requested", true},
		{"an operator's SIGKILL", func(i *realInstance, _ int) { _ = i.Kill(context.Background(), 1, unix.SIGKILL) }, "requested", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			i := runReal(t, Config{Settings: Settings{Workers: 2}}, "serve")
			s := i.awaitReady(2)
			c.end(i, s.Workers[0].PID)
			e := i.await("an exit", is(event.WorkerExited))
			if e.Cause != c.cause || e.Planned != c.planned || e.Worker != s.Workers[0].Worker {
				t.Errorf("worker %d ended by %q, planned %v; want worker %d, %q, %v", e.Worker, e.Cause, e.Planned, s.Workers[0].Worker, c.cause, c.planned)
			}
			s = i.awaitReady(2)
			if last := s.Workers[0].LastExit; last == nil || last.Cause != c.cause {
				t.Errorf("ps shows the last exit %+v, want %q", last, c.cause)
			}
		})
	}
}

func TestProgramThatNeverServesEndsTheInstanceAndSaysWhy(t *testing.T) {
	for _, c := range []struct{ behaviour, path, want string }{
		{behaviour: "crash", want: "slot 0: exit 3"},
		{behaviour: "leave", want: "slot 0: exit 0"},
		{behaviour: "silent", want: "slot 0: start-timeout"},
		{behaviour: "daemonise", want: "slot 0: exit 0"},
		{path: "/nonexistent/program", want: "slot 0: cannot start: cannot execute /nonexistent/program: no such file or directory"},
		{path: "/dev/null", want: "permission denied"},
	} {
		t.Run(c.behaviour+c.path, func(t *testing.T) {
			i := runReal(t, Config{Settings: Settings{Workers: 1, Program: Program{Path: c.path}, Policy: Policy{StartTimeout: time.Second}}}, c.behaviour)
			select {
			case err := <-i.result:
				if !errors.Is(err, ErrNoWorkerReady) || !strings.Contains(err.Error(), c.want) {
					t.Errorf("Run = %v, want ErrNoWorkerReady with %q", err, c.want)
				}
			case <-time.After(patience):
				t.Fatal("the instance does not give up")
			}
		})
	}
}

func TestSlowBootIsWaitedFor(t *testing.T) {
	i := runReal(t, Config{Settings: Settings{Workers: 1, Policy: Policy{StartTimeout: patience}}}, "slow")
	e := i.await("the slow worker ready", is(event.WorkerReady))
	if e.Start < 300 {
		t.Errorf("ready after %.0f ms, and it boots for 300", e.Start)
	}
	if s := i.awaitReady(1); s.Workers[0].Restarts != 0 {
		t.Errorf("%d restarts of a worker that was only slow", s.Workers[0].Restarts)
	}
}

func TestRealWorkerDeafToSIGTERMIsCutWhileItsSuccessorServes(t *testing.T) {
	i := runReal(t, Config{Settings: Settings{Workers: 1, Policy: Policy{DrainTimeout: 500 * time.Millisecond}}}, "deaf")
	pid := i.awaitReady(1).Workers[0].PID
	i.behave("serve")
	if err := i.Kill(context.Background(), 1, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	e := i.await("the exit", is(event.WorkerExited))
	if e.Cause != "drain-timeout" || !e.Planned {
		t.Errorf("cause %q, planned %v; want drain-timeout, planned", e.Cause, e.Planned)
	}
	if lives(pid) {
		t.Error("the deaf worker lives on")
	}
	i.awaitReady(1)
}

func TestProcessGroupIsSweptAfterADeath(t *testing.T) {
	i := runReal(t, Config{Settings: Settings{Workers: 1}}, "with helper")
	pid := i.awaitReady(1).Workers[0].PID
	helper := i.noted()[0]
	if !lives(helper) {
		t.Fatal("the helper does not run")
	}
	i.behave("serve")
	_ = unix.Kill(pid, unix.SIGKILL)
	i.await("the exit", is(event.WorkerExited))
	awaitTrue(t, "the helper of a dead worker is gone", func() bool { return !lives(helper) })
	i.awaitReady(1)
}

func TestHelperMaySayReadyForItsWorker(t *testing.T) {
	i := runReal(t, Config{Settings: Settings{Workers: 1}}, "ready by helper")
	if s := i.awaitReady(1); s.Workers[0].Worker != 1 {
		t.Errorf("worker %d is ready, want 1", s.Workers[0].Worker)
	}
}

func TestStopLeavesNoProcessEvenOfWorkersThatDoNotListen(t *testing.T) {
	i := runReal(t, Config{Settings: Settings{Workers: 2, Policy: Policy{DrainTimeout: 300 * time.Millisecond}}}, "deaf")
	s := i.awaitReady(2)
	if err := i.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := <-i.result; err != nil {
		t.Errorf("Run = %v, want nil: the drain was bounded as configured", err)
	}
	for _, w := range s.Workers {
		if lives(w.PID) {
			t.Errorf("worker %d, pid %d lives on", w.Worker, w.PID)
		}
	}
}

func TestRespawnsLeaveNoGoroutineAndNoDescriptor(t *testing.T) {
	i := runReal(t, Config{Settings: Settings{Workers: 2}}, "serve")
	i.awaitReady(2)
	kill := func(n int) {
		for range n {
			e := i.await("ready", is(event.WorkerReady))
			_ = unix.Kill(e.PID, unix.SIGKILL)
		}
		i.awaitReady(2)
	}
	count := func() (goroutines, descriptors int) {
		open, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return runtime.NumGoroutine(), len(open)
	}
	i.behave("serve")
	s := i.awaitReady(2)
	for _, w := range s.Workers {
		_ = unix.Kill(w.PID, unix.SIGKILL)
	}
	kill(10)
	goroutines, descriptors := count()
	_ = unix.Kill(i.awaitReady(2).Workers[0].PID, unix.SIGKILL)
	kill(40)
	// Those of the newest dead are on their way out.
	awaitTrue(t, "as many goroutines and descriptors as before 40 respawns", func() bool {
		g, d := count()
		return g <= goroutines+1 && d <= descriptors+1
	})
}
