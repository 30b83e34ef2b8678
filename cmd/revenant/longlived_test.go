package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor"
	"revenant/supervisor/event"
	"revenant/supervisor/supervisortest"
	"revenant/worker"
)

// actEndless serves with package worker what does not end by itself.
func actEndless(string) {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "Hello") })
	mux.HandleFunc("/websocket", func(w http.ResponseWriter, _ *http.Request) {
		c, in, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		fmt.Fprint(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_, _ = io.Copy(c, in) // an echo, as long as the client wants
	})
	mux.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for tick := time.NewTicker(20 * time.Millisecond); ; {
			fmt.Fprint(w, "data: alive\n\n")
			if http.NewResponseController(w).Flush() != nil {
				return
			}
			select {
			case <-tick.C:
			case <-r.Context().Done():
				return
			}
		}
	})
	mux.HandleFunc("/upload", func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n)
	})
	mux.HandleFunc("/download", func(w http.ResponseWriter, _ *http.Request) {
		for block := make([]byte, 64<<10); ; {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	})
	if err := worker.Run(context.Background(), mux); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// endless are requests that have no end.
var endless = []struct {
	name, head string
	answered   bool   // the answer begins at once
	keepOn     string // what the client goes on sending
}{
	{"a websocket", "GET /websocket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", true, "ping"},
	{"a stream of events", "GET /events HTTP/1.1\r\nHost: x\r\n\r\n", true, ""},
	{"an endless upload", "POST /upload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", false, "1\r\nx\r\n"},
	{"a client that never reads", "GET /download HTTP/1.1\r\nHost: x\r\n\r\n", true, ""},
}

// beginEndless begins one of each and returns when workers have them all.
func beginEndless(t *testing.T, i *supervisortest.Instance) {
	t.Helper()
	for _, e := range endless {
		c := dialRaw(t, i)
		c.send(t, e.head)
		if e.answered {
			if _, err := c.in.Peek(1); err != nil {
				t.Fatalf("%s: %v", e.name, err)
			}
		}
		if e.keepOn != "" {
			// Ends when the connection does.
			go func() {
				for tick := time.NewTicker(10 * time.Millisecond); ; <-tick.C {
					if _, err := io.WriteString(c, e.keepOn); err != nil {
						return
					}
				}
			}()
		}
	}
	// The upload has no answer yet. The websocket is a connection and no request any more.
	i.Await("busy with what has no end", func(s supervisor.Status) bool { return inFlight(s) == int64(len(endless))-1 })
}

func startLongLived(t *testing.T, args ...string) *supervisortest.Instance {
	t.Helper()
	return supervisortest.Start(t, append(args, actor(t, "endless")...)...)
}

func TestWhatHasNoEndHoldsUpAStopOnlyToTheDeadlineAndIsCounted(t *testing.T) {
	const deadline = 2 * time.Second
	for _, address := range []string{"tcp://127.0.0.1:0", "unix:" + openDir(t) + "/s"} {
		t.Run(strings.SplitN(address, ":", 2)[0], func(t *testing.T) {
			i := startLongLived(t, "--workers", "2", "--drain-timeout", deadline.String(), "--listen", address)
			events := i.Follow()
			beginEndless(t, i)
			short := begunRequest(t, i)
			began := time.Now()
			signalNow(t, i.Command.Process.Pid, unix.SIGTERM)
			i.Await("stopping", func(s supervisor.Status) bool { return s.State == "stopping" })
			short.send(t, secondHalf)
			short.answer(t)
			cut := 0
			for range 2 {
				e := supervisortest.AwaitEvent(t, events, "a worker's end", func(e event.Event) bool { return e.Kind == event.WorkerExited })
				cut += e.InFlight
			}
			if code := i.Wait(); code != 0 {
				t.Errorf("exit code %d", code)
			}
			if took := time.Since(began); took < deadline {
				t.Errorf("stopped after %v: what had no end was cut before the deadline", took)
			}
			// The websocket is a connection and no request any more.
			if want := len(endless) - 1; cut != want {
				t.Errorf("%d requests were counted as cut, want %d", cut, want)
			}
		})
	}
}

// The twin: the same instance without them does not wait for the deadline.
func TestStopWithoutAnythingLongLivedDoesNotWaitForTheDeadline(t *testing.T) {
	i := startLongLived(t, "--workers", "2", "--drain-timeout", (10 * supervisortest.Patience).String())
	c := begunRequest(t, i)
	signalNow(t, i.Command.Process.Pid, unix.SIGTERM)
	i.Await("stopping", func(s supervisor.Status) bool { return s.State == "stopping" })
	c.send(t, secondHalf)
	c.answer(t)
	_ = c.Close()
	if code := i.Wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
