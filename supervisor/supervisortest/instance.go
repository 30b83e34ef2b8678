// Package supervisortest is to revenant what httptest is to net/http: it builds
// the real binary and runs real instances for the tests of any package. Every
// instance it starts is gone when the test ends, or the test fails.
package supervisortest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor"
	"revenant/supervisor/control"
	"revenant/supervisor/event"
)

// Patience bounds every wait: far beyond what anything takes on a busy machine
// under the race detector.
const Patience = 30 * time.Second

// build is the command, built once per test process.
type build struct {
	once sync.Once
	path string
	err  error
}

var built, plain build

// Binary is the path of the built command, made once per test process, with the
// race detector when the test has it.
func Binary(tb testing.TB) string {
	tb.Helper()
	if raceEnabled {
		return built.make(tb, "-race")
	}
	return Plain(tb)
}

// Plain is the same without the race detector, for what is counted or measured.
func Plain(tb testing.TB) string {
	tb.Helper()
	return plain.make(tb)
}

func (b *build) make(tb testing.TB, flags ...string) string {
	tb.Helper()
	b.once.Do(func() {
		dir, err := os.MkdirTemp("", "revenant-test-")
		if err != nil {
			b.err = err
			return
		}
		b.path = filepath.Join(dir, "revenant")
		c := exec.Command("go", append(append([]string{"build", "-o", b.path}, flags...), "./cmd/revenant")...)
		c.Dir = Root()
		if out, err := c.CombinedOutput(); err != nil {
			b.err = fmt.Errorf("cannot build revenant: %w\n%s", err, out)
		}
	})
	if b.err != nil {
		tb.Fatal(b.err)
	}
	return b.path
}

// Clean removes what was built. Call it at the end of TestMain.
func Clean() {
	for _, path := range []string{built.path, plain.path} {
		if path != "" {
			_ = os.RemoveAll(filepath.Dir(path))
		}
	}
}

// Root is the module's folder.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

// Instance is a running `revenant run`.
type Instance struct {
	*control.Client
	Command *exec.Cmd
	Dir     string // its runtime directory
	Name    string

	tb     testing.TB
	log    *Log
	exited chan struct{}
}

// Start runs an instance on a free port of 127.0.0.1 (unless args say --listen)
// and waits until it is ready.
func Start(tb testing.TB, args ...string) *Instance {
	tb.Helper()
	i := Begin(tb, nil, args...)
	i.Await("ready", func(s supervisor.Status) bool { return s.State == "ready" })
	return i
}

// Begin runs an instance and does not wait. env is added to the environment.
func Begin(tb testing.TB, env []string, args ...string) *Instance {
	tb.Helper()
	return begin(tb, Binary(tb), env, args...)
}

// BeginProgram is Begin with another build of the command.
func BeginProgram(tb testing.TB, program string, env []string, args ...string) *Instance {
	tb.Helper()
	return begin(tb, program, env, args...)
}

// BeginPlain is Begin without the race detector in the instance.
func BeginPlain(tb testing.TB, env []string, args ...string) *Instance {
	tb.Helper()
	return begin(tb, Plain(tb), env, args...)
}

func begin(tb testing.TB, binary string, env []string, args ...string) *Instance {
	tb.Helper()
	dir, err := os.MkdirTemp("", "rev") // short: a unix socket's path is limited
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	i := &Instance{tb: tb, Dir: dir, Name: "t", log: &Log{}, exited: make(chan struct{})}
	all := []string{"run", "--runtime-dir", dir, "--name", i.Name}
	if !contains(args, "--listen") {
		all = append(all, "--listen", "tcp://127.0.0.1:0")
	}
	i.Command = exec.Command(binary, append(all, args...)...)
	i.Command.Env = environ(env)
	i.Command.Stdout, i.Command.Stderr = i.log, i.log
	i.Command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := i.Command.Start(); err != nil {
		tb.Fatal(err)
	}
	i.Client = control.Dial(filepath.Join(dir, i.Name, "control.sock"), func() bool { return !i.Exited() })
	// Ends with the process; the cleanup below waits for it.
	go func() { _ = i.Command.Wait(); close(i.exited) }()
	tb.Cleanup(i.end)
	return i
}

// environ is the test's environment with more. A program with the race detector
// sleeps a second before it ends unless it is told not to.
func environ(more []string) []string {
	return append(append(os.Environ(), "GORACE=atexit_sleep_ms=0"), more...)
}

func contains(args []string, flag string) bool {
	for _, a := range args {
		if a == flag || strings.HasPrefix(a, flag+"=") {
			return true
		}
	}
	return false
}

// end makes sure that nothing outlives the test.
func (i *Instance) end() {
	if !i.Exited() {
		_ = i.Command.Process.Signal(unix.SIGTERM)
		_ = i.Command.Process.Signal(unix.SIGTERM) // now
	}
	select {
	case <-i.exited:
	case <-time.After(Patience):
		_ = i.Command.Process.Kill()
		i.tb.Errorf("the instance does not end")
	}
	if i.tb.Failed() {
		i.tb.Logf("log of the instance:\n%s", i.log.String())
	}
}

// Exited tells whether the keeper has ended.
func (i *Instance) Exited() bool {
	select {
	case <-i.exited:
		return true
	default:
		return false
	}
}

// Wait returns the exit code once the keeper has ended.
func (i *Instance) Wait() int {
	i.tb.Helper()
	select {
	case <-i.exited:
		return i.Command.ProcessState.ExitCode()
	case <-time.After(Patience):
		i.tb.Fatalf("the instance does not end; log:\n%s", i.log.String())
		return -1
	}
}

// Log is what the instance wrote to stdout and stderr so far.
func (i *Instance) Log() string { return i.log.String() }

// Now is the status, which must be had.
func (i *Instance) Now() supervisor.Status {
	i.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	s, err := i.Status(ctx)
	if err != nil {
		i.tb.Fatalf("cannot get the status: %v; log:\n%s", err, i.log.String())
	}
	return s
}

// Await returns the first status that satisfies the condition, asking anew at
// each event and now and then.
func (i *Instance) Await(what string, good func(supervisor.Status) bool) supervisor.Status {
	i.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for {
		s, err := i.Status(ctx)
		switch {
		case err == nil && good(s):
			return s
		case i.Exited():
			i.tb.Fatalf("the instance ended before it was %s; log:\n%s", what, i.log.String())
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			i.tb.Fatalf("never %s: %+v (%v); log:\n%s", what, s, err, i.log.String())
		}
	}
}

// Address is host:port, or the path, of the first listener.
func (i *Instance) Address() string {
	i.tb.Helper()
	return strings.TrimPrefix(strings.TrimPrefix(i.Now().Listeners[0], "tcp://"), "unix:")
}

// URL is that of the first TCP listener.
func (i *Instance) URL() string { return "http://" + i.Address() }

// Follow hands events to the returned channel from the beginning of the current
// master until the test ends.
func (i *Instance) Follow() <-chan event.Event {
	events := make(chan event.Event, 4096)
	ctx, cancel := context.WithCancel(context.Background())
	i.tb.Cleanup(cancel)
	// Ends with the test or the master.
	go func() {
		defer close(events)
		_ = i.Events(ctx, 0, true, func(e event.Event) error {
			select {
			case events <- e:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	return events
}

// AwaitEvent reads events until one satisfies the condition.
func AwaitEvent(tb testing.TB, events <-chan event.Event, what string, good func(event.Event) bool) event.Event {
	tb.Helper()
	limit := time.After(Patience)
	for {
		select {
		case e, open := <-events:
			if !open {
				tb.Fatalf("the events ended before %s", what)
			}
			if good(e) {
				return e
			}
		case <-limit:
			tb.Fatalf("no event: %s", what)
		}
	}
}

// FreeAddress is a port of 127.0.0.1 that was free a moment ago.
func FreeAddress(tb testing.TB) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Log collects output and may be read at any time.
type Log struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Lines are the lines so far.
func (l *Log) Lines() []string {
	var lines []string
	for s := bufio.NewScanner(strings.NewReader(l.String())); s.Scan(); {
		lines = append(lines, s.Text())
	}
	return lines
}

// Run runs a command of the binary to its end and returns what it printed.
func Run(tb testing.TB, env []string, args ...string) (stdout, stderr string, code int) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	c := exec.CommandContext(ctx, Binary(tb), args...)
	c.Env = environ(env)
	var out, errs strings.Builder
	c.Stdout, c.Stderr = &out, &errs
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		tb.Fatalf("revenant %s: %v", strings.Join(args, " "), err)
	}
	return out.String(), errs.String(), c.ProcessState.ExitCode()
}
