package main

import (
	"bufio"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor"
	"revenant/supervisor/supervisortest"
)

// faults is where the processes of an instance say how far an upgrade is. All go
// on at once but for those who come to the point that is awaited.
type faults struct {
	path    string
	awaited atomic.Pointer[string]
	arrived chan arrival
}

// arrival is a process that waits at the point until it is let go on.
type arrival struct {
	pid  int
	conn net.Conn
}

func listenForFaults(t *testing.T) *faults {
	t.Helper()
	f := &faults{path: filepath.Join(openDir(t), "faults"), arrived: make(chan arrival, 16)}
	l, err := net.Listen("unix", f.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	// Ends with the listener.
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			line, _ := bufio.NewReader(conn).ReadString('\n')
			point, pid, _ := strings.Cut(strings.TrimSpace(line), " ")
			if wanted := f.awaited.Load(); wanted == nil || *wanted != point || !f.awaited.CompareAndSwap(wanted, nil) {
				_ = conn.Close()
				continue
			}
			n, _ := strconv.Atoi(pid)
			f.arrived <- arrival{n, conn}
		}
	}()
	return f
}

// await has whoever comes to a point next wait there. It is said before anybody
// can come.
func (f *faults) await(point string) { f.awaited.Store(&point) }

// caught is who came.
func (f *faults) caught(t *testing.T) arrival {
	t.Helper()
	select {
	case a := <-f.arrived:
		return a
	case <-time.After(supervisortest.Patience):
		t.Fatal("nobody came to the point")
		return arrival{}
	}
}

func TestMasterKilledAtAnyStepOfAnUpgradeLosesNothing(t *testing.T) {
	f, mark := listenForFaults(t), t.TempDir()
	i := supervisortest.Begin(t, []string{marker + "=" + mark, supervisor.FaultVariable + "=" + f.path}, "--workers", "2")
	i.Await("ready", isReady)
	load := beginLoad(i, t, 2, 2, 0)
	keeper := 0
	for _, c := range []struct{ point, victim string }{
		{"before-fork", "old"},
		{"after-fork", "old"}, {"after-fork", "new"},
		{"before-ready", "old"}, {"before-ready", "new"},
		{"after-ready", "old"}, {"after-ready", "new"},
		{"committed", "old"}, {"committed", "new"},
		{"leaving", "old"},
		{"alone", "new"},
	} {
		t.Run(c.point+" "+c.victim, func(t *testing.T) {
			before := settled(i, t)
			f.await(c.point)
			ended := make(chan struct{})
			// Ends with the command, whose success depends on who was killed.
			go func() {
				defer close(ended)
				client(i, t, "upgrade")
			}()
			a := f.caught(t)
			victim := before.MasterPID
			if c.victim == "new" {
				victim = a.pid
			}
			_ = unix.Kill(victim, unix.SIGKILL) // when its successor is ready, the old one may have left already
			_ = a.conn.Close()
			<-ended
			after := i.Await("ready under a living master", func(s supervisor.Status) bool {
				return s.MasterPID != victim && isReady(s) && s.Orphans == 0 && s.Operation == nil
			})
			awaitTrue(t, "only one generation is left", func() bool { return len(marked(t, mark)) == 4 })
			if after.KeeperPID != before.KeeperPID || after.Listeners[0] != before.Listeners[0] {
				t.Errorf("afterwards %+v, before %+v", after, before)
			}
			if now := len(descriptors(after.KeeperPID)); keeper == 0 {
				keeper = now
			} else {
				awaitTrue(t, fmt.Sprintf("the keeper has %d descriptors again", keeper+2), func() bool { return len(descriptors(after.KeeperPID)) <= keeper+2 })
			}
		})
	}
	if report := load.end(); report.Failed() > 0 {
		t.Errorf("%d requests failed: %v", report.Failed(), report.Failures)
	}
}

// The twin: one that is killed long after, on probation, was no step of it.
func TestMasterKilledOnProbationIsFollowedByOneOfItsVersion(t *testing.T) {
	i := supervisortest.Start(t, "--workers", "1", "--probation", "1h")
	upgraded(i, t, "--binary", variant(t, "new"))
	if s := killMaster(i, t, settled(i, t)); s.Version != "defective" || s.Upgrade != nil {
		t.Errorf("after a kill %+v", s)
	}
}

func TestManyReloadsAndUpgradesAtOnceEndInOneGeneration(t *testing.T) {
	mark := t.TempDir()
	i := supervisortest.Begin(t, []string{marker + "=" + mark}, "--workers", "2")
	keeper := i.Await("ready", isReady).KeeperPID
	load := beginLoad(i, t, 2, 2, 0)
	for n := range 25 {
		signalNow(t, keeper, unix.SIGHUP)
		time.Sleep(time.Duration(n) * time.Millisecond) // the gaps are what is tested
		signalNow(t, keeper, unix.SIGUSR2)
		time.Sleep(time.Duration(24-n) * time.Millisecond)
	}
	s := settled(i, t)
	// Whatever was under way when the last signal came has ended; this is the proof.
	if s = upgraded(i, t); s.KeeperPID != keeper || s.Generation < 2 {
		t.Errorf("afterwards %+v", s)
	}
	settled(i, t)
	awaitTrue(t, "only one generation is left", func() bool { return len(marked(t, mark)) == 4 })
	if report := load.end(); report.Failed() > 0 {
		t.Errorf("%d requests failed: %v", report.Failed(), report.Failures)
	}
}

func TestStopDuringAnUpgradeEndsBothGenerations(t *testing.T) {
	for _, point := range []string{"before-fork", "after-fork", "before-ready", "after-ready", "committed"} {
		t.Run(point, func(t *testing.T) {
			f, mark := listenForFaults(t), t.TempDir()
			i := supervisortest.Begin(t, []string{marker + "=" + mark, supervisor.FaultVariable + "=" + f.path}, "--workers", "1")
			keeper := i.Await("ready", isReady).KeeperPID
			f.await(point)
			signalNow(t, keeper, unix.SIGUSR2)
			a := f.caught(t)
			signalNow(t, keeper, unix.SIGTERM)
			_ = a.conn.Close()
			if code := i.Wait(); code != exitOK {
				t.Errorf("exit code %d", code)
			}
			awaitTrue(t, "nobody is left", func() bool { return len(marked(t, mark)) == 0 })
		})
	}
}
