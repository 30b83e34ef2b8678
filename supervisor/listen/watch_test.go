package listen

import (
	"context"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// watching hands on each word of a watch over sockets.
func watching(t *testing.T, sockets ...*Socket) (*Watch, <-chan struct{}) {
	t.Helper()
	w, err := NewWatch()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sockets {
		if err := w.Add(s); err != nil {
			t.Fatal(err)
		}
	}
	told := make(chan struct{}, 1000)
	ended := make(chan struct{})
	// Ends with the watch; the cleanup waits for it.
	go func() {
		defer close(ended)
		for w.Wait() == nil {
			told <- struct{}{}
		}
	}()
	t.Cleanup(func() { _ = w.Close(); <-ended })
	return w, told
}

func awaitWord(t *testing.T, told <-chan struct{}) {
	t.Helper()
	select {
	case <-told:
	case <-time.After(10 * time.Second):
		t.Fatal("the watch does not tell that a socket was shut down")
	}
}

func TestWatchTellsOfEachTimeThatASocketIsShutDown(t *testing.T) {
	each(t, func(t *testing.T, s *Socket) {
		w, told := watching(t, s)
		for _, how := range []int{unix.SHUT_RDWR, unix.SHUT_RD, unix.SHUT_RDWR} {
			if err := unix.Shutdown(s.FD(), how); err != nil {
				t.Fatal(err)
			}
			awaitWord(t, told)
			if s.name.network == "unix" {
				if err := w.Remove(s); err != nil {
					t.Fatal(err)
				}
				if err := s.Replace(context.Background()); err != nil {
					t.Fatal(err)
				}
				if err := w.Add(s); err != nil {
					t.Fatal(err)
				}
			} else if _, err := s.Repair(); err != nil {
				t.Fatal(err)
			}
			dial(t, s)
			answerOne(t, s)
		}
		if len(told) > 3 { // the kernel may wake twice for one shutdown
			t.Errorf("%d words too many", len(told))
		}
	})
}

// What comes and goes on a socket does not wake who watches it.
func TestWatchIsNotWokenByConnections(t *testing.T) {
	each(t, func(t *testing.T, s *Socket) {
		_, told := watching(t, s)
		for range 200 {
			c := dial(t, s)
			answerOne(t, s)
			_ = c.Close()
		}
		if len(told) > 0 {
			t.Errorf("woken %d times by 200 connections", len(told))
		}
		// The twin: it would have said so.
		if err := unix.Shutdown(s.FD(), unix.SHUT_RDWR); err != nil {
			t.Fatal(err)
		}
		awaitWord(t, told)
	})
}
