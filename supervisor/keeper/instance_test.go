package keeper

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"revenant/supervisor/notify"
)

// patience is how long a test waits for anything.
const patience = 90 * time.Second

var serial atomic.Int64

// instance is a keeper in a process of its own, and what its test saw of it.
type instance struct {
	t       testing.TB
	server  *notify.Server
	command *exec.Cmd
	arrived chan event
	seen    []event // arrived, and not yet asked for
	ended   chan struct{}
}

// event is a message of a fake (its text), or a line of the keeper's log (its facts).
type event struct {
	message notify.Message
	log     map[string]any
}

// inBothPlaces runs a test on a keeper that is the first process of a PID namespace, and on one
// that is a process like others.
func inBothPlaces(t *testing.T, test func(t *testing.T, place string)) {
	for _, place := range []string{"first process", "subreaper"} {
		t.Run(place, func(t *testing.T) { test(t, place) })
	}
}

// begin starts a keeper. Settings are more variables for it and its masters.
func begin(t testing.TB, place string, settings ...string) *instance {
	t.Helper()
	return prepare(t, place, settings...).run()
}

// prepare makes an instance that is yet to be run.
func prepare(t testing.TB, place string, settings ...string) *instance {
	t.Helper()
	name := fmt.Sprintf("keeper-test-%d-%d", os.Getpid(), serial.Add(1))
	server, err := notify.Listen(name)
	if err != nil {
		t.Fatal(err)
	}
	i := &instance{t: t, server: server, arrived: make(chan event, 1<<16), ended: make(chan struct{})}
	i.command = exec.Command("/proc/self/exe")
	i.command.Env = append([]string{"GORACE=atexit_sleep_ms=0", "PATH=" + os.Getenv("PATH"), "KEEPER_TEST_ROLE=keeper", "KEEPER_TEST_INSTANCE=" + name,
		"KEEPER_TEST_REPORT=" + server.Address(), "KEEPER_TEST_DRAIN=20s"}, settings...)
	if n := slices.Index(i.command.Env, "NOTIFY_SOCKET=above"); n >= 0 {
		i.command.Env[n] = "NOTIFY_SOCKET=" + server.Address()
	}
	i.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if place == "first process" {
		i.command.SysProcAttr.Cloneflags = unix.CLONE_NEWPID | unix.CLONE_NEWNS
	}
	return i
}

func (i *instance) run() *instance {
	t, server := i.t, i.server
	t.Helper()
	stderr, err := i.command.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := i.command.Start(); err != nil {
		server.Close()
		if i.command.SysProcAttr.Cloneflags != 0 {
			t.Skipf("SKIPPED: no PID namespace can be made here: %v", err)
		}
		t.Fatal(err)
	}
	read, last := make(chan struct{}), make(chan struct{})
	// Ends with the last process that holds the keeper's stderr, all of which the test ends.
	go func() {
		defer close(read)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			facts := map[string]any{}
			numbers := json.NewDecoder(strings.NewReader(lines.Text()))
			numbers.UseNumber()
			if err := numbers.Decode(&facts); err != nil {
				facts["msg"] = "not a log line: " + lines.Text()
			}
			i.arrived <- event{log: facts}
		}
	}()
	// Ends with the server.
	go func() {
		for {
			m, err := server.Receive()
			if err != nil {
				return
			}
			if m.Says("X_LAST=1") {
				close(last)
				continue
			}
			i.arrived <- event{message: m}
		}
	}()
	// Ends with the keeper, and with all that was said by those who held its stderr.
	go func() {
		<-read
		i.command.Wait()
		if c, err := notify.Dial(server.Address()); err == nil && c.Send("X_LAST=1") == nil {
			<-last
		}
		close(i.ended)
	}()
	t.Cleanup(func() {
		i.command.Process.Kill()
		i.await("end of the keeper's log and its own", func(event) bool { return false })
		server.Close()
		if t.Failed() {
			for _, e := range i.seen {
				t.Log(e)
			}
		}
	})
	return i
}

// await returns the first event not yet asked for that fits, waiting for it if need be; when the
// keeper ends without it, the zero event.
func (i *instance) await(what string, fits func(event) bool) event {
	i.t.Helper()
	for n, e := range i.seen {
		if fits(e) {
			i.seen = append(i.seen[:n:n], i.seen[n+1:]...)
			return e
		}
	}
	deadline := time.After(patience)
	for {
		select {
		case e := <-i.arrived:
			if fits(e) {
				return e
			}
			i.seen = append(i.seen, e)
			continue
		default:
		}
		select {
		case e := <-i.arrived:
			if fits(e) {
				return e
			}
			i.seen = append(i.seen, e)
		case <-i.ended:
			if len(i.arrived) == 0 {
				return event{}
			}
		case <-deadline:
			i.t.Fatalf("no %s within %v", what, patience)
		}
	}
}

// said waits for a message that holds all these assignments.
func (i *instance) said(assignments ...string) notify.Message {
	i.t.Helper()
	e := i.await(strings.Join(assignments, " "), func(e event) bool {
		for _, a := range assignments {
			if !e.message.Says(a) {
				return false
			}
		}
		return true
	})
	if e.message.State == nil {
		i.t.Fatalf("the keeper ended before %q was said", assignments)
	}
	return e.message
}

// logged waits for a line of the log with these facts (key, value, …), values as text.
func (i *instance) logged(message string, facts ...string) map[string]any {
	i.t.Helper()
	e := i.await(fmt.Sprintf("log line %q %q", message, facts), func(e event) bool {
		if e.log == nil || e.log["msg"] != message {
			return false
		}
		for n := 0; n < len(facts); n += 2 {
			if fmt.Sprint(e.log[facts[n]]) != facts[n+1] {
				return false
			}
		}
		return true
	})
	if e.log == nil {
		i.t.Fatalf("the keeper ended before it logged %q %q", message, facts)
	}
	return e.log
}

// duration waits for a line of the log and reads a duration in it.
func (i *instance) duration(message, fact string) time.Duration {
	i.t.Helper()
	text := fmt.Sprint(i.logged(message)[fact])
	d, err := time.ParseDuration(text)
	if err != nil {
		i.t.Fatalf("%s: %s is %q, not a duration to read", message, fact, text)
	}
	return d
}

// happened counts the events so far that fit.
func (i *instance) happened(fits func(event) bool) (count int) {
	for len(i.arrived) > 0 {
		i.seen = append(i.seen, <-i.arrived)
	}
	for _, e := range i.seen {
		if fits(e) {
			count++
		}
	}
	return count
}

func isLog(message string) func(event) bool {
	return func(e event) bool { return e.log != nil && e.log["msg"] == message }
}

func isSaid(assignments ...string) func(event) bool {
	return func(e event) bool {
		for _, a := range assignments {
			if !e.message.Says(a) {
				return false
			}
		}
		return true
	}
}

// actor is a master that waits for an order.
type actor struct {
	i          *instance
	pid        int // as the test sees it
	generation string
	question   notify.Message
}

// master waits for the master of that generation to ask for its first order.
func (i *instance) master(generation int) *actor {
	i.t.Helper()
	g := strconv.Itoa(generation)
	m := i.said("X_MASTER="+g, "X_RESULT=")
	return &actor{i: i, pid: m.PID, generation: g, question: m}
}

// order gives an order that ends the master or that takes long: nothing is awaited.
func (a *actor) order(order string) {
	a.i.t.Helper()
	if err := a.question.Answer(nil, "X_DO="+order); err != nil {
		a.i.t.Fatal(err)
	}
}

// does gives an order and returns its result.
func (a *actor) does(order string) string {
	a.i.t.Helper()
	a.order(order)
	e := a.i.await("result of "+order, func(e event) bool {
		_, ok := e.message.Value("X_RESULT")
		return ok && e.message.PID == a.pid
	})
	if e.message.State == nil {
		a.i.t.Fatalf("the keeper ended before the master had done %q", order)
	}
	a.question = e.message
	result, _ := e.message.Value("X_RESULT")
	if strings.HasPrefix(result, "error:") {
		a.i.t.Fatalf("order %q: %s", order, result)
	}
	return result
}

func (a *actor) kill() { unix.Kill(a.pid, unix.SIGKILL) }

// worker starts a worker and returns its pid as the test sees it, when it is up.
func (a *actor) worker(id, manner string) int {
	a.i.t.Helper()
	a.does("worker " + id + " " + manner)
	return a.i.said("X_WORKER="+id, "X_UP=1").PID
}

func (i *instance) signal(s syscall.Signal) {
	i.t.Helper()
	if err := i.command.Process.Signal(s); err != nil {
		i.t.Fatal(err)
	}
}

// ends waits for the keeper's end and wants its exit code.
func (i *instance) ends(code int) {
	i.t.Helper()
	select {
	case <-i.ended:
	case <-time.After(patience):
		i.t.Fatalf("the keeper did not end within %v", patience)
	}
	if got := i.command.ProcessState.ExitCode(); got != code {
		i.t.Errorf("exit code = %d (%v), want %d", got, i.command.ProcessState, code)
	}
}

func alive(pid int) bool { return unix.Kill(pid, 0) == nil }

// children counts the keeper's living and dead children, as the test sees them.
func (i *instance) children() (count int) {
	for _, task := range numbered(fmt.Sprintf("/proc/%d/task", i.command.Process.Pid)) {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", i.command.Process.Pid, task))
		count += len(strings.Fields(string(text)))
	}
	return count
}

// eventually waits for what no event tells of.
func (i *instance) eventually(what string, holds func() bool) {
	i.t.Helper()
	for deadline := time.Now().Add(patience); !holds(); {
		if time.Now().After(deadline) {
			i.t.Fatalf("not within %v: %s", patience, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
