package worker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor/notify"
	"revenant/worker"
	"revenant/worker/internal/workertest"
)

func TestMain(m *testing.M) {
	workertest.Main(m, map[string]func(){"serve": serve, "shutdown": shutdown})
}

// serve is a worker whose options come by environment.
func serve() {
	opts := []worker.Option{worker.WithListen(os.Getenv("LISTEN"))}
	if d, err := time.ParseDuration(os.Getenv("QUIET")); err == nil {
		opts = append(opts, worker.WithQuiet(d))
	}
	if d, err := time.ParseDuration(os.Getenv("DRAIN")); err == nil {
		opts = append(opts, worker.WithDrainTimeout(d))
	}
	if d, err := time.ParseDuration(os.Getenv("HEADER")); err == nil {
		opts = append(opts, worker.WithServer(func(s *http.Server) { s.ReadHeaderTimeout = d }))
	}
	if err := worker.Run(context.Background(), handler(), opts...); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// shutdown is the worker that everybody writes first: http.Server.Shutdown on SIGTERM.
func shutdown() {
	f := notify.Inherited(os.Getenv)[0].File()
	ln, err := net.FileListener(f)
	f.Close()
	if err != nil {
		panic(err)
	}
	client, _ := notify.FromEnv()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGTERM)
	server := http.Server{Handler: handler()}
	go server.Serve(ln)
	client.Send(notify.Ready)
	<-signals
	client.Send(notify.Stopping)
	server.Shutdown(context.Background())
}

func handler() http.Handler {
	release := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "pid %d", os.Getpid()) })
	mux.HandleFunc("/hold", func(w http.ResponseWriter, r *http.Request) { <-release; io.WriteString(w, "held") })
	mux.HandleFunc("/release", func(w http.ResponseWriter, r *http.Request) { close(release) })
	mux.HandleFunc("/begun", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "first ")
		http.NewResponseController(w).Flush()
		<-release
		io.WriteString(w, "last")
	})
	mux.HandleFunc("/status", func(w http.ResponseWriter, r *http.Request) {
		code, _ := strconv.Atoi(r.FormValue("code"))
		w.WriteHeader(code)
	})
	mux.HandleFunc("/panic", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	mux.HandleFunc("/hijack", func(w http.ResponseWriter, r *http.Request) {
		c, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		io.Copy(c, c)
		c.Close()
	})
	mux.HandleFunc("/permit", func(w http.ResponseWriter, r *http.Request) {
		err := worker.Permit(r.Context(), r.FormValue("mode"))
		if refused, ok := errors.AsType[*worker.RefusedError](err); ok {
			fmt.Fprintf(w, "refused: %s", refused.Reason)
			return
		}
		fmt.Fprint(w, err)
	})
	mux.HandleFunc("/self", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "%+v", worker.Self()) })
	mux.HandleFunc("/env", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, os.Getenv(r.FormValue("name"))) })
	mux.HandleFunc("/drain", func(w http.ResponseWriter, r *http.Request) { worker.Drain(); <-worker.Draining(r.Context()) })
	return mux
}

// start starts a supervised worker and waits until it is ready.
func start(t testing.TB, ln net.Listener, env ...string) *workertest.Process {
	t.Helper()
	return workertest.Start(t, workertest.Setup{Role: "serve", Listeners: []net.Listener{ln}, Env: env}).AwaitReady()
}

func listen(t testing.TB) net.Listener { return workertest.Listen(t, "tcp", "127.0.0.1:0") }

func exits(t testing.TB, p *workertest.Process, want string) {
	t.Helper()
	if got := p.AwaitExit(); got != want {
		t.Errorf("worker ended with %q, want %q; it said %s", got, want, p.Stderr)
	}
}

func TestReadyWorkerServesAndKnowsWhoItIs(t *testing.T) {
	ln := listen(t)
	p := start(t, ln)
	c := workertest.Dial(t, ln.Addr())
	want := fmt.Sprintf("{Instance:0198b2f4-0000-7000-8000-000000000001 Worker:%d Slot:1 Generation:1 PID:%d Supervised:true}", p.Board.Identity().Worker, p.PID())
	if got := c.Get(t, "/self").Text; got != want {
		t.Errorf("self %s, want %s", got, want)
	}
	for _, name := range []string{"NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"} {
		if got := c.Get(t, "/env?name="+name).Text; got != "" {
			t.Errorf("children of the worker would inherit %s=%s", name, got)
		}
	}
	c.Close()
	p.Signal(unix.SIGTERM)
	p.AwaitStopping()
	exits(t, p, "exit status 0")
}

func TestListenersAreOnlyForTheProcessThatListenPIDNames(t *testing.T) {
	ln := listen(t)
	path := t.TempDir() + "/own.sock"
	p := workertest.Start(t, workertest.Setup{Role: "serve", Listeners: []net.Listener{ln}, Env: []string{"LISTEN_PID=1", "LISTEN=unix:" + path}}).AwaitReady()
	c := workertest.Dial(t, &net.UnixAddr{Net: "unix", Name: path})
	if got, want := c.Get(t, "/self").Text, fmt.Sprintf("{Instance: Worker:0 Slot:0 Generation:0 PID:%d Supervised:false}", p.PID()); got != want {
		t.Errorf("self %s, want %s", got, want)
	}
}

func TestStandaloneWorkerServesAndDrains(t *testing.T) {
	path := t.TempDir() + "/own.sock"
	for _, sig := range []syscall.Signal{unix.SIGTERM, unix.SIGINT} {
		p := workertest.Start(t, workertest.Setup{Role: "serve", Alone: true, Env: []string{"LISTEN=unix:" + path}})
		c := dialUntil(t, path)
		if got := c.Get(t, "/permit?mode=kill").Text; got != worker.ErrNoSupervisor.Error() {
			t.Errorf("permit alone: %q", got)
		}
		c.Close()
		p.Signal(sig)
		exits(t, p, "exit status 0")
		if _, err := os.Stat(path); err == nil {
			t.Error("own socket left behind")
		}
	}
}

func dialUntil(t *testing.T, path string) *workertest.Client {
	t.Helper()
	addr := &net.UnixAddr{Net: "unix", Name: path}
	workertest.Until(t, "worker listens", func() bool {
		c, err := workertest.DialError(addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return workertest.Dial(t, addr)
}

func TestAddressInUseIsAnError(t *testing.T) {
	ln := listen(t)
	p := workertest.Start(t, workertest.Setup{Role: "serve", Alone: true, Env: []string{"LISTEN=tcp://" + ln.Addr().String()}})
	exits(t, p, "exit status 1")
}

func TestWorkersLeaveTheSharedSocketAlone(t *testing.T) {
	path := t.TempDir() + "/shared.sock"
	for _, ln := range []net.Listener{listen(t), workertest.Listen(t, "unix", path)} {
		for i := range 6 {
			p := start(t, ln)
			c := workertest.Dial(t, ln.Addr())
			c.Get(t, "/")
			c.Close()
			if i%2 == 0 {
				p.Signal(unix.SIGKILL)
				exits(t, p, "signal: killed")
				continue
			}
			p.Signal(unix.SIGTERM)
			exits(t, p, "exit status 0")
		}
		f := workertest.Duplicate(t, ln)
		if flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
			t.Errorf("%s: file status flags %#x, %v, want O_NONBLOCK", ln.Addr(), flags, err)
		}
		f.Close()
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("a worker removed the instance's path: %v", err)
	}
}

func TestScoreboardOfTheKilledSaysWhatWasInFlight(t *testing.T) {
	ln := listen(t)
	p := start(t, ln)
	for range 2 {
		workertest.Dial(t, ln.Addr()).Send("GET", "/hold")
	}
	io.WriteString(workertest.Dial(t, ln.Addr()), "GET / HT") // a request as soon as its first byte is there
	workertest.Dial(t, ln.Addr())                             // unread
	for range 3 {
		workertest.Dial(t, ln.Addr()).Get(t, "/") // idle
	}
	up := workertest.Dial(t, ln.Addr())
	up.Send("GET", "/hijack")
	workertest.Until(t, "all counted", func() bool {
		s := p.Board.Snapshot()
		return s.Accepted == 8 && s.Active == 3 && s.Idle == 3 && s.Unread == 1 && s.Hijacked == 1 && s.Accepting == 0
	})
	p.Signal(unix.SIGKILL)
	exits(t, p, "signal: killed")
	if s := p.Board.Snapshot(); s.InFlight() != 4 || s.Idle != 3 || s.Requests[2] != 3 {
		t.Errorf("after the kill: %+v", s)
	}
}

func TestEveryRequestIsCountedInOneClass(t *testing.T) {
	ln := listen(t)
	p := start(t, ln)
	c := workertest.Dial(t, ln.Addr())
	for _, code := range []string{"200", "204", "302", "404", "500", "599"} {
		c.Get(t, "/status?code="+code)
	}
	workertest.Dial(t, ln.Addr()).Send("GET", "/panic")
	up := workertest.Dial(t, ln.Addr())
	up.Send("GET", "/hijack")
	up.Receive()
	up.Close()
	want := [6]uint64{1, 1, 2, 1, 1, 2}
	workertest.Until(t, fmt.Sprintf("requests by class %v", want), func() bool { return p.Board.Snapshot().Requests == want })
	c.Close()
	workertest.Until(t, "no connection counted", func() bool {
		s := p.Board.Snapshot()
		return s.Unread == 0 && s.Active == 0 && s.Idle == 0 && s.Hijacked == 0 && s.Accepted == 3
	})
	var timed uint64
	for _, n := range p.Board.Snapshot().Latency {
		timed += n
	}
	if timed != 8 {
		t.Errorf("%d latencies for 8 requests", timed)
	}
}

func TestWorkerServesWithoutAnAnswerToItsGreeting(t *testing.T) {
	for name, hello := range map[string]func(*workertest.Process, notify.Message){
		"closed, as systemd does": func(_ *workertest.Process, m notify.Message) { m.Close() },
		"never answered":          func(*workertest.Process, notify.Message) {},
		"without descriptors":     func(_ *workertest.Process, m notify.Message) { m.Answer(nil, "X_REVENANT_HELLO=1") },
		"not a scoreboard":        func(p *workertest.Process, m notify.Message) { m.Answer([]int{0, 1}, "X_REVENANT_HELLO=1") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ln := listen(t)
			p := workertest.Start(t, workertest.Setup{Role: "serve", Listeners: []net.Listener{ln}, Hello: hello}).AwaitReady()
			c := workertest.Dial(t, ln.Addr())
			c.Get(t, "/")
			c.Close()
			p.Signal(unix.SIGTERM)
			exits(t, p, "exit status 0")
		})
	}
}

func TestWorkerWhoseMasterAnswersLateStillEndsWithItsKeeper(t *testing.T) {
	ln := listen(t)
	asked := make(chan notify.Message, 1)
	p := workertest.Start(t, workertest.Setup{Role: "serve", Listeners: []net.Listener{ln}, Hello: func(_ *workertest.Process, m notify.Message) { asked <- m }}).AwaitReady()
	c := workertest.Dial(t, ln.Addr())
	c.Get(t, "/")
	c.Close()
	p.Greet(<-asked)
	p.Lifeline.Close()
	exits(t, p, "exit status 0")
}

func TestWorkerCountsOnAScoreboardWithoutALifeline(t *testing.T) {
	ln := listen(t)
	p := workertest.Start(t, workertest.Setup{Role: "serve", Listeners: []net.Listener{ln}, Hello: func(p *workertest.Process, m notify.Message) {
		m.Answer([]int{p.Board.FD()}, "X_REVENANT_HELLO=1")
	}}).AwaitReady()
	c := workertest.Dial(t, ln.Addr())
	c.Get(t, "/")
	c.Close()
	workertest.Until(t, "counted", func() bool { return p.Board.Snapshot().Requests[2] == 1 })
	p.Signal(unix.SIGTERM)
	exits(t, p, "exit status 0")
}

func TestPermitSaysWhatTheMasterSays(t *testing.T) {
	ln := listen(t)
	workertest.Start(t, workertest.Setup{Role: "serve", Listeners: []net.Listener{ln}, Chaos: func(mode string) string {
		if mode == "exit" {
			return "it is the last one"
		}
		return ""
	}}).AwaitReady()
	c := workertest.Dial(t, ln.Addr())
	if got := c.Get(t, "/permit?mode=kill").Text; got != "<nil>" {
		t.Errorf("granted permit: %q", got)
	}
	if got := c.Get(t, "/permit?mode=exit").Text; got != "refused: it is the last one" {
		t.Errorf("refused permit: %q", got)
	}
}

func TestSlowAndOversizedHeadersAreCutOff(t *testing.T) {
	ln := listen(t)
	start(t, ln, "HEADER=100ms")
	slow := workertest.Dial(t, ln.Addr())
	io.WriteString(slow, "GET / HTTP/1.1\r\nHost: te")
	if !slow.Ended(workertest.Patience) {
		t.Error("a header that never ends was waited for")
	}
	big := workertest.Dial(t, ln.Addr())
	var wg sync.WaitGroup
	wg.Go(func() { big.Send("GET", "/", "X-Big: "+string(make([]byte, 100<<10))) })
	if a, err := big.Receive(); err != nil || a.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("100 KiB of header: %v, %v, want 431", a.Response, err)
	}
	wg.Wait()
}
