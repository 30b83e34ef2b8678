package main

import (
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor"
	"revenant/supervisor/event"
	"revenant/supervisor/sockdiag"
	"revenant/supervisor/supervisortest"
)

// healthWatch runs the health command again and again.
type healthWatch struct {
	stop chan struct{}
	done sync.WaitGroup
	bad  []string // what it said when it did not exit with 0
	late int      // how often it got no answer in time: on a machine that stalls
	runs int
}

func watchHealth(i *supervisortest.Instance, t testing.TB) *healthWatch {
	w := &healthWatch{stop: make(chan struct{})}
	// Ends with end.
	w.done.Go(func() {
		for {
			select {
			case <-w.stop:
				return
			default:
			}
			out, errs, code := client(i, t, "health")
			w.runs++
			switch {
			case strings.Contains(errs, "does not answer in time"):
				w.late++
			case code != 0:
				w.bad = append(w.bad, out+errs)
			}
		}
	})
	return w
}

func (w *healthWatch) end() {
	close(w.stop)
	w.done.Wait()
}

func TestMasterKilledUnderLoadLosesNoRequestAndIsReplaced(t *testing.T) {
	i := supervisortest.Start(t, "--workers", "2", "--drain-timeout", "10s")
	load, health := beginLoad(i, t, 6, 4, 150), watchHealth(i, t)
	before := i.Now()
	newest := uint64(2)
	for range 10 {
		after := killMaster(i, t, before)
		for _, w := range after.Workers {
			if w.Former {
				continue
			}
			if w.Worker <= newest {
				t.Errorf("worker id %d was used before (up to %d)", w.Worker, newest)
			}
		}
		newest = slices.MaxFunc(after.Workers, func(a, b supervisor.WorkerStatus) int { return int(a.Worker) - int(b.Worker) }).Worker
		before = after
	}
	i.Await("rid of the old workers", func(s supervisor.Status) bool { return s.Orphans == 0 && len(s.Workers) == 2 })
	health.end()
	report := load.end()
	if report.Failed() != 0 {
		t.Errorf("%d of %d requests failed: %v", report.Failed(), report.Sent(), report.Failures)
	}
	if len(health.bad) > 0 || health.late > 1+health.runs/10 {
		t.Errorf("health was not 0 in %d of %d runs, and late in %d: %q", len(health.bad), health.runs, health.late, health.bad)
	}
	s := i.Now()
	if s.Requests != uint64(report.Sent()) {
		t.Errorf("the instance counts %d requests over all masters, the clients %d", s.Requests, report.Sent())
	}
}

// killMaster kills the master and waits until the next one is in charge.
func killMaster(i *supervisortest.Instance, t testing.TB, before supervisor.Status) supervisor.Status {
	t.Helper()
	signalNow(t, before.MasterPID, unix.SIGKILL)
	after := i.Await("ready under a new master", func(s supervisor.Status) bool { return s.Generation > before.Generation && isReady(s) })
	if after.Generation != before.Generation+1 || after.KeeperPID != before.KeeperPID || after.Instance != before.Instance || !slices.Equal(after.Listeners, before.Listeners) {
		t.Errorf("after the master's death %+v, before it %+v", after, before)
	}
	return after
}

func signalWorkers(s supervisor.Status, sig unix.Signal) {
	for _, w := range s.Workers {
		_ = unix.Kill(w.PID, sig)
	}
}

// The twin of the test above: with the workers killed too, requests are lost, and seen to be.
func TestMasterKilledTogetherWithItsWorkersLosesRequestsAndTheLedgerSeesIt(t *testing.T) {
	i := supervisortest.Start(t, "--workers", "2")
	const clients = 6
	load := beginLoad(i, t, clients, 0, 0)
	before := i.Now()
	before = i.Await("stopped with a request in hand", func(s supervisor.Status) bool {
		signalWorkers(s, unix.SIGSTOP)
		now := i.Now()
		if now.Workers[0].InFlight+now.Workers[1].InFlight > 0 && !allQueued(t, s, clients) {
			return true
		}
		signalWorkers(s, unix.SIGCONT)
		return false
	})
	signalWorkers(before, unix.SIGKILL)
	killMaster(i, t, before)
	report := load.end()
	neverRefused(t, report)
	if report.Failed() == 0 {
		t.Error("no request failed: the test above proves nothing")
	}
}

// allQueued tells whether the workers, which are stopped, hold no request: each
// client, of which every one always has a request, comes to wait in the queue. One
// whose answer was sent, but not counted yet, takes a moment.
func allQueued(t *testing.T, s supervisor.Status, clients int) bool {
	t.Helper()
	_, text, _ := net.SplitHostPort(strings.TrimPrefix(s.Listeners[0], "tcp://"))
	port, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	for limit := time.Now().Add(500 * time.Millisecond); time.Now().Before(limit); time.Sleep(5 * time.Millisecond) {
		connections, err := sockdiag.Connections(port)
		if err != nil {
			t.Fatal(err)
		}
		waiting := 0
		for _, c := range connections {
			if c.Inode == 0 {
				waiting++
			}
		}
		if waiting == clients {
			return true
		}
	}
	return false
}

func TestStateOfADeadMasterIsTakenOver(t *testing.T) {
	i := supervisortest.Start(t, "--workers", "2")
	before := killMaster(i, t, i.Now())
	// A worker that dies while no master lives is missed by nobody for ever.
	signalNow(t, before.MasterPID, unix.SIGSTOP)
	signalNow(t, before.Workers[0].PID, unix.SIGKILL)
	after := killMaster(i, t, before)
	if got := i.Await("rid of the old workers", func(s supervisor.Status) bool { return s.Orphans == 0 }); got.Generation != after.Generation {
		t.Errorf("generation %d became %d", after.Generation, got.Generation)
	}
	// Kept descriptors do not pile up: the stored ones are sockets, state and a board per worker.
	awaitTrue(t, "the keeper keeps no boards of the dead", func() bool {
		boards := 0
		for _, target := range descriptors(after.KeeperPID) {
			if strings.Contains(target, "memfd:revenant-worker") {
				boards++
			}
		}
		return boards == 2
	})
}

func TestKeeperKilledEndsEverythingByItselfAndFreesTheAddress(t *testing.T) {
	mark, path := t.Name(), filepath.Join(openDir(t), "app.sock")
	i := supervisortest.Begin(t, []string{marker + "=" + mark}, "--workers", "2", "--listen", "tcp://127.0.0.1:0", "--listen", "unix:"+path)
	s := i.Await("ready", isReady)
	address := i.Address()
	if n := len(marked(t, mark)); n != 4 {
		t.Errorf("%d processes are marked, want keeper, master and two workers", n)
	}
	signalNow(t, s.KeeperPID, unix.SIGKILL)
	began := time.Now()
	awaitTrue(t, "everything ends when the keeper is gone", func() bool { return len(marked(t, mark)) == 0 })
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("that took %v", took)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatalf("the address is not free: %v", err)
	}
	_ = l.Close()
	if _, err := os.Lstat(path); err == nil {
		t.Error("the path of the unix socket is left behind")
	}
	if _, errs, code := client(i, t, "ps"); code != exitNotRunning || !strings.Contains(errs, "no instance is running") {
		t.Errorf("ps exits with %d and says %q", code, errs)
	}
	// What the dead keeper left in its folder does not keep the next one from starting.
	next := supervisortest.Begin(t, nil, "--runtime-dir", i.Dir, "--workers", "1")
	next.Client = i.Client
	next.Await("ready in the folder of the dead", isReady)
}

func TestStormOfKillsRefusesNobodyAndAccountsForEachLoss(t *testing.T) {
	i := supervisortest.Start(t, "--workers", "2")
	events := i.Follow()
	load := beginLoad(i, t, 8, 0, 0)
	var exits []event.Event
	for len(exits) < 25 {
		s := i.Await("serving", func(s supervisor.Status) bool { return s.Ready > 0 })
		ready := slices.DeleteFunc(s.Workers, func(w supervisor.WorkerStatus) bool { return w.State != "ready" })
		if unix.Kill(ready[rand.IntN(len(ready))].PID, unix.SIGKILL) != nil {
			continue
		}
		e := supervisortest.AwaitEvent(t, events, "the exit of the killed", func(e event.Event) bool { return e.Kind == event.WorkerExited })
		if e.Cause != "signal KILL" || e.Planned {
			t.Errorf("a killed worker's end is told as %q, planned %v", e.Cause, e.Planned)
		}
		exits = append(exits, e)
	}
	i.Await("whole again", isReady)
	report := load.end()
	neverRefused(t, report)
	lost := 0
	for _, e := range exits {
		lost += e.InFlight + e.Accepting
	}
	if report.Failed() > lost {
		t.Errorf("%d requests failed, and the dead had only %d", report.Failed(), lost)
	}
	if open := unexplained(report.Failures, exits); len(open) > 0 {
		t.Errorf("failures that no exit explains: %v", open)
	}
	t.Logf("%d kills, %d requests lost, %d in flight on the dead", len(exits), report.Failed(), lost)
}

func TestAllWorkersKilledAtOnceRefuseNobody(t *testing.T) {
	i := supervisortest.Start(t, "--workers", "2")
	load := beginLoad(i, t, 6, 0, 0)
	for range 10 {
		s := i.Await("ready", isReady)
		for _, w := range s.Workers {
			_ = unix.Kill(w.PID, unix.SIGKILL)
		}
		i.Await("rid of the killed", func(now supervisor.Status) bool {
			return now.Workers[0].Worker != s.Workers[0].Worker && now.Workers[1].Worker != s.Workers[1].Worker
		})
	}
	i.Await("ready", isReady)
	neverRefused(t, load.end())
}
