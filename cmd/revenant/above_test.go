package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor"
	"revenant/supervisor/control"
	"revenant/supervisor/notify"
	"revenant/supervisor/supervisortest"
)

// manager is a service manager, as the notification protocol shows it.
type manager struct {
	*notify.Server
	t        *testing.T
	messages chan notify.Message
}

func newManager(t *testing.T) *manager {
	t.Helper()
	server, err := notify.Listen(fmt.Sprintf("revenant-test-manager/%d/%s", os.Getpid(), t.Name()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	return &manager{server, t, make(chan notify.Message, 1<<12)}
}

// listen reads what is said, until the test ends.
func (m *manager) listen() {
	// Ends with the server.
	go func() {
		for {
			message, err := m.Receive()
			if err != nil {
				return
			}
			m.messages <- message
		}
	}()
}

func (m *manager) env() string { return "NOTIFY_SOCKET=" + m.Address() }

// hears waits for an assignment.
func (m *manager) hears(state string) notify.Message {
	m.t.Helper()
	limit := time.After(supervisortest.Patience)
	for {
		select {
		case message := <-m.messages:
			if message.Says(state) {
				return message
			}
		case <-limit:
			m.t.Fatalf("the level above never hears %s", state)
		}
	}
}

// silence waits until an assignment has not been heard for so long.
func (m *manager) silence(state string, d time.Duration) {
	m.t.Helper()
	limit := time.After(supervisortest.Patience)
	quiet := time.NewTimer(d)
	for {
		select {
		case message := <-m.messages:
			if message.Says(state) {
				quiet.Reset(d)
			}
		case <-quiet.C:
			return
		case <-limit:
			m.t.Fatalf("the level above goes on hearing %s", state)
		}
	}
}

func TestLevelAboveHearsOfTheInstanceFromOnePidThatStays(t *testing.T) {
	m := newManager(t)
	m.listen()
	i := supervisortest.Begin(t, []string{m.env()}, "--workers", "2")
	keeper := i.Command.Process.Pid
	check := func(message notify.Message) {
		t.Helper()
		if _, says := message.Value("MAINPID"); message.PID != keeper || says {
			t.Errorf("process %d says %q, want %d and no MAINPID", message.PID, message.State, keeper)
		}
	}
	first := m.hears(notify.Ready)
	if check(first); !first.Says("STATUS=2 of 2 workers ready") {
		t.Errorf("with READY=1 it says %q", first.State)
	}
	for _, change := range [][]string{{"reload"}, {"upgrade"}} {
		if out, errs, code := client(i, t, change...); code != 0 {
			t.Fatalf("%v exits with %d and says %s%s", change, code, out, errs)
		}
		message := m.hears(notify.Reloading)
		if at, _ := message.Value("MONOTONIC_USEC"); at == "" {
			t.Errorf("it reloads without a time: %q", message.State)
		}
		check(message)
		check(m.hears(notify.Ready))
	}
	killMaster(i, t, i.Now())
	i.Await("ready", isReady)
	signalNow(t, i.Now().Workers[0].PID, unix.SIGKILL)
	check(m.hears("STATUS=1 of 2 workers ready"))
	check(m.hears("STATUS=2 of 2 workers ready"))
	signalNow(t, keeper, unix.SIGTERM)
	last := m.hears(notify.Stopping)
	if limit, ok := last.ExtendTimeout(); !ok || limit < 25*time.Second {
		t.Errorf("it stops and asks for %v, want more than the drain timeout", limit)
	}
	check(last)
	if code := i.Wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestWatchdogAboveIsFedWhileTheMastersLoopRuns(t *testing.T) {
	m := newManager(t)
	m.listen()
	const interval = 500 * time.Millisecond
	i := supervisortest.Begin(t, []string{m.env(), fmt.Sprintf("WATCHDOG_USEC=%d", interval.Microseconds())}, "--workers", "1")
	m.hears(notify.Ready)
	m.hears(notify.WatchdogAlive)
	s := i.Await("ready", isReady)
	if env := environ(s.Workers[0].PID); env["WATCHDOG_USEC"] != "" {
		t.Errorf("the worker was told WATCHDOG_USEC=%s", env["WATCHDOG_USEC"])
	}
	signalNow(t, s.MasterPID, unix.SIGSTOP)
	t.Cleanup(func() { _ = unix.Kill(s.MasterPID, unix.SIGKILL) })
	m.silence(notify.WatchdogAlive, 3*interval)
	signalNow(t, s.MasterPID, unix.SIGKILL) // the next one is fed for while it starts
	m.hears(notify.WatchdogAlive)
	i.Await("ready", func(s supervisor.Status) bool { return isReady(s) && s.Generation == 2 })
	m.hears(notify.WatchdogAlive)
}

func TestLevelAboveThatDoesNotReadHoldsNobodyUp(t *testing.T) {
	m := newManager(t) // and does not listen
	deaf, err := notify.Dial(m.Address())
	if err != nil {
		t.Fatal(err)
	}
	for deaf.Within(time.Millisecond).Send("X_FULL=1") == nil {
	}
	i := supervisortest.Begin(t, []string{m.env(), "WATCHDOG_USEC=1000000"}, "--workers", "1")
	before := i.Await("ready", isReady)
	signalNow(t, before.Workers[0].PID, unix.SIGKILL)
	i.Await("healed", func(s supervisor.Status) bool { return isReady(s) && s.Workers[0].PID != before.Workers[0].PID })
	signalNow(t, i.Command.Process.Pid, unix.SIGTERM)
	if code := i.Wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// onLentSockets begins an instance on sockets that somebody else has made.
func onLentSockets(t *testing.T, dir string, sockets []*os.File, args ...string) (*exec.Cmd, *control.Client) {
	t.Helper()
	// The shell knows its own pid, which LISTEN_PID must be, and becomes the program.
	c := exec.Command("sh", append([]string{"-c", `LISTEN_PID=$$ exec "$0" "$@"`, supervisortest.Binary(t), "run", "--runtime-dir", dir, "--name", "t", "--workers", "2"}, args...)...)
	c.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", fmt.Sprintf("LISTEN_FDS=%d", len(sockets)), "LISTEN_FDNAMES=web.socket")
	c.ExtraFiles = sockets
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	return c, control.Dial(controlSocket(dir+"/t"), func() bool { return claimed(dir + "/t") })
}

func awaitStatus(t *testing.T, c *control.Client, good func(supervisor.Status) bool) (s supervisor.Status) {
	t.Helper()
	awaitTrue(t, "the state that is waited for", func() bool {
		var err error
		s, err = c.Status(t.Context())
		return err == nil && good(s)
	})
	return s
}

func TestInstanceServesOnSocketsOfTheLevelAboveAndLeavesThem(t *testing.T) {
	path := filepath.Join(openDir(t), "lent.sock")
	web, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer web.Close()
	local := holdPath(t, path)
	local.SetUnlinkOnClose(false)
	files := make([]*os.File, 2)
	if files[0], err = web.(*net.TCPListener).File(); err == nil {
		files[1], err = local.File()
	}
	if err != nil {
		t.Fatal(err)
	}
	get := func() string {
		answer, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get("http://" + web.Addr().String() + "/")
		if err != nil {
			return err.Error()
		}
		defer answer.Body.Close()
		text, _ := io.ReadAll(answer.Body)
		return string(text)
	}
	c, control := onLentSockets(t, openDir(t), files)
	s := awaitStatus(t, control, isReady)
	if want := []string{"tcp://" + web.Addr().String(), "unix:" + path}; fmt.Sprint(s.Listeners) != fmt.Sprint(want) {
		t.Errorf("it listens on %v, want %v", s.Listeners, want)
	}
	signalNow(t, s.MasterPID, unix.SIGKILL)
	awaitStatus(t, control, func(s supervisor.Status) bool { return isReady(s) && s.Generation == 2 && s.Orphans == 0 })
	if text := get(); !strings.HasPrefix(text, "Hello") {
		t.Errorf("the second master's workers answer %q", text)
	}
	signalNow(t, c.Process.Pid, unix.SIGTERM)
	if err := c.Wait(); err != nil {
		t.Errorf("the instance ends with %v", err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the path of a borrowed socket is gone: %v", err)
	}
	// A client that comes between two instances waits in the queue, for the second one.
	waiting := make(chan string)
	go func() { waiting <- get() }() // received below
	_, control = onLentSockets(t, openDir(t), files, "--listen", "tcp://"+web.Addr().String())
	s = awaitStatus(t, control, isReady)
	if len(s.Listeners) != 1 || s.Listeners[0] != "tcp://"+web.Addr().String() {
		t.Errorf("asked for one address it listens on %v", s.Listeners)
	}
	if text := <-waiting; !strings.HasPrefix(text, "Hello") {
		t.Errorf("who came between two instances gets %q", text)
	}
}

// The judge is systemd's own program for this.
func TestSystemdSocketActivateStartsAnInstance(t *testing.T) {
	judge, err := exec.LookPath("systemd-socket-activate")
	if err != nil {
		t.Skip("SKIPPED, NOT TESTED: systemd-socket-activate is not installed (apt-get install systemd)")
	}
	dir, address := openDir(t), supervisortest.FreeAddress(t)
	c := exec.Command(judge, "-l", address, "--fdname=web", "-E", "GORACE=atexit_sleep_ms=0", supervisortest.Binary(t), "run", "--runtime-dir", dir, "--name", "t", "--workers", "2")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	client := http.Client{Timeout: supervisortest.Patience}
	awaitTrue(t, "an answer", func() bool {
		answer, err := client.Get("http://" + address + "/") // the first connection starts it
		if err != nil {
			return false
		}
		_ = answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	})
	s := awaitStatus(t, control.Dial(controlSocket(dir+"/t"), func() bool { return true }), isReady)
	if s.KeeperPID != c.Process.Pid || len(s.Listeners) != 1 || s.Listeners[0] != "tcp://"+address {
		t.Errorf("keeper %d, listeners %v; want %d, %s", s.KeeperPID, s.Listeners, c.Process.Pid, address)
	}
	signalNow(t, c.Process.Pid, unix.SIGTERM)
	if err := c.Wait(); err != nil {
		t.Errorf("the instance ends with %v", err)
	}
}

func TestSocketFromAboveThatIsNotUsedIsNamed(t *testing.T) {
	judge, err := exec.LookPath("systemd-socket-activate")
	if err != nil {
		t.Skip("SKIPPED, NOT TESTED: systemd-socket-activate is not installed (apt-get install systemd)")
	}
	dir, address := openDir(t), supervisortest.FreeAddress(t)
	c := exec.Command(judge, "-l", address, "-E", "GORACE=atexit_sleep_ms=0", supervisortest.Binary(t), "run", "--runtime-dir", dir, "--name", "t", "--workers", "1", "--listen", "tcp://127.0.0.1:0")
	said := new(supervisortest.Log)
	c.Stderr = said
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	awaitTrue(t, "the warning, with the socket's address", func() bool {
		if conn, err := net.Dial("tcp", address); err == nil { // the first connection starts it
			_ = conn.Close()
		}
		return strings.Contains(said.String(), `"socket":"tcp://`+address+`"`)
	})
}

func TestUnitFilesAreGoodForSystemd(t *testing.T) {
	judge, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("SKIPPED, NOT TESTED: systemd-analyze is not installed (apt-get install systemd)")
	}
	dir := t.TempDir()
	var copies []string
	for _, name := range []string{"revenant.service", "revenant.socket"} {
		text, err := os.ReadFile(filepath.Join(supervisortest.Root(), "scripts", name))
		if err != nil {
			t.Fatal(err)
		}
		copies = append(copies, filepath.Join(dir, name))
		unit := strings.ReplaceAll(string(text), "/usr/local/bin/revenant", supervisortest.Binary(t)) // which must exist
		if err := os.WriteFile(copies[len(copies)-1], []byte(unit), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.Command(judge, append([]string{"verify", "--man=no"}, copies...)...).CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}
