package app_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"testing"

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

// rounds are fewer with the race detector, which needs a third of a second to start a process.
func rounds() int {
	if testing.Short() {
		return 3
	}
	if workertest.Race {
		return 10
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
