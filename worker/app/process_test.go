package app_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"revenant/worker"
	"revenant/worker/app"
	"revenant/worker/internal/workertest"
)

func TestMain(m *testing.M) {
	workertest.Main(m, map[string]func(){"app": play})
}

// play is a worker with the built-in application.
func play() {
	handler := app.New(app.Config{Identity: worker.Self(), Chaos: true, Token: os.Getenv("TOKEN")})
	if err := worker.Run(context.Background(), handler, worker.WithListen(os.Getenv("LISTEN"))); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func TestEveryDeathComesAfterTheWholeAnswer(t *testing.T) {
	for mode, want := range map[string]string{
		"":         "exit status 0",
		"graceful": "exit status 0",
		"exit":     "exit status 1",
		"panic":    "exit status 2",
		"kill":     "signal: killed",
		"segv":     "signal: segmentation fault",
	} {
		t.Run("mode "+mode, func(t *testing.T) {
			for range rounds() {
				die(t, mode, want)
			}
		})
	}
}

func rounds() int {
	if testing.Short() {
		return 3
	}
	return 50
}

func die(t *testing.T, mode, want string) {
	t.Helper()
	ln := workertest.Listen(t, "tcp", "127.0.0.1:0")
	p := workertest.Start(t, workertest.Setup{Role: "app", Listeners: []net.Listener{ln}}).AwaitReady()
	c := workertest.Dial(t, ln.Addr())
	a := c.Get(t, "/workerKiller?mode="+mode)
	if mode == "" {
		mode = "graceful"
	}
	text := fmt.Sprintf("Worker [%d] of server [0198b2f4-0000-7000-8000-000000000001], pid %d, dies now: %s.\n", p.Board.Identity().Worker, p.PID(), mode)
	if a.StatusCode != 200 || a.Text != text || !a.Close || a.ContentLength != int64(len(text)) {
		t.Errorf("answer %d %q, length %d, want 200 %q", a.StatusCode, a.Text, a.ContentLength, text)
	}
	if got := p.AwaitExit(); got != want {
		t.Errorf("worker ended with %q, want %q; it said %s", got, want, p.Stderr)
	}
	if s := p.Board.Snapshot(); s.InFlight() != 0 || s.Requests[2] != 1 || s.Answered() != 1 {
		t.Errorf("the answered request is not counted as such: %+v", s)
	}
}

func TestSickWorkersStayAlive(t *testing.T) {
	for mode, sick := range map[string]func(t *testing.T, p *workertest.Process, addr net.Addr){
		"hang": func(t *testing.T, p *workertest.Process, addr net.Addr) {
			c := workertest.Dial(t, addr)
			c.Send("GET", "/")
			workertest.Until(t, "request in flight", func() bool { return p.Board.Snapshot().Active == 1 })
			if c.Ended(200 * time.Millisecond) {
				t.Error("a worker that hangs closed the connection")
			}
			p.Signal(syscall.SIGTERM) // it drains, and never finishes
			p.AwaitStopping()
		},
		"leak": func(t *testing.T, p *workertest.Process, addr net.Addr) {
			before := field(t, p, "statm", 1)
			workertest.Until(t, "24 MiB more", func() bool {
				return (field(t, p, "statm", 1)-before)*os.Getpagesize() > 24<<20
			})
			workertest.Dial(t, addr).Get(t, "/")
		},
		"spin": func(t *testing.T, p *workertest.Process, addr net.Addr) {
			const userTime = 13
			workertest.Until(t, "busy for 200 ms", func() bool { return field(t, p, "stat", userTime) >= 20 })
			workertest.Dial(t, addr).Get(t, "/")
		},
	} {
		t.Run(mode, func(t *testing.T) {
			ln := workertest.Listen(t, "tcp", "127.0.0.1:0")
			p := workertest.Start(t, workertest.Setup{Role: "app", Listeners: []net.Listener{ln}}).AwaitReady()
			if a := workertest.Dial(t, ln.Addr()).Get(t, "/workerKiller?mode="+mode); a.StatusCode != 200 {
				t.Fatalf("answer %d %q", a.StatusCode, a.Text)
			}
			workertest.Until(t, "answered request closed", func() bool { return p.Board.Snapshot().Requests[2] == 1 && p.Board.Snapshot().Active == 0 })
			sick(t, p, ln.Addr())
			select {
			case <-p.Exited:
				t.Errorf("worker ended: %v", p.State)
			default:
			}
		})
	}
}

// field reads one number of /proc/PID/name.
func field(t *testing.T, p *workertest.Process, name string, n int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.PID(), name))
	if err != nil {
		t.Fatal(err)
	}
	i, err := strconv.Atoi(strings.Fields(string(text))[n])
	if err != nil {
		t.Fatal(err)
	}
	return i
}
