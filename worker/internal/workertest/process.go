// Package workertest runs the test binary itself as a worker, under a supervisor just large enough for one.
package workertest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor/notify"
	"revenant/worker/scoreboard"
)

// Patience is how long a test waits for what must happen.
const Patience = 20 * time.Second

const roleVariable = "WORKERTEST_ROLE"

// Main is for TestMain: in a process started by Start it plays the role, else it runs the tests.
func Main(m *testing.M, roles map[string]func()) {
	play, ok := roles[os.Getenv(roleVariable)]
	if !ok {
		os.Exit(m.Run())
	}
	os.Unsetenv(roleVariable)
	if os.Getenv(notify.PIDVariable) == "" {
		os.Setenv(notify.PIDVariable, strconv.Itoa(os.Getpid()))
	}
	play()
	os.Exit(0)
}

// Setup is how a worker is started.
type Setup struct {
	Role      string
	Listeners []net.Listener // shared with the worker; none of them is touched
	Alone     bool           // no supervisor at all
	Env       []string
	// Hello and Chaos answer the worker's questions. By default the first gets its scoreboard and lifeline
	// and the second is granted.
	Hello func(p *Process, m notify.Message)
	Chaos func(mode string) (refusal string)
}

// Process is a running worker.
type Process struct {
	Board    *scoreboard.Board
	Lifeline *os.File      // the keeper's end
	Ready    chan struct{} // closed at READY=1
	Stopping chan struct{} // closed at STOPPING=1
	Exited   chan struct{} // closed when State is set
	State    *os.ProcessState
	Stderr   string

	t        testing.TB
	cmd      *exec.Cmd
	setup    Setup
	server   *notify.Server
	reader   *os.File // the worker's end of the lifeline
	ready    sync.Once
	stopping sync.Once
}

var workers = struct {
	sync.Mutex
	last uint64
}{}

// Start starts a worker. The test's cleanup kills it.
func Start(t testing.TB, setup Setup) *Process {
	t.Helper()
	p := &Process{t: t, setup: setup, Ready: make(chan struct{}), Stopping: make(chan struct{}), Exited: make(chan struct{})}
	exe, err := os.Executable()
	must(t, err)
	log, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	must(t, err)
	p.cmd = exec.Command(exe)
	p.cmd.Stderr = log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	// The race detector would hold up every end of a process for a second.
	p.cmd.Env = append(notify.Clean(os.Environ()), roleVariable+"="+setup.Role, "GORACE=atexit_sleep_ms=0")
	if !setup.Alone {
		p.supervise()
	}
	p.cmd.Env = append(p.cmd.Env, setup.Env...)
	must(t, p.cmd.Start())
	if p.server != nil {
		// Ends when end closes the server.
		go p.listen()
	}
	for _, f := range p.cmd.ExtraFiles {
		f.Close()
	}
	// Ends with the process; cleanup waits for Exited.
	go func() {
		p.cmd.Wait()
		text, _ := os.ReadFile(log.Name())
		log.Close()
		p.Stderr, p.State = string(text), p.cmd.ProcessState
		close(p.Exited)
	}()
	t.Cleanup(p.end)
	return p
}

// supervise prepares what a master would: the board, the lifeline, the socket, the environment.
func (p *Process) supervise() {
	workers.Lock()
	workers.last++
	id := scoreboard.Identity{Worker: workers.last, Slot: 1, Generation: 1}
	workers.Unlock()
	var err error
	p.Board, err = scoreboard.Create(id)
	must(p.t, err)
	p.reader, p.Lifeline, err = os.Pipe()
	must(p.t, err)
	p.server, err = notify.Listen(fmt.Sprintf("workertest-%d-%d", os.Getpid(), id.Worker))
	must(p.t, err)
	for _, ln := range p.setup.Listeners {
		p.cmd.ExtraFiles = append(p.cmd.ExtraFiles, Duplicate(p.t, ln))
	}
	p.cmd.Env = append(p.cmd.Env,
		notify.SocketVariable+"="+p.server.Address(),
		notify.FDsVariable+"="+strconv.Itoa(len(p.setup.Listeners)),
		notify.WorkerInstanceVariable+"=0198b2f4-0000-7000-8000-000000000001",
		notify.WorkerVariable+"="+strconv.FormatUint(id.Worker, 10),
		notify.WorkerSlotVariable+"=1",
		notify.WorkerGenerationVariable+"=1",
	)
}

func (p *Process) listen() {
	for {
		m, err := p.server.Receive()
		if err != nil {
			return
		}
		if m.PID != p.cmd.Process.Pid {
			m.Close()
			continue
		}
		mode, chaos := m.Value("X_REVENANT_CHAOS")
		switch {
		case m.Says(notify.Ready):
			p.ready.Do(func() { close(p.Ready) })
		case m.Says(notify.Stopping):
			p.stopping.Do(func() { close(p.Stopping) })
		case m.Says("X_REVENANT_HELLO=1") && p.setup.Hello != nil:
			p.setup.Hello(p, m)
		case m.Says("X_REVENANT_HELLO=1"):
			p.Greet(m)
		case chaos:
			p.rule(m, mode)
		}
	}
}

// Greet answers a worker's hello as a master does.
func (p *Process) Greet(m notify.Message) { p.greet(m, nil) }

// GreetWithDoor does it with a private connection, and returns the master's end, which the test's cleanup
// closes.
func (p *Process) GreetWithDoor(m notify.Message) *Client {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		p.t.Error(err)
		return nil
	}
	defer unix.Close(pair[1])
	p.greet(m, pair[1:], "X_REVENANT_DOOR=1")
	f := os.NewFile(uintptr(pair[0]), "door")
	defer f.Close()
	nc, err := net.FileConn(f)
	if err != nil {
		p.t.Error(err)
		return nil
	}
	p.t.Cleanup(func() { nc.Close() })
	return Over(nc)
}

func (p *Process) greet(m notify.Message, more []int, said ...string) {
	raw, err := p.reader.SyscallConn()
	if err == nil {
		raw.Control(func(fd uintptr) {
			m.Answer(append([]int{p.Board.FD(), int(fd)}, more...), append(said, "X_REVENANT_HELLO=1")...)
		})
	}
}

func (p *Process) rule(m notify.Message, mode string) {
	if p.setup.Chaos != nil {
		if refusal := p.setup.Chaos(mode); refusal != "" {
			m.Answer(nil, "X_REVENANT_CHAOS=refused", "X_REVENANT_REASON="+refusal)
			return
		}
	}
	m.Answer(nil, "X_REVENANT_CHAOS=granted")
}

func (p *Process) end() {
	syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.Exited
	if p.server != nil {
		p.server.Close()
		p.reader.Close()
		p.Lifeline.Close()
		p.Board.Close()
	}
	if p.t.Failed() && p.Stderr != "" {
		p.t.Logf("worker %d said: %s", p.cmd.Process.Pid, p.Stderr)
	}
}

// PID is the worker's.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Signal sends one to the worker.
func (p *Process) Signal(sig syscall.Signal) { p.cmd.Process.Signal(sig) }

// AwaitReady waits for READY=1.
func (p *Process) AwaitReady() *Process {
	p.t.Helper()
	p.await(p.Ready, "READY=1")
	return p
}

// AwaitStopping waits for STOPPING=1.
func (p *Process) AwaitStopping() {
	p.t.Helper()
	p.await(p.Stopping, "STOPPING=1")
}

func (p *Process) await(said <-chan struct{}, what string) {
	p.t.Helper()
	select {
	case <-said:
	case <-p.Exited:
		select {
		case <-said: // it was still on its way
		case <-time.After(time.Second):
			p.t.Fatalf("worker ended (%v) without %s: %s", p.State, what, p.Stderr)
		}
	case <-time.After(Patience):
		p.t.Fatalf("no %s within %v", what, Patience)
	}
}

// AwaitExit waits for the end and returns it in words: "exit status 0", "signal: killed".
func (p *Process) AwaitExit() string {
	p.t.Helper()
	select {
	case <-p.Exited:
	case <-time.After(Patience):
		p.t.Fatalf("worker still runs after %v", Patience)
	}
	return p.State.String()
}

// Listen opens a socket to share.
func Listen(t testing.TB, network, address string) net.Listener {
	t.Helper()
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	ln, err := config.Listen(t.Context(), network, address)
	must(t, err)
	t.Cleanup(func() { ln.Close() })
	return ln
}

// Duplicate copies a listener's descriptor without a detour over its File, which would clear O_NONBLOCK.
func Duplicate(t testing.TB, ln net.Listener) *os.File {
	t.Helper()
	raw, err := ln.(syscall.Conn).SyscallConn()
	must(t, err)
	fd := -1
	raw.Control(func(s uintptr) { fd, err = unix.FcntlInt(s, unix.F_DUPFD_CLOEXEC, 10) })
	must(t, err)
	return os.NewFile(uintptr(fd), "listener")
}

// Until waits for a state that no event tells of.
func Until(t testing.TB, what string, reached func() bool) {
	t.Helper()
	deadline := time.Now().Add(Patience)
	for !reached() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", Patience, what)
		}
		time.Sleep(time.Millisecond)
	}
}

// Client is one raw connection: nothing is ever sent twice, or again elsewhere.
type Client struct {
	net.Conn
	r *bufio.Reader
}

// Dial connects.
func Dial(t testing.TB, addr net.Addr) *Client {
	t.Helper()
	c, err := DialError(addr)
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// DialError connects, or says why not.
func DialError(addr net.Addr) (*Client, error) {
	nc, err := net.DialTimeout(addr.Network(), addr.String(), Patience)
	if err != nil {
		return nil, err
	}
	return Over(nc), nil
}

// Over speaks on a connection that exists.
func Over(nc net.Conn) *Client {
	nc.SetDeadline(time.Now().Add(Patience))
	return &Client{Conn: nc, r: bufio.NewReader(nc)}
}

// Send writes a request in one piece and does not wait.
func (c *Client) Send(method, path string, headers ...string) error {
	text := method + " " + path + " HTTP/1.1\r\nHost: test\r\n"
	for _, h := range headers {
		text += h + "\r\n"
	}
	_, err := io.WriteString(c, text+"\r\n")
	return err
}

// Answer is one whole answer.
type Answer struct {
	*http.Response
	Text string
}

// Receive reads one whole answer.
func (c *Client) Receive() (Answer, error) {
	res, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return Answer{}, err
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return Answer{}, fmt.Errorf("cannot read the body: %w", err)
	}
	return Answer{Response: res, Text: string(body)}, nil
}

// Begun waits for the first byte of an answer.
func (c *Client) Begun(t testing.TB) {
	t.Helper()
	_, err := c.r.Peek(1)
	must(t, err)
}

// Do sends one request and reads its answer.
func (c *Client) Do(method, path string, headers ...string) (Answer, error) {
	return Answer{}.or(c.Send(method, path, headers...), c.Receive)
}

func (a Answer) or(sent error, receive func() (Answer, error)) (Answer, error) {
	got, err := receive()
	if err != nil {
		return Answer{}, errors.Join(sent, err)
	}
	return got, nil
}

// Get must succeed.
func (c *Client) Get(t testing.TB, path string, headers ...string) Answer {
	t.Helper()
	a, err := c.Do("GET", path, headers...)
	must(t, err)
	return a
}

// Ended tells whether the other side has closed the connection, waiting for that until the deadline.
func (c *Client) Ended(within time.Duration) bool {
	c.SetReadDeadline(time.Now().Add(within))
	_, err := c.r.ReadByte()
	c.SetReadDeadline(time.Now().Add(Patience))
	return err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
