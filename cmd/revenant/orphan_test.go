package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"revenant/supervisor"
	"revenant/supervisor/event"
	"revenant/supervisor/supervisortest"
	"revenant/supervisor/tree"
)

// parting are the ways in which workers come to outlive their master.
var parting = map[string]func(*testing.T, *supervisortest.Instance){
	"upgrade":           func(t *testing.T, i *supervisortest.Instance) { upgraded(i, t) },
	"death of a master": func(t *testing.T, i *supervisortest.Instance) { killMaster(i, t, i.Now()) },
}

// afterParting runs a test on an instance whose first worker holds a request, and
// has outlived its master.
func afterParting(t *testing.T, flags []string, test func(t *testing.T, i *supervisortest.Instance, w supervisor.WorkerStatus, held []net.Conn)) {
	for name, part := range parting {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			i := supervisortest.Start(t, append([]string{"--workers=1"}, flags...)...)
			w := i.Now().Workers[0]
			held := busy(t, i)
			part(t, i)
			test(t, i, w, held)
		})
	}
}

// drains waits until a worker drains with its request.
func drains(i *supervisortest.Instance, w supervisor.WorkerStatus) {
	i.Await("draining the former worker", func(s supervisor.Status) bool {
		for _, f := range s.Workers {
			if f.Worker == w.Worker && f.State == "draining" && f.InFlight > 0 {
				return f.Uptime > 0
			}
		}
		return false
	})
}

func TestFormerWorkerThatIsKilledWhileItDrainsIsToldAsKilled(t *testing.T) {
	afterParting(t, nil, func(t *testing.T, i *supervisortest.Instance, w supervisor.WorkerStatus, held []net.Conn) {
		drains(i, w)
		if show, errs, code := client(i, t, "show", fmt.Sprint(w.Worker)); code != 0 || !strings.Contains(show, "draining") {
			t.Errorf("show says of one that drains: %d %s%s", code, show, errs)
		}
		signalNow(t, w.PID, unix.SIGKILL)
		e := sameWord(t, i, i.Follow(), w.Worker, "signal KILL")
		if e.Planned || e.InFlight != len(held) || e.Uptime <= 0 || e.Generation != 1 {
			t.Errorf("the event says %+v", e.Exit)
		}
	})
}

// The twins of the test above: with nobody's kill, and with the keeper's own.
func TestFormerWorkerThatDrainsInTimeIsToldAsRequested(t *testing.T) {
	afterParting(t, nil, func(t *testing.T, i *supervisortest.Instance, w supervisor.WorkerStatus, held []net.Conn) {
		drains(i, w)
		for _, conn := range held {
			fmt.Fprint(conn, "2")
			answer := make([]byte, 1024)
			if n, err := conn.Read(answer); err != nil || !bytes.HasPrefix(answer[:n], []byte("HTTP/1.1 200")) {
				t.Errorf("its request is answered %q, %v", answer[:n], err)
			}
			_ = conn.Close()
		}
		if e := sameWord(t, i, i.Follow(), w.Worker, "requested"); !e.Planned || e.InFlight != 0 || e.Uptime <= 0 {
			t.Errorf("the event says %+v", e.Exit)
		}
	})
}

func TestFormerWorkerThatOverstaysIsToldAsDrainTimeout(t *testing.T) {
	afterParting(t, []string{"--drain-timeout=500ms"}, func(t *testing.T, i *supervisortest.Instance, w supervisor.WorkerStatus, held []net.Conn) {
		if e := sameWord(t, i, i.Follow(), w.Worker, "drain-timeout"); e.Planned || e.InFlight != len(held) {
			t.Errorf("the event says %+v", e.Exit)
		}
	})
}

// A program that knows nothing of us, and its last words.
func TestFormerWorkerThatExitsIsToldWithItsCodeAndItsLastWords(t *testing.T) {
	for name, part := range parting {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			dir := openDir(t)
			i := runActor(t, []string{"--workers=1"}, "once="+dir+"/first:ignore=TERM", "line=this came before", "ready", "await="+dir+"/{worker}", "line=these are my last words", "exit=3")
			w := i.Now().Workers[0]
			part(t, i)
			i.Await("draining the former worker", func(s supervisor.Status) bool { return s.Orphans == 1 && isReady(s) })
			touch(t, filepath.Join(dir, fmt.Sprint(w.Worker)))
			e := sameWord(t, i, i.Follow(), w.Worker, "exit 3")
			if e.Planned || !slices.Equal(e.LastLines, []string{"this came before", "these are my last words"}) {
				t.Errorf("the event says %+v", e.Exit)
			}
			if show, _, _ := client(i, t, "show", fmt.Sprint(w.Worker)); !strings.HasSuffix(show, "\n  this came before\n  these are my last words\n") {
				t.Errorf("show says\n%s", show)
			}
		})
	}
}

// A stop does not end the story before all have ended of whom it tells.
func TestFormerWorkersAreWaitedForInAStopAndTold(t *testing.T) {
	for _, c := range []struct {
		cause string
		flags []string
		cut   int
	}{{"requested", nil, 0}, {"drain-timeout", []string{"--drain-timeout=3s"}, 1}} {
		t.Run(c.cause, func(t *testing.T) {
			afterParting(t, c.flags, func(t *testing.T, i *supervisortest.Instance, w supervisor.WorkerStatus, held []net.Conn) {
				events := i.Follow()
				drains(i, w)
				signalNow(t, i.Command.Process.Pid, unix.SIGTERM)
				supervisortest.AwaitEvent(t, events, "the end of the other worker", func(e event.Event) bool { return e.Kind == event.WorkerExited && e.Worker != w.Worker })
				if c.cut == 0 {
					for _, conn := range held {
						fmt.Fprint(conn, "2")
						_, _ = conn.Read(make([]byte, 1024))
						_ = conn.Close()
					}
				}
				e := supervisortest.AwaitEvent(t, events, "the end of the former worker", func(e event.Event) bool { return e.Kind == event.WorkerExited && e.Worker == w.Worker })
				if e.Cause != c.cause {
					t.Errorf("it ended by %q, want %q", e.Cause, c.cause)
				}
				stopped := supervisortest.AwaitEvent(t, events, "the end", func(e event.Event) bool { return e.Kind == event.InstanceStopped })
				if stopped.Count != c.cut*len(held) {
					t.Errorf("%d requests are told as cut of %d", stopped.Count, len(held))
				}
				if code := i.Wait(); code != 0 {
					t.Errorf("exit code %d", code)
				}
			})
		})
	}
}

// The twin: without the keeper nobody makes them leave, and nobody waits for them.
func TestFormerWorkersAreNotWaitedForWhenTheKeeperIsGone(t *testing.T) {
	i := runActor(t, []string{"--workers=1"}, "once="+openDir(t)+"/first:ignore=TERM", "ready", "hang")
	w := i.Now().Workers[0]
	t.Cleanup(func() { _ = unix.Kill(w.PID, unix.SIGKILL) })
	killMaster(i, t, i.Now())
	s := i.Await("draining the former worker", func(s supervisor.Status) bool { return s.Orphans == 1 && isReady(s) })
	died(t, s.MasterPID, func() { signalNow(t, s.KeeperPID, unix.SIGKILL) })
	if tree.StatOf(w.PID).State == 0 {
		t.Error("the former worker has gone too: nothing is proved")
	}
}

// died waits until a process and all its threads are dead, be it reaped or not.
func died(t *testing.T, pid int, end func()) {
	t.Helper()
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	end()
	awaitTrue(t, "the process dies", func() bool {
		n, _ := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 0)
		return n > 0
	})
}

// withoutMaster has a test do what it wants while no master lives, and returns
// when the next one is ready.
func withoutMaster(t *testing.T, i *supervisortest.Instance, do func(s supervisor.Status)) <-chan event.Event {
	t.Helper()
	s := i.Now()
	signalNow(t, s.KeeperPID, unix.SIGSTOP) // it would start one
	defer unix.Kill(s.KeeperPID, unix.SIGCONT)
	died(t, s.MasterPID, func() { signalNow(t, s.MasterPID, unix.SIGKILL) })
	do(s)
	signalNow(t, s.KeeperPID, unix.SIGCONT)
	i.Await("ready under a new master", func(now supervisor.Status) bool { return now.Generation > s.Generation && isReady(now) })
	return i.Follow()
}

func TestWorkersThatEndWhileNoMasterLivesAreAccountedForWithTheirCause(t *testing.T) {
	dir := openDir(t)
	i := runActor(t, []string{"--workers=2"}, "ready", "await="+dir+"/{worker}", "exit=3")
	var workers []supervisor.WorkerStatus
	events := withoutMaster(t, i, func(s supervisor.Status) {
		workers = s.Workers
		died(t, workers[0].PID, func() { signalNow(t, workers[0].PID, unix.SIGKILL) })
		died(t, workers[1].PID, func() { touch(t, filepath.Join(dir, fmt.Sprint(workers[1].Worker))) })
	})
	causes := map[uint64]string{}
	for range workers {
		e := supervisortest.AwaitEvent(t, events, "the end of a worker", func(e event.Event) bool { return e.Kind == event.WorkerExited })
		causes[e.Worker] = e.Cause
		if e.Planned || e.Uptime <= 0 {
			t.Errorf("worker %d: %+v", e.Worker, e.Exit)
		}
	}
	for n, want := range []string{"signal KILL", "exit 3"} {
		id := workers[n].Worker
		if causes[id] != want {
			t.Errorf("worker %d ended by %q, want %q", id, causes[id], want)
		}
		sameWord(t, i, i.Follow(), id, want)
	}
}

// What the dead master had seen of no worker, and told nobody.
func TestWorkerThatEndsUnderAMasterThatIsKilledBeforeItSeesItIsAccountedFor(t *testing.T) {
	i := supervisortest.Start(t, "--workers=2")
	s := i.Now()
	signalNow(t, s.MasterPID, unix.SIGSTOP)
	died(t, s.Workers[0].PID, func() { signalNow(t, s.Workers[0].PID, unix.SIGSEGV) })
	killMaster(i, t, s)
	sameWord(t, i, i.Follow(), s.Workers[0].Worker, "exit 2") // as a Go program does
}

// The same of a master that has left the instance to another one, and of its end.
func TestWorkerThatEndsWhileItsMasterLeavesIsAccountedFor(t *testing.T) {
	f := listenForFaults(t)
	i := supervisortest.Begin(t, []string{supervisor.FaultVariable + "=" + f.path}, "--workers", "2")
	s := i.Await("ready", isReady)
	f.await("leaving")
	signalNow(t, s.KeeperPID, unix.SIGUSR2)
	master := f.caught(t)
	died(t, s.Workers[0].PID, func() { signalNow(t, s.Workers[0].PID, unix.SIGKILL) })
	_ = master.conn.Close()
	i.Await("upgraded", func(now supervisor.Status) bool { return now.Generation > s.Generation && isReady(now) })
	sameWord(t, i, i.Follow(), s.Workers[0].Worker, "signal KILL")
}

// Of so many ends the keeper remembers the newest.
func TestEndThatNobodyRemembersIsUnknownAndNotGuessed(t *testing.T) {
	dir := openDir(t)
	i := runActor(t, []string{"--workers=2"}, "ready", "only=1:await="+dir+"/go", "only=1:orphans=300", "hang")
	var victim supervisor.WorkerStatus
	events := withoutMaster(t, i, func(s supervisor.Status) {
		victim = s.Workers[0]
		died(t, victim.PID, func() { signalNow(t, victim.PID, unix.SIGKILL) })
		touch(t, filepath.Join(dir, "go"))
		awaitTrue(t, "many others have ended", func() bool { return len(tree.Children(s.KeeperPID)) > 300 })
	})
	_ = os.Remove(filepath.Join(dir, "go"))
	e := sameWord(t, i, events, victim.Worker, "unknown")
	if e.Planned || !strings.Contains(e.Message, "the keeper does not know") {
		t.Errorf("the event says %+v, %q", e.Exit, e.Message)
	}
}
