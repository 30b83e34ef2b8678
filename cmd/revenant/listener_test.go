package main

import (
	"fmt"
	"net/http"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"revenant/scripts/ledger"
	"revenant/supervisor/event"
	"revenant/supervisor/supervisortest"
)

// One worker can shut the socket of all down. Workers of package worker wait for the
// master to mend it.
func TestListenerThatAWorkerShutDownIsRepaired(t *testing.T) {
	i := supervisortest.Start(t, "--workers", "2", "--listen", "tcp://"+supervisortest.FreeAddress(t))
	before, url := i.Now(), i.URL()
	shutListener(t, before.Workers[0].PID)
	awaitTrue(t, "an answer on the repaired socket", func() bool {
		answer, err := http.Get(url)
		if err == nil {
			_ = answer.Body.Close()
		}
		return err == nil && answer.StatusCode == http.StatusOK
	})
	supervisortest.AwaitEvent(t, i.Follow(), "a word about the socket", func(e event.Event) bool { return e.Kind == event.ListenerHarmed })
	if s := i.Now(); !isReady(s) || workerIDs(s) != workerIDs(before) {
		t.Errorf("workers %s, before it %s: %+v", workerIDs(s), workerIDs(before), s)
	}
}

// A master that finds such a socket when it begins, after a crash or in an upgrade,
// has nobody to wait for.
func TestListenerThatWasShutDownIsBoundAnewByTheNextMaster(t *testing.T) {
	path := filepath.Join(openDir(t), "app.sock")
	i := supervisortest.Start(t, "--workers", "1", "--listen", "unix:"+path, "--listen", "tcp://"+supervisortest.FreeAddress(t))
	for _, change := range []string{"crash", "upgrade"} {
		before := i.Await("ready", isReady)
		shutListener(t, before.Workers[0].PID)
		if change == "crash" {
			killMaster(i, t, before)
		} else {
			upgraded(i, t)
		}
		for _, listener := range before.Listeners {
			if report, err := (ledger.Load{Target: listener, Requests: 1}).Run(t.Context()); err != nil || report.Failed() > 0 {
				t.Errorf("after a %s %s: %v, %v", change, listener, report.Failures, err)
			}
		}
	}
}

// shutListener does to the listening TCP socket what a broken program could.
func shutListener(t *testing.T, pid int) {
	t.Helper()
	onListener(t, pid, unix.AF_INET, func(fd int) error { return unix.Shutdown(fd, unix.SHUT_RDWR) })
}

// onListener does something to a worker's listening socket.
func onListener(t *testing.T, pid, family int, do func(fd int) error) {
	t.Helper()
	worker, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(worker)
	for _, n := range numbers(fmt.Sprintf("/proc/%d/fd", pid)) {
		fd, err := unix.PidfdGetfd(worker, n, 0)
		if err != nil {
			continue
		}
		on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
		if domain, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err == nil && on == 1 && domain == family {
			err = do(fd)
			_ = unix.Close(fd)
			if err != nil {
				t.Fatal(err)
			}
			return
		}
		_ = unix.Close(fd)
	}
	t.Fatalf("process %d has no listening socket of this kind", pid)
}
