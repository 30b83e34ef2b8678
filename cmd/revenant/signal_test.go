package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor"
	"revenant/supervisor/event"
	"revenant/supervisor/supervisortest"
)

// rawClient is a connection of which a test decides each byte.
type rawClient struct {
	net.Conn
	in *bufio.Reader
}

func dialRaw(t testing.TB, i *supervisortest.Instance) *rawClient {
	t.Helper()
	network := "tcp"
	if strings.HasPrefix(i.Address(), "/") {
		network = "unix"
	}
	return dialTo(t, network, i.Address())
}

func dialTo(t testing.TB, network, address string) *rawClient {
	t.Helper()
	c, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(supervisortest.Patience))
	return &rawClient{c, bufio.NewReader(c)}
}

func (c *rawClient) send(t testing.TB, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Errorf("cannot send: %v", err)
	}
}

// answer reads a whole answer with status 200 and returns whether it says that
// the connection closes.
func (c *rawClient) answer(t testing.TB) (closes bool) {
	t.Helper()
	r, err := http.ReadResponse(c.in, nil)
	if err != nil {
		t.Errorf("no answer: %v", err)
		return false
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK || !strings.HasPrefix(string(body), "Hello") {
		t.Errorf("answer %s, %q, %v", r.Status, body, err)
	}
	return r.Close
}

const (
	firstHalf  = "GET / HTTP/1.1\r\nHost: x\r\n"
	secondHalf = "\r\n"
	wholeGet   = firstHalf + secondHalf
)

// begunRequest is a request of which a worker has read a part.
func begunRequest(t testing.TB, i *supervisortest.Instance) *rawClient {
	t.Helper()
	before := inFlight(i.Now())
	c := dialRaw(t, i)
	c.send(t, firstHalf)
	i.Await("reading the request", func(s supervisor.Status) bool { return inFlight(s) > before })
	return c
}

func inFlight(s supervisor.Status) (n int64) {
	for _, w := range s.Workers {
		n += w.InFlight
	}
	return n
}

// sharedSocket is the listening socket, as /proc calls it: the one that all
// workers have open.
func sharedSocket(t testing.TB, s supervisor.Status) string {
	t.Helper()
	for _, target := range descriptors(s.Workers[0].PID) {
		if strings.HasPrefix(target, "socket:") && slices.Contains(slices.Collect(maps.Values(descriptors(s.Workers[1].PID))), target) {
			return target
		}
	}
	t.Fatal("the workers share no socket")
	return ""
}

// awaitDrain waits until no worker has the socket any longer: what is answered
// from now on is answered by a worker that drains.
func awaitDrain(t testing.TB, s supervisor.Status, socket string) {
	t.Helper()
	for _, w := range s.Workers {
		awaitTrue(t, "a worker gives up its listener", func() bool {
			return !slices.Contains(slices.Collect(maps.Values(descriptors(w.PID))), socket)
		})
	}
}

func TestStopSignalsAnswerWhatIsInFlightAndExitWith0(t *testing.T) {
	for _, s := range []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGQUIT} {
		t.Run(unix.SignalName(s), func(t *testing.T) {
			i := supervisortest.Start(t, "--workers", "2")
			events := i.Follow()
			c := begunRequest(t, i)
			status := i.Now()
			socket := sharedSocket(t, status)
			signalNow(t, i.Command.Process.Pid, s)
			awaitDrain(t, status, socket)
			if i.Exited() {
				t.Error("it did not wait for the request")
			}
			c.send(t, secondHalf)
			if !c.answer(t) {
				t.Error("the answer does not say that the connection closes")
			}
			if code := i.Wait(); code != exitOK {
				t.Errorf("exit code %d, want 0", code)
			}
			supervisortest.AwaitEvent(t, events, "the last worker's end is told to those who follow", func(e event.Event) bool {
				return e.Kind == event.WorkerExited && e.Cause == "requested" && e.Planned
			})
		})
	}
}

func TestSecondStopSignalEndsAtOnceWithItsCode(t *testing.T) {
	for _, s := range []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGQUIT} {
		t.Run(unix.SignalName(s), func(t *testing.T) {
			mark := t.Name()
			i := supervisortest.Begin(t, []string{marker + "=" + mark}, "--workers", "2", "--drain-timeout", "10m")
			i.Await("ready", isReady)
			events := i.Follow()
			begunRequest(t, i) // that never ends
			signalNow(t, i.Command.Process.Pid, unix.SIGTERM)
			supervisortest.AwaitEvent(t, events, "a worker drains", func(e event.Event) bool { return e.Kind == event.WorkerStopping })
			began := time.Now()
			signalNow(t, i.Command.Process.Pid, s)
			if code := i.Wait(); code != exitSignal+int(s) {
				t.Errorf("exit code %d, want %d", code, exitSignal+int(s))
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("at once took %v", took)
			}
			if left := marked(t, mark); len(left) > 0 {
				t.Errorf("processes are left: %v", left)
			}
		})
	}
}

func TestDrainThatTakesTooLongIsCutAndStillExitsWith0(t *testing.T) {
	i := supervisortest.Start(t, "--workers", "2", "--drain-timeout", "500ms")
	events := i.Follow()
	begunRequest(t, i) // that never ends
	signalNow(t, i.Command.Process.Pid, unix.SIGTERM)
	supervisortest.AwaitEvent(t, events, "the worker is cut", func(e event.Event) bool {
		return e.Kind == event.WorkerExited && e.Cause == "drain-timeout" && e.InFlight == 1
	})
	if code := i.Wait(); code != exitOK {
		t.Errorf("exit code %d, want 0", code)
	}
}

func TestSignalsChangeTheNumberOfWorkersAndOthersChangeNothing(t *testing.T) {
	i := supervisortest.Start(t, "--workers", "2")
	first := i.Now()
	events := i.Follow()
	keeper := i.Command.Process.Pid
	signalNow(t, keeper, unix.SIGTTIN)
	i.Await("three workers", func(s supervisor.Status) bool { return s.Desired == 3 && isReady(s) })
	c := begunRequest(t, i)
	for n := 2; n >= 1; n-- {
		signalNow(t, keeper, unix.SIGTTOU)
		i.Await("one worker less", func(s supervisor.Status) bool { return s.Desired == n && s.Ready == n })
	}
	signalNow(t, keeper, unix.SIGTTOU) // the last one stays
	supervisortest.AwaitEvent(t, events, "the refusal", func(e event.Event) bool { return e.Kind == event.Warning && strings.Contains(e.Message, "0 workers") })
	c.send(t, secondHalf)
	c.answer(t)
	for _, s := range []unix.Signal{unix.SIGUSR1} {
		signalNow(t, keeper, s)
		supervisortest.AwaitEvent(t, events, "the word about "+unix.SignalName(s), func(e event.Event) bool {
			return e.Kind == event.SignalIgnored && strings.Contains(e.Message, unix.SignalName(s))
		})
	}
	for _, s := range []unix.Signal{unix.SIGWINCH, unix.SIGPIPE, unix.SIGALRM, unix.SIGCONT, unix.SIGURG, unix.SIGIO} {
		signalNow(t, keeper, s)
	}
	signalNow(t, keeper, unix.SIGTTIN) // after the others: when it is heard, so were they
	s := i.Await("two workers", func(s supervisor.Status) bool { return s.Desired == 2 && s.Ready == 2 })
	if s.MasterPID != first.MasterPID || s.Workers[0].Worker != first.Workers[0].Worker {
		t.Errorf("a signal without a meaning changed something: %+v", s)
	}
}

// late asks how a connection ends that begins after the instance began to stop.
func late(network, address string) error {
	c, err := net.DialTimeout(network, address, supervisortest.Patience)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(supervisortest.Patience))
	if _, err := io.WriteString(c, wholeGet); err != nil {
		return err
	}
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err == nil {
		_ = r.Body.Close()
	}
	return err
}

func TestStopAnswersWhoeverIsConnectedAndRefusesTheLateWithoutAReset(t *testing.T) {
	path := filepath.Join(openDir(t), "app.sock")
	for network, listen := range map[string]string{"tcp": "tcp://127.0.0.1:0", "unix": "unix:" + path} {
		t.Run(network, func(t *testing.T) {
			i := supervisortest.Start(t, "--workers", "2", "--listen", listen)
			events := i.Follow()
			address := i.Address()
			reading := begunRequest(t, i)
			kept := dialRaw(t, i)
			kept.send(t, wholeGet)
			kept.answer(t)
			silent := dialRaw(t, i) // connected, nothing said yet
			s := i.Now()
			socket := sharedSocket(t, s)
			for _, w := range s.Workers {
				signalNow(t, w.PID, unix.SIGSTOP) // so that what comes now waits in the queue
			}
			var queued []*rawClient
			for range 20 {
				c := dialTo(t, network, address)
				c.send(t, wholeGet)
				queued = append(queued, c)
			}
			signalNow(t, i.Command.Process.Pid, unix.SIGTERM)
			supervisortest.AwaitEvent(t, events, "stopping", func(e event.Event) bool { return e.Kind == event.InstanceStopping })
			for _, w := range s.Workers {
				signalNow(t, w.PID, unix.SIGCONT)
			}
			for _, c := range queued {
				c.answer(t)
				_ = c.Close() // or the worker would keep it for its quiet period
			}
			lateErr := make(chan error, 1)
			go func() { lateErr <- late(network, address) }() // waited for below
			awaitDrain(t, s, socket)                          // from now on answers say that the connection closes
			for _, c := range []*rawClient{kept, silent} {
				c.send(t, wholeGet)
				c.answer(t)
			}
			reading.send(t, secondHalf)
			reading.answer(t)
			if code := i.Wait(); code != exitOK {
				t.Errorf("exit code %d", code)
			}
			// Answered, if it came in time; else refused. Never reset, never cut.
			if err := <-lateErr; err != nil && !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.ENOENT) {
				t.Errorf("a late client: %v", err)
			}
			if err := late(network, address); !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.ENOENT) {
				t.Errorf("a client after the end: %v, want a refusal", err)
			}
			if _, err := os.Lstat(path); network == "unix" && err == nil {
				t.Error("the path is left behind")
			}
		})
	}
}

func TestStopUnderLoadResetsNobody(t *testing.T) {
	i := supervisortest.Start(t, "--workers", "2")
	load := beginLoad(i, t, 6, 2, 0)
	i.Await("busy", func(s supervisor.Status) bool { return s.Requests > 200 })
	signalNow(t, i.Command.Process.Pid, unix.SIGTERM)
	if code := i.Wait(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	report := load.end()
	for _, f := range report.Failures {
		if f.Class.String() != "refused" {
			t.Errorf("a request failed otherwise than by a refusal: %v", f)
			break
		}
	}
}

func TestNothingIsLeftInTheRuntimeDirectory(t *testing.T) {
	i := supervisortest.Start(t, "--workers", "1")
	dir := filepath.Join(i.Dir, i.Name)
	for path, mode := range map[string]os.FileMode{dir: os.ModeDir | 0o700, controlSocket(dir): os.ModeSocket | 0o600} {
		if info, err := os.Lstat(path); err != nil || info.Mode() != mode {
			t.Errorf("%s has mode %v, %v; want %v", path, info.Mode(), err, mode)
		}
	}
	if _, errs, code := client(i, t, "stop"); code != exitOK {
		t.Errorf("stop exits with %d: %s", code, errs)
	}
	i.Wait()
	if left, _ := os.ReadDir(i.Dir); len(left) > 0 {
		t.Errorf("left in the runtime directory: %v", fmt.Sprint(left))
	}
}
