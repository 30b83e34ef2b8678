package worker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revenant/worker"
	"revenant/worker/internal/workertest"
)

func TestIdleConnectionIsAnsweredDuringQuiet(t *testing.T) {
	ln := listen(t)
	p := start(t, ln, "QUIET=1h")
	c := workertest.Dial(t, ln.Addr())
	if a := c.Get(t, "/"); a.Close {
		t.Error("connection closed before the drain")
	}
	p.Signal(unix.SIGTERM)
	p.AwaitStopping()
	if a := c.Get(t, "/"); a.StatusCode != 200 || !a.Close {
		t.Errorf("answer during quiet: %d, close %v, want 200 and Connection: close", a.StatusCode, a.Close)
	}
	exits(t, p, "exit status 0") // long before an hour: nothing is left
}

func TestIdleConnectionsStayUntilQuietEnds(t *testing.T) {
	const quiet = 400 * time.Millisecond
	ln := listen(t)
	p := start(t, ln, "QUIET="+quiet.String())
	idle, fresh := workertest.Dial(t, ln.Addr()), workertest.Dial(t, ln.Addr())
	idle.Get(t, "/")
	workertest.Until(t, "both accepted", func() bool { return p.Board.Snapshot().Accepted == 2 })
	began := time.Now()
	p.Signal(unix.SIGTERM)
	if !idle.Ended(workertest.Patience) {
		t.Fatal("idle connection was never closed")
	}
	if took := time.Since(began); took < quiet {
		t.Errorf("idle connection closed after %v, quiet is %v", took, quiet)
	}
	if a, err := fresh.Do("GET", "/"); err != nil || !a.Close {
		t.Errorf("a connection that had sent nothing yet: %v, %v", a.Response, err)
	}
	exits(t, p, "exit status 0")
}

func TestDrainFinishesWhatIsInFlight(t *testing.T) {
	ln := listen(t)
	p := start(t, ln, "QUIET=1h")
	held, begun, other := workertest.Dial(t, ln.Addr()), workertest.Dial(t, ln.Addr()), workertest.Dial(t, ln.Addr())
	held.Send("GET", "/hold")
	begun.Send("GET", "/begun")
	other.Get(t, "/")
	workertest.Until(t, "both in flight", func() bool { return p.Board.Snapshot().Active == 2 })
	begun.Begun(t) // its header has left
	p.Signal(unix.SIGTERM)
	p.Signal(unix.SIGTERM) // a second one hurries nobody who has a supervisor
	p.AwaitStopping()
	other.Get(t, "/release")
	if a, err := held.Receive(); err != nil || a.Text != "held" || !a.Close {
		t.Errorf("request from before the drain: %+v, %v", a, err)
	}
	a, err := begun.Receive()
	if err != nil || a.Text != "first last" {
		t.Errorf("answer begun before the drain: %+v, %v", a, err)
	}
	// Its header was gone before the drain, so its client may use the connection again.
	if a := begun.Get(t, "/"); !a.Close {
		t.Error("reused connection was not told to close")
	}
	exits(t, p, "exit status 0")
}

func TestDrainEmptiesTheQueueFirst(t *testing.T) {
	ln := listen(t)
	p := start(t, ln)
	p.Signal(unix.SIGSTOP)
	var clients []*workertest.Client
	for range 100 {
		c := workertest.Dial(t, ln.Addr())
		c.Send("GET", "/")
		clients = append(clients, c)
	}
	p.Signal(unix.SIGTERM)
	p.Signal(unix.SIGCONT)
	for i, c := range clients {
		if a, err := c.Receive(); err != nil || a.StatusCode != 200 {
			t.Fatalf("queued connection %d: %v, %v", i, a.Response, err)
		}
		c.Close()
	}
	exits(t, p, "exit status 0")
	if s := p.Board.Snapshot(); s.Accepted != 100 || s.Requests[2] != 100 || s.InFlight() != 0 {
		t.Errorf("after the drain: %+v", s)
	}
}

func TestSiblingTakesNewConnectionsDuringDrain(t *testing.T) {
	ln := listen(t)
	p := start(t, ln)
	held := workertest.Dial(t, ln.Addr())
	held.Send("GET", "/hold")
	workertest.Until(t, "in flight", func() bool { return p.Board.Snapshot().Active == 1 })
	p.Signal(unix.SIGTERM)
	p.AwaitStopping()
	sibling := start(t, ln)
	for range 200 {
		c := workertest.Dial(t, ln.Addr())
		if got, want := c.Get(t, "/").Text, fmt.Sprintf("pid %d", sibling.PID()); got != want {
			t.Fatalf("new connection was answered by %q, want %q", got, want)
		}
		c.Close()
	}
}

func TestHijackedConnectionHoldsTheDrain(t *testing.T) {
	ln := listen(t)
	p := start(t, ln, "QUIET=0s")
	up := workertest.Dial(t, ln.Addr())
	up.Send("GET", "/hijack")
	if a, err := up.Receive(); err != nil || a.StatusCode != 101 {
		t.Fatalf("upgrade: %v, %v", a.Response, err)
	}
	p.Signal(unix.SIGTERM)
	p.AwaitStopping()
	io.WriteString(up, "x")
	if up.Ended(200 * time.Millisecond) { // reads the echo
		t.Fatal("hijacked connection was cut by the drain")
	}
	up.Close()
	exits(t, p, "exit status 0")
}

func TestStandaloneDrainEndsAtItsTimeout(t *testing.T) {
	path := t.TempDir() + "/own.sock"
	p := workertest.Start(t, workertest.Setup{Role: "serve", Alone: true, Env: []string{"LISTEN=unix:" + path, "DRAIN=100ms"}})
	held := dialUntil(t, path)
	held.Get(t, "/")
	held.Send("GET", "/hold")
	p.Signal(unix.SIGTERM)
	exits(t, p, "exit status 1")
	if want := "cannot drain: cannot finish 1 open connections: the drain timeout of 100ms passed\n"; len(p.Stderr) < len(want) || p.Stderr[len(p.Stderr)-len(want):] != want {
		t.Errorf("it said %q, want %q at the end", p.Stderr, want)
	}
}

func TestSecondSignalEndsAStandaloneDrain(t *testing.T) {
	path := t.TempDir() + "/own.sock"
	p := workertest.Start(t, workertest.Setup{Role: "serve", Alone: true, Env: []string{"LISTEN=unix:" + path, "DRAIN=1h", "QUIET=1h"}})
	held := dialUntil(t, path)
	held.Get(t, "/")
	p.Signal(unix.SIGTERM)
	workertest.Until(t, "stopped listening", func() bool { _, err := os.Stat(path); return err != nil })
	p.Signal(unix.SIGTERM)
	exits(t, p, "exit status 1")
}

func TestWorkerDrainsWhenTheKeeperIsGone(t *testing.T) {
	ln := listen(t)
	p := start(t, ln, "QUIET=1h", "DRAIN=200ms")
	idle := workertest.Dial(t, ln.Addr())
	idle.Get(t, "/")
	p.Lifeline.Close()
	p.AwaitStopping()
	if a := idle.Get(t, "/"); !a.Close {
		t.Error("orphaned worker does not drain")
	}
	exits(t, p, "exit status 0")

	// Nobody is left who would kill it, so its own timeout counts.
	p = start(t, ln, "QUIET=1h", "DRAIN=200ms")
	workertest.Dial(t, ln.Addr()).Get(t, "/")
	p.Lifeline.Close()
	exits(t, p, "exit status 1")
}

func TestDrainByTheApplication(t *testing.T) {
	ln := listen(t)
	p := start(t, ln)
	if a := workertest.Dial(t, ln.Addr()).Get(t, "/drain"); !a.Close {
		t.Error("the answer that began the drain keeps its connection")
	}
	p.AwaitStopping()
	exits(t, p, "exit status 0")
}

// ledger counts each request exactly once.
type ledger struct {
	sent, answered, refused, lost atomic.Int64
}

// roll replaces a worker again and again under load: half the clients keep their connections, half do not.
func roll(t *testing.T, role string, rounds int, l *ledger) {
	ln := listen(t)
	setup := workertest.Setup{Role: role, Listeners: []net.Listener{ln}, Env: []string{"QUIET=500ms"}}
	current := workertest.Start(t, setup).AwaitReady()
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for i := range 8 {
		// Ends at stop; waited for below.
		clients.Go(func() { l.load(ln.Addr(), i%2 == 0, stop) })
	}
	for range rounds {
		next := workertest.Start(t, setup).AwaitReady()
		current.Signal(unix.SIGTERM)
		current.AwaitStopping()
		exits(t, current, "exit status 0")
		current = next
	}
	close(stop)
	clients.Wait()
}

// load sends one request after the other until stop. Nothing is sent again.
func (l *ledger) load(addr net.Addr, keep bool, stop <-chan struct{}) {
	var c *workertest.Client
	defer func() {
		if c != nil {
			c.Close()
		}
	}()
	for {
		select {
		case <-stop:
			return
		default:
		}
		if c == nil {
			var err error
			if c, err = workertest.DialError(addr); err != nil {
				l.sent.Add(1)
				l.refused.Add(1)
				continue
			}
		}
		l.sent.Add(1)
		a, err := c.Do("GET", "/")
		if err != nil || a.StatusCode != 200 {
			l.lost.Add(1)
		} else {
			l.answered.Add(1)
		}
		if err != nil || a.Close || !keep {
			c.Close()
			c = nil
		}
	}
}

func TestRollingUnderLoadLosesNothing(t *testing.T) {
	var l ledger
	roll(t, "serve", 5, &l)
	t.Logf("sent %d, answered %d", l.sent.Load(), l.answered.Load())
	if l.refused.Load()+l.lost.Load() != 0 || l.sent.Load() != l.answered.Load() || l.sent.Load() < 100 {
		t.Errorf("sent %d, answered %d, refused %d, lost %d", l.sent.Load(), l.answered.Load(), l.refused.Load(), l.lost.Load())
	}
}

// The twin: what the drain is for. It is the same load on workers that call http.Server.Shutdown.
func TestShutdownOfNetHTTPIsSeenToLose(t *testing.T) {
	var l ledger
	for range 20 {
		if roll(t, "shutdown", 5, &l); l.lost.Load() > 0 {
			t.Logf("sent %d, lost %d", l.sent.Load(), l.lost.Load())
			return
		}
	}
	t.Errorf("of %d requests none was lost: the load of these tests shows nothing", l.sent.Load())
}

func TestNoGoroutineOutlivesRun(t *testing.T) {
	before := 0
	for i := range 4 {
		if i == 1 { // the first Run also starts what os/signal keeps
			before = settled(t)
		}
		ctx, cancel := context.WithCancel(t.Context())
		path := t.TempDir() + "/own.sock"
		done := make(chan error, 1)
		go func() { done <- worker.Run(ctx, handler(), worker.WithListen("unix:"+path), worker.WithQuiet(0)) }()
		for range 10 {
			dialUntil(t, path).Get(t, "/")
		}
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(workertest.Patience):
			t.Fatal("Run did not return")
		}
	}
	workertest.Until(t, strconv.Itoa(before)+" goroutines, as before", func() bool { return runtime.NumGoroutine() <= before })
}

// settled is the number of goroutines when net/http's have ended: they do so just after their connections.
func settled(t *testing.T) int {
	workertest.Until(t, "no goroutine of net/http left", func() bool {
		stacks := make([]byte, 1<<20)
		return !strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "net/http.(*conn).serve")
	})
	return runtime.NumGoroutine()
}

func TestEndOfTheContextDrainsAndCancelsNoRequest(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	path := t.TempDir() + "/own.sock"
	entered := make(chan struct{})
	slow := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		select {
		case <-worker.Draining(r.Context()):
			io.WriteString(w, "finished")
		case <-r.Context().Done():
		}
	})
	done := make(chan error, 1)
	go func() { done <- worker.Run(ctx, slow, worker.WithListen("unix:"+path)) }()
	workertest.Until(t, "worker listens", func() bool { _, err := os.Stat(path); return err == nil })
	c := workertest.Dial(t, &net.UnixAddr{Net: "unix", Name: path})
	c.Send("GET", "/")
	<-entered
	cancel()
	if a, err := c.Receive(); err != nil || a.Text != "finished" {
		t.Errorf("request in flight at the end of the context: %q, %v", a.Text, err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestShutDownSocketIsWaitedFor(t *testing.T) {
	ln := listen(t)
	p := start(t, ln)
	f := workertest.Duplicate(t, ln)
	defer f.Close()
	fd := int(f.Fd())
	if err := unix.Shutdown(fd, unix.SHUT_RDWR); err != nil {
		t.Fatal(err)
	}
	if _, err := workertest.DialError(ln.Addr()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("connected to a socket that was shut down: %v", err)
	}
	// What the master does about it.
	bindAgain(t, fd, ln.Addr())
	if err := unix.Listen(fd, 16); err != nil {
		t.Fatal(err)
	}
	workertest.Dial(t, ln.Addr()).Get(t, "/")
	select {
	case <-p.Exited:
		t.Error("worker gave up a socket that was repaired")
	default:
	}
}

func bindAgain(t *testing.T, fd int, addr net.Addr) {
	t.Helper()
	at := addr.(*net.TCPAddr)
	err := unix.Bind(fd, &unix.SockaddrInet4{Port: at.Port, Addr: [4]byte(at.IP.To4())})
	if err != nil && err != unix.EINVAL {
		t.Fatal(err)
	}
}
