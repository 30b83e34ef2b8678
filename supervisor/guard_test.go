package supervisor

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor/event"
	"revenant/supervisor/listen"
)

// onSocket is an instance of two workers on a socket, which belongs to the master.
func onSocket(t *testing.T, address string) (Config, *listen.Socket) {
	t.Helper()
	parsed, err := listen.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	s, err := listen.Bind(t.Context(), parsed)
	if err != nil {
		t.Fatal(err)
	}
	cfg := two
	cfg.Sockets = []*listen.Socket{s}
	return cfg, s
}

func shut(t *testing.T, s *listen.Socket) {
	t.Helper()
	if err := unix.Shutdown(s.FD(), unix.SHUT_RDWR); err != nil {
		t.Fatal(err)
	}
}

// lookNow is what the master does when it is told that a socket was shut down.
func (i *fakeInstance) lookNow() {
	_ = i.ask(context.Background(), func() { i.repairSockets("while all lived") })
}

// fails is how often the worker of a slot failed in a row.
func (i *fakeInstance) fails(slot int) (n int) {
	_ = i.ask(context.Background(), func() { n = i.seats[slot].slot.fails })
	return n
}

// inSeat is the worker that sits in a slot, 0 for none.
func (i *fakeInstance) inSeat(slot int) (id uint64) {
	_ = i.ask(context.Background(), func() {
		if c := i.seats[slot].worker; c != nil {
			id = c.id
		}
	})
	return id
}

// process is that of the worker in a slot.
func (i *fakeInstance) process(slot int) *fakeProcess {
	pid := i.status().Workers[slot].PID
	i.world.mu.Lock()
	defer i.world.mu.Unlock()
	return i.world.living[pid]
}

// Many programs end when they cannot accept. It says nothing against them.
func TestWorkerThatEndsBecauseItsListenerWasShutDownHasNotFailed(t *testing.T) {
	cfg, s := onSocket(t, "tcp://127.0.0.1:0")
	inBubble(t, cfg, serve(time.Millisecond, 0), func(i *fakeInstance) {
		for n := range 6 {
			i.pass(1100 * time.Millisecond)
			shut(t, s)
			for slot := range 2 {
				i.process(slot).end(exitStatus(9))
			}
			i.pass(10 * time.Millisecond)
			if now := i.status(); now.Ready != 2 || i.fails(0)+i.fails(1) != 0 {
				t.Fatalf("after %d times %d are ready: %+v", n+1, now.Ready, now.Workers)
			}
		}
		for _, e := range i.exits() {
			if e.Cause != "exit 9" || e.Message != "its listener had just been shut down" {
				t.Errorf("worker %d ended by %q: %q", e.Worker, e.Cause, e.Message)
			}
		}
	})
}

// The twins: one that had hardly begun may have done it itself, and long after it
// nothing is explained by it.
func TestWorkerThatMayHaveShutTheListenerDownHasFailed(t *testing.T) {
	for name, before := range map[string]time.Duration{"too young": 500 * time.Millisecond, "too late": 5 * time.Second} {
		t.Run(name, func(t *testing.T) {
			cfg, s := onSocket(t, "tcp://127.0.0.1:0")
			inBubble(t, cfg, serve(time.Millisecond, 0), func(i *fakeInstance) {
				i.pass(before)
				shut(t, s)
				i.lookNow()
				if name == "too late" {
					i.pass(1100 * time.Millisecond)
				}
				i.process(1).end(exitStatus(9))
				i.pass(10 * time.Millisecond)
				if i.fails(0) != 0 || i.fails(1) != 1 {
					t.Errorf("after its end slot 0 has failed %d times and slot 1 %d times", i.fails(0), i.fails(1))
				}
			})
		})
	}
}

// A unix socket is replaced, with every worker, at once, however often it is shut
// down; and the program that does so at each start is the one that has to wait.
func TestUnixSocketIsReplacedAtOnceAndWhoeverShutsItDownAtEachStartWaits(t *testing.T) {
	for slot, c := range []struct{ starts, fails int }{
		{12, 2}, // workers are started in the order of their slots: the wrong one is suspected first
		{9, 0},
	} {
		t.Run(fmt.Sprintf("slot %d", slot), func(t *testing.T) {
			cfg, s := onSocket(t, "unix:"+filepath.Join(t.TempDir(), "s.sock"))
			inBubble(t, cfg, serve(time.Millisecond, 0), func(i *fakeInstance) {
				culprit, harms := uint64(0), 0
				for range 20_000 {
					i.pass(time.Millisecond)
					id := i.inSeat(slot)
					if id == 0 || id == culprit {
						continue
					}
					culprit = id
					shut(t, s)
					harms++
					i.lookNow()
					if found, err := s.Repair(); found != "" || err != nil {
						t.Fatalf("it is not mended: %q, %v", found, err)
					}
				}
				if harms > c.starts || harms < 5 {
					t.Errorf("the culprit was started %d times in 20 s, want %d at the most", harms, c.starts)
				}
				if i.fails(1-slot) > c.fails || i.status().Workers[1-slot].State != "ready" {
					t.Errorf("its sibling failed %d times, want %d at the most: %+v", i.fails(1-slot), c.fails, i.status().Workers[1-slot])
				}
				if n := i.status().Workers[1-slot].Restarts; n > harms+c.fails {
					t.Errorf("its sibling was started again %d times for %d harms", n, harms)
				}
			})
		})
	}
}

// The twin: what is done when all have served for a while is put down to nobody.
func TestUnixSocketThatIsShutDownLaterMakesNobodyASuspect(t *testing.T) {
	cfg, s := onSocket(t, "unix:"+filepath.Join(t.TempDir(), "s.sock"))
	inBubble(t, cfg, serve(time.Millisecond, 0), func(i *fakeInstance) {
		for range 5 {
			i.pass(1100 * time.Millisecond)
			shut(t, s)
			i.lookNow()
			i.pass(10 * time.Millisecond)
			if now := i.status(); now.Ready != 2 || i.fails(0)+i.fails(1) != 0 {
				t.Fatalf("%d are ready: %+v", now.Ready, now.Workers)
			}
		}
		for _, e := range i.Events().Since(0) {
			if e.Kind == event.ListenerHarmed && strings.Contains(e.Message, "put down to") {
				t.Errorf("it says %q", e.Message)
			}
		}
	})
}
