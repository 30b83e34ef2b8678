package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"revenant/supervisor"
	"revenant/supervisor/event"
	"revenant/supervisor/supervisortest"
)

// respawns is how many times a worker dies in the test for leaks.
const respawns = 1000

// footprint is what a process holds.
type footprint struct{ descriptors, threads, rss int }

func footprintOf(t testing.TB, pid int) footprint {
	t.Helper()
	return footprint{len(descriptors(pid)), statusField(t, pid, "Threads"), statusField(t, pid, "VmRSS")}
}

// compare reports what grew: descriptors and threads by more than two, memory by
// more than the collector's slack.
func (before footprint) compare(t testing.TB, who string, after footprint) {
	t.Helper()
	const slack = 8 << 10 // KiB
	if after.descriptors > before.descriptors+2 || after.threads > before.threads+2 || after.rss > before.rss+slack {
		t.Errorf("%s had %+v and has %+v after %d respawns", who, before, after, respawns)
	}
	t.Logf("%s: %+v, then %+v", who, before, after)
}

func TestThousandRespawnsLeakNothing(t *testing.T) {
	i := supervisortest.BeginPlain(t, nil, "--workers", "8")
	i.Await("ready", isReady)
	events := i.Follow()
	killEach(t, events, 60) // until the threads and the heap are what they will be
	s := i.Await("ready", isReady)
	keeper, master := footprintOf(t, s.KeeperPID), footprintOf(t, s.MasterPID)
	environment := len(environ(s.Workers[0].PID))
	socket := sharedSocket(t, s)

	signalNow(t, s.Workers[0].PID, unix.SIGKILL)
	killEach(t, events, respawns)
	s = i.Await("ready", func(s supervisor.Status) bool { return isReady(s) && len(s.Workers) == 8 })
	keeper.compare(t, "the keeper", footprintOf(t, s.KeeperPID))
	master.compare(t, "the master", footprintOf(t, s.MasterPID))
	for _, w := range s.Workers {
		if n := len(environ(w.PID)); n != environment {
			t.Errorf("a worker's environment had %d variables and has %d", environment, n)
		}
		if flags := fileFlags(t, w.PID, socket); flags&unix.O_NONBLOCK == 0 {
			t.Errorf("the listener blocks: flags %#o", flags)
		}
	}
	if s.Generation != 1 || s.Workers[0].Failures != 0 {
		t.Errorf("after %d respawns: %+v", respawns, s)
	}
	if below := family(t, s.MasterPID); len(below) != 8 {
		t.Errorf("the master has the children %v, want eight workers", below)
	}
	if below := family(t, s.KeeperPID); len(below) != 1 {
		t.Errorf("the keeper has the children %v, want the master", below)
	}
}

// killEach kills every worker that becomes ready until n have ended, and returns
// when none of those that it killed is left.
func killEach(t testing.TB, events <-chan event.Event, n int) {
	t.Helper()
	killed := map[int]bool{}
	for n > 0 || len(killed) > 0 {
		e := supervisortest.AwaitEvent(t, events, "a worker ready or gone", func(e event.Event) bool {
			return e.Kind == event.WorkerReady || e.Kind == event.WorkerExited || e.Kind == event.Lost
		})
		switch e.Kind {
		case event.WorkerReady:
			if n > 0 {
				killed[e.PID] = true
				_ = unix.Kill(e.PID, unix.SIGKILL)
			}
		case event.WorkerExited:
			delete(killed, e.PID)
			n--
		case event.Lost:
			t.Fatal("the test follows too slowly")
		}
	}
}

// family is a process's children with their states: a zombie is a child too.
func family(t testing.TB, pid int) (children []string) {
	t.Helper()
	for _, task := range numbers(fmt.Sprintf("/proc/%d/task", pid)) {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, task))
		for child := range strings.FieldsSeq(string(text)) {
			stat, _ := os.ReadFile("/proc/" + child + "/stat")
			_, state, _ := strings.Cut(string(stat), ") ")
			children = append(children, child+" "+strings.SplitN(state, " ", 2)[0])
		}
	}
	return children
}
