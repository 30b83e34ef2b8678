package supervisor

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"revenant/supervisor/notify"
)

// The test binary is also the workers of its tests, and a master in a process of
// its own. The first variable is the path of a file that says how to behave; the
// second, of one for the pids of what a worker started.
const (
	behaviourVariable = "SUPERVISOR_TEST_BEHAVIOUR"
	notesVariable     = "SUPERVISOR_TEST_NOTES"
	masterVariable    = "SUPERVISOR_TEST_MASTER"
)

func TestMain(m *testing.M) {
	if os.Getenv(masterVariable) != "" {
		os.Exit(superviseAway())
	}
	if path := os.Getenv(behaviourVariable); path != "" {
		how, err := os.ReadFile(path)
		if err != nil {
			os.Exit(9)
		}
		os.Exit(behave(string(how)))
	}
	os.Exit(m.Run())
}

// behave is the main function of a worker of these tests.
func behave(how string) int {
	if app, ok := apps[how]; ok {
		return serveApp(app)
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2)
	master, err := notify.FromEnv()
	if err != nil {
		return 9
	}
	switch how {
	case "crash":
		return 3
	case "leave":
		return 0
	case "silent":
		<-time.After(time.Hour)
	case "slow":
		<-time.After(300 * time.Millisecond)
	case "deaf":
		_ = master.Send(notify.Ready)
		for range signals {
		}
	case "with helper":
		helper("sleep", "600")
	case "daemonise":
		daemon := exec.Command("sleep", "2")
		daemon.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		_ = daemon.Start()
		return 0
	case "ready by helper":
		how := os.Getenv(behaviourVariable) + ".helper"
		_ = os.WriteFile(how, []byte("serve"), 0o600)
		_ = os.Setenv(behaviourVariable, how)
		helper("/proc/self/exe")
		return serveUntil(signals, nil)
	case "print", "print and go on", "flood":
		return printing(how, signals, master)
	case "eat memory":
		_ = os.WriteFile(os.Getenv(behaviourVariable), []byte("serve"), 0o600)
		_ = master.Send(notify.Ready)
		for {
			meal := make([]byte, 4<<20)
			for i := range meal {
				meal[i] = 1
			}
			eaten = append(eaten, meal)
		}
	}
	_ = master.Send(notify.Ready)
	return serveUntil(signals, master)
}

var eaten [][]byte

// helper starts a process in the worker's group and notes its pid.
func helper(name string, args ...string) {
	c := exec.Command(name, args...)
	if c.Start() == nil {
		_ = os.WriteFile(os.Getenv(notesVariable), fmt.Appendln(nil, c.Process.Pid), 0o600)
	}
}

func serveUntil(signals <-chan os.Signal, master *notify.Client) int {
	switch <-signals {
	case unix.SIGUSR1:
		signal.Reset(unix.SIGABRT)
		_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
		abort()
	case unix.SIGUSR2:
		return 7
	}
	_ = master.Send(notify.Stopping)
	return 0
}

// superviseAway is the main function of a master in a process of its own. It
// begins with the first line of its input, stops at the end of it, and prints
// its events.
func superviseAway() int {
	in := bufio.NewReader(os.Stdin)
	if _, err := in.ReadString('\n'); err != nil {
		return 9
	}
	server, err := notify.Listen(fmt.Sprintf("revenant-test/away/%d", os.Getpid()))
	if err != nil {
		return 9
	}
	m, err := New(Config{
		Generation: 1, Lifeline: -1, Notify: server.Address(),
		Settings: Settings{
			Workers: 2, Policy: Policy{DrainTimeout: 5 * time.Second},
			Program: testProgram("", os.Getenv(behaviourVariable), os.Getenv(notesVariable)),
		},
	}, nil, server, nil)
	if err != nil {
		return 9
	}
	_, live := m.Events().Subscribe(0, 1<<14)
	ctx, stop := context.WithCancel(context.Background())
	go func() { _, _ = io.Copy(io.Discard, in); stop() }() // ends with the input
	printed := make(chan struct{})
	go func() { // ends when live is closed; waited for below
		defer close(printed)
		out := json.NewEncoder(os.Stdout)
		for e := range live.Events() {
			_ = out.Encode(e)
		}
	}()
	err = m.Run(ctx, nil)
	live.Close()
	<-printed
	if err != nil {
		return 1
	}
	return 0
}

func awayCommand(t *testing.T, a *awayMaster) (*exec.Cmd, io.WriteCloser, io.ReadCloser) {
	t.Helper()
	c := exec.Command("/proc/self/exe")
	c.Env = append(os.Environ(), masterVariable+"=1", "GORACE=atexit_sleep_ms=0", behaviourVariable+"="+a.behaviour, notesVariable+"="+a.notes)
	c.Stderr = os.Stderr
	stdin, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	return c, stdin, stdout
}

// abort ends the process by SIGABRT itself, without Go's traceback.
func abort() {
	var action [4]uintptr // SIG_DFL
	_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(unix.SIGABRT), uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0)
	_ = unix.Kill(os.Getpid(), unix.SIGABRT)
	select {}
}
