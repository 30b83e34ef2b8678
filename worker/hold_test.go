package worker_test

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor/notify"
	"revenant/worker/internal/workertest"
)

// holding starts a worker that is ready and waits, and returns the way to it.
func holding(t *testing.T, ln net.Listener) (p *workertest.Process, line int) {
	t.Helper()
	lines := make(chan int, 1)
	p = workertest.Start(t, workertest.Setup{Role: "serve", Listeners: []net.Listener{ln}, Hello: func(p *workertest.Process, m notify.Message) {
		if line, err := notify.Detach(m.Files[0]); err == nil {
			lines <- line
		}
		m.Answer([]int{p.Board.FD()}, "X_REVENANT_HELLO=1", "X_REVENANT_HOLD=1")
	}}).AwaitReady()
	return p, <-lines
}

func TestWorkerThatShallWaitTakesNoConnectionBeforeItMay(t *testing.T) {
	for name, allow := range map[string]func(line int){
		"allowed":        func(line int) { notify.Reply(line, nil, "X_REVENANT_ACCEPT=1"); unix.Close(line) },
		"master is gone": func(line int) { unix.Close(line) },
	} {
		t.Run(name, func(t *testing.T) {
			ln := listen(t)
			p, line := holding(t, ln)
			c := workertest.Dial(t, ln.Addr())
			if c.Ended(100 * time.Millisecond) {
				t.Error("the connection was closed")
			}
			if b := p.Board.Snapshot(); b.Accepted != 0 {
				t.Errorf("%d connections are taken", b.Accepted)
			}
			allow(line)
			c.Get(t, "/")
			c.Close()
			p.Signal(unix.SIGTERM)
			exits(t, p, "exit status 0")
		})
	}
}

func TestWorkerThatWaitsLeavesWhenAskedTo(t *testing.T) {
	ln := listen(t)
	p, line := holding(t, ln)
	defer unix.Close(line)
	p.Signal(unix.SIGTERM)
	p.AwaitStopping()
	exits(t, p, "exit status 0")
}
