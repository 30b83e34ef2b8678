package main

import (
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor"
	"revenant/supervisor/event"
	"revenant/supervisor/supervisortest"
)

// beginActors is an instance of two workers whose slot 0 serves.
func beginActors(t *testing.T, flags []string, deeds ...string) (*supervisortest.Instance, supervisor.WorkerStatus) {
	t.Helper()
	i := supervisortest.Begin(t, nil, append(append([]string{"--workers=2"}, flags...), actor(t, append([]string{"quiet", "only=0:poll"}, deeds...)...)...)...)
	s := i.Await("slot 0 serves", func(s supervisor.Status) bool { return len(s.Workers) > 1 && s.Workers[0].State == "ready" })
	return i, s.Workers[0]
}

// What the program of one slot does wrong is told, costs its sibling nothing, and
// is tried again with the pauses of the policy and no faster.
func TestProgramThatFailsIsToldPausedAndHarmsNobody(t *testing.T) {
	for _, c := range []struct {
		name  string
		deeds []string
		flags []string
		says  []string
	}{
		{"exits at once", []string{"exit=0"}, nil, []string{"exit 0"}},
		{"fails at once", []string{"exit=3"}, nil, []string{"exit 3"}},
		{"prints garbage", []string{"print", "exit=4"}, nil, []string{"exit 4"}},
		{"forks away", []string{"daemon=quiet,poll", "exit=0"}, nil, []string{"exit 0", "left processes behind", "must stay in the foreground"}},
		{"closes its descriptors", []string{"close", "hang"}, []string{"--start-timeout=1s"}, []string{"start-timeout", "it was waited for notify or listen"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			i, sibling := beginActors(t, c.flags, c.deeds...)
			events := i.Follow()
			// Started again at once after the first failure, then after 100 ms, less jitter.
			var began []time.Time
			said := ""
			for len(began) < 3 {
				e := supervisortest.AwaitEvent(t, events, "a word about slot 1", func(e event.Event) bool { return e.Slot != nil && *e.Slot == 1 })
				if e.Kind == event.WorkerStarted {
					began = append(began, e.Time)
				}
				if e.Exit != nil {
					said += e.Cause + "\n"
				}
				said += e.Message + "\n"
			}
			if pause := began[2].Sub(began[1]); pause < 80*time.Millisecond {
				t.Errorf("started again after %v", pause)
			}
			for _, word := range c.says {
				if !strings.Contains(said, word) {
					t.Errorf("the events do not say %q:\n%s", word, said)
				}
			}
			if answer := get(t, i.URL()); answer != fmt.Sprintln(sibling.PID) {
				t.Errorf("%q answers and not the sibling, %d", answer, sibling.PID)
			}
			if w := i.Now().Workers[0]; w.Worker != sibling.Worker || w.State != "ready" {
				t.Errorf("the sibling is %+v", w)
			}
			for _, line := range strings.Split(strings.TrimSpace(i.Log()), "\n") {
				if !json.Valid([]byte(line)) {
					t.Errorf("not JSON: %q", line)
				}
			}
		})
	}
}

// harmed waits for the event and a worker that answers.
func harmed(t *testing.T, events <-chan event.Event, i *supervisortest.Instance, word string) {
	t.Helper()
	e := supervisortest.AwaitEvent(t, events, "what was done to the listener", func(e event.Event) bool { return e.Kind == event.ListenerHarmed })
	if !strings.Contains(e.Message, word) {
		t.Errorf("the event says %q, want %q", e.Message, word)
	}
}

// All workers live on: nothing but the guard sees it.
func TestListenerThatAWorkerMadeBlockingIsRepairedWhileAllLive(t *testing.T) {
	i, sibling := beginActors(t, nil, "block", "ready", "hang")
	harmed(t, i.Follow(), i, "O_NONBLOCK was cleared")
	s := i.Now()
	awaitTrue(t, "O_NONBLOCK is set", func() bool { return fileFlags(t, sibling.PID, sharedSocket(t, s))&unix.O_NONBLOCK != 0 })
	if answer := get(t, i.URL()); answer != fmt.Sprintln(sibling.PID) {
		t.Errorf("%q answers", answer)
	}
}

func TestListenerThatAWorkerShutDownIsRepairedWhileAllLive(t *testing.T) {
	i, sibling := beginActors(t, nil, "shut", "ready", "hang")
	address := i.Address()
	harmed(t, i.Follow(), i, "the socket was shut down")
	awaitTrue(t, "somebody can connect", func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	if answer := get(t, i.URL()); answer != fmt.Sprintln(sibling.PID) {
		t.Errorf("%q answers", answer)
	}
}

// A unix socket cannot be repaired: there is a new one, and new workers on it.
func TestUnixSocketThatAWorkerShutDownIsReplacedWithAllWorkers(t *testing.T) {
	path := filepath.Join(openDir(t), "s.sock")
	once := filepath.Join(openDir(t), "once")
	i := supervisortest.Begin(t, nil, append([]string{"--workers=2", "--listen=unix:" + path}, actor(t, "quiet", "only=1:once="+once+":shut", "poll")...)...)
	harmed(t, i.Follow(), i, "the socket was shut down; every worker gets a new one")
	s := i.Await("anew", func(s supervisor.Status) bool {
		return isReady(s) && s.Workers[0].Worker > 2 && s.Workers[1].Worker > 2
	})
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = c.Write([]byte("GET / HTTP/1.0\r\n\r\n"))
	answer := make([]byte, 4096)
	n, _ := c.Read(answer)
	if text := string(answer[:n]); !strings.Contains(text, fmt.Sprintln(s.Workers[0].PID)) && !strings.Contains(text, fmt.Sprintln(s.Workers[1].PID)) {
		t.Errorf("the new socket answers %q", text)
	}
	killMaster(i, t, s) // the keeper has the new one too
	i.Await("alone", func(n supervisor.Status) bool { return isReady(n) && n.Orphans == 0 && n.Generation == 2 })
}
