package main

import (
	"fmt"
	"net/http"
	"testing"

	"golang.org/x/sys/unix"

	"revenant/supervisor"
	"revenant/supervisor/event"
	"revenant/supervisor/supervisortest"
)

// One worker can shut the socket of all down. Nobody else can say so than those
// that fail on it; the first end of a worker then mends it.
func TestListenerThatAWorkerShutDownIsRepaired(t *testing.T) {
	i := supervisortest.Start(t, "--workers", "2", "--listen", "tcp://"+supervisortest.FreeAddress(t))
	before, url := i.Now(), i.URL()
	shutListener(t, before.Workers[0].PID)
	signalNow(t, before.Workers[0].PID, unix.SIGKILL)
	awaitTrue(t, "an answer on the repaired socket", func() bool {
		answer, err := http.Get(url)
		if err == nil {
			_ = answer.Body.Close()
		}
		return err == nil && answer.StatusCode == http.StatusOK
	})
	supervisortest.AwaitEvent(t, i.Follow(), "a word about the socket", func(e event.Event) bool { return e.Kind == event.ListenerHarmed })
	i.Await("whole again", func(s supervisor.Status) bool { return isReady(s) })
}

// shutListener does to the listening socket what a broken program could.
func shutListener(t *testing.T, pid int) {
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
		if err == nil && on == 1 {
			err = unix.Shutdown(fd, unix.SHUT_RDWR)
			_ = unix.Close(fd)
			if err != nil {
				t.Fatal(err)
			}
			return
		}
		_ = unix.Close(fd)
	}
	t.Fatalf("worker %d has no listening socket", pid)
}
