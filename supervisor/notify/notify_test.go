package notify

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"reflect"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

var serial atomic.Int64

// TestMain lets the test binary also be a child that sends or inherits.
func TestMain(m *testing.M) {
	switch os.Getenv("NOTIFY_TEST_CHILD") {
	case "":
		os.Exit(m.Run())
	case "send":
		c, err := FromEnv()
		if err == nil {
			err = c.Send("X_CHILD=" + strconv.Itoa(os.Getpid()))
		}
		exit(err)
	case "inherit":
		if os.Getenv("NOTIFY_TEST_RIGHT_PID") != "" {
			os.Setenv(PIDVariable, strconv.Itoa(os.Getpid()))
		}
		for _, f := range Inherited(os.Getenv) {
			flags, err := unix.FcntlInt(uintptr(f.FD), unix.F_GETFD, 0)
			fmt.Printf("%s %d cloexec=%v %v\n", f.Name, f.FD, flags&unix.FD_CLOEXEC != 0, err)
		}
	}
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func pair(t *testing.T) (*Server, *Client) {
	t.Helper()
	s, err := Listen(fmt.Sprintf("revenant-notify-test-%d-%d", os.Getpid(), serial.Add(1)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	c, err := Dial(s.Address())
	if err != nil {
		t.Fatal(err)
	}
	return s, c
}

func receiveOne(t *testing.T, s *Server) Message {
	t.Helper()
	got := make(chan Message, 1)
	failed := make(chan error, 1)
	// Ends with the server, which the test closes.
	go func() {
		m, err := s.Receive()
		if err != nil {
			failed <- err
			return
		}
		got <- m
	}()
	select {
	case m := <-got:
		return m
	case err := <-failed:
		t.Fatalf("Receive: %v", err)
	case <-time.After(10 * time.Second):
		t.Fatal("no message within 10 s")
	}
	return Message{}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestMessageArrivesWithItsSender(t *testing.T) {
	s, c := pair(t)
	if err := c.Send(Ready, "STATUS=all = well", Ready); err != nil {
		t.Fatal(err)
	}
	m := receiveOne(t, s)
	if want := []string{Ready, "STATUS=all = well", Ready}; !reflect.DeepEqual(m.State, want) {
		t.Errorf("State = %q, want %q", m.State, want)
	}
	if m.PID != os.Getpid() || m.UID != uint32(os.Getuid()) {
		t.Errorf("sender = %d/%d, want %d/%d", m.PID, m.UID, os.Getpid(), os.Getuid())
	}
	if v, ok := m.Value("STATUS"); !ok || v != "all = well" {
		t.Errorf("Value(STATUS) = %q, %v", v, ok)
	}
	if _, ok := m.Value("STAT"); ok || m.Says(Stopping) || !m.Says(Ready) {
		t.Errorf("message %q is misread", m.State)
	}
}

func TestSenderIsTheProcessThatSent(t *testing.T) {
	s, _ := pair(t)
	child := exec.Command("/proc/self/exe")
	child.Env = []string{"NOTIFY_TEST_CHILD=send", "GORACE=atexit_sleep_ms=0", "NOTIFY_SOCKET=" + s.Address()}
	if out, err := child.CombinedOutput(); err != nil {
		t.Fatalf("child: %v: %s", err, out)
	}
	m := receiveOne(t, s)
	if m.PID != child.Process.Pid || !m.Says("X_CHILD="+strconv.Itoa(m.PID)) {
		t.Errorf("message of %d says %q, want %d", m.PID, m.State, child.Process.Pid)
	}
}

func TestSystemdClientIsUnderstood(t *testing.T) {
	s, _ := pair(t)
	t.Setenv("NOTIFY_SOCKET", s.Address())
	for _, state := range []string{daemon.SdNotifyReady, daemon.SdNotifyStopping, "STATUS=a\nMAINPID=7"} {
		if sent, err := daemon.SdNotify(false, state); !sent || err != nil {
			t.Fatalf("SdNotify(%q) = %v, %v", state, sent, err)
		}
		m := receiveOne(t, s)
		if strings.Join(m.State, "\n") != state || m.PID != os.Getpid() {
			t.Errorf("received %q of %d, want %q", m.State, m.PID, state)
		}
	}
}

func TestDescriptorsArriveAndNoneIsLeftOver(t *testing.T) {
	s, c := pair(t)
	before := openFiles(t)
	for range 50 {
		var p [2]int
		if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		if err := c.SendFiles([]int{p[0], p[1]}, StoreFD, FDName("tcp://[::1]:80")); err != nil {
			t.Fatal(err)
		}
		unix.Close(p[0])
		unix.Close(p[1])
		m := receiveOne(t, s)
		if name, _ := m.Value("FDNAME"); UnescapeName(name) != "tcp://[::1]:80" || len(m.Files) != 2 {
			t.Fatalf("received %q with %d files", m.State, len(m.Files))
		}
		if _, err := m.Files[1].WriteString("x"); err != nil {
			t.Fatal(err)
		}
		if n, err := m.Files[0].Read(make([]byte, 8)); n != 1 || err != nil {
			t.Fatalf("read %d bytes through the descriptors: %v", n, err)
		}
		raw, _ := m.Files[0].SyscallConn()
		raw.Control(func(fd uintptr) {
			if flags, _ := unix.FcntlInt(fd, unix.F_GETFD, 0); flags&unix.FD_CLOEXEC == 0 {
				t.Error("a received descriptor would leak into children")
			}
		})
		m.Close()
	}
	if after := openFiles(t); after != before {
		t.Errorf("%d descriptors open, %d before", after, before)
	}
}

// sendRaw sends what no Client would.
func sendRaw(t *testing.T, s *Server, text []byte, fds ...int) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Sendmsg(fd, text, rights(fds), &unix.SockaddrUnix{Name: s.Address()}, 0); err != nil {
		t.Fatal(err)
	}
}

func TestMessageCutShortIsDroppedWithItsDescriptors(t *testing.T) {
	s, c := pair(t)
	before := openFiles(t)
	long := []byte(Ready + "\nSTATUS=" + strings.Repeat("x", maxMessage))
	for range 20 {
		sendRaw(t, s, long, 0, 1, 2)
		sendRaw(t, s, nil, 0)
		if err := c.Send("STATUS=next"); err != nil {
			t.Fatal(err)
		}
		if m := receiveOne(t, s); !m.Says("STATUS=next") {
			t.Fatalf("received %.40q, want the message after the long one", m.State)
		}
	}
	if after := openFiles(t); after != before {
		t.Errorf("%d descriptors open, %d before", after, before)
	}
}

func TestMessageIsDroppedWholeWhenDescriptorsRunOut(t *testing.T) {
	s, c := pair(t)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	before := openFiles(t)
	if err := c.SendFiles([]int{0, 1, 2}, StoreFD); err != nil {
		t.Fatal(err)
	}
	spare, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(spare)
	// The lowest free number is the last one allowed: room for one of the three.
	low := limit
	low.Cur = uint64(spare + 1)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	m, ok, err := s.TryReceive()
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if ok || err != nil {
		t.Errorf("TryReceive = %q with %d files, %v, %v; want nothing", m.State, len(m.Files), ok, err)
	}
	if after := openFiles(t); after != before {
		t.Errorf("%d descriptors open, %d before", after, before)
	}
}

func TestTryReceiveReadsWhatWasSentWhileAnotherWaits(t *testing.T) {
	s, c := pair(t)
	if _, ok, err := s.TryReceive(); ok || err != nil {
		t.Fatalf("TryReceive on an empty socket = %v, %v", ok, err)
	}
	waits := make(chan error)
	// Ends when the server is closed.
	go func() {
		for {
			err := s.Wait()
			waits <- err
			if err != nil {
				return
			}
		}
	}()
	for i := range 100 {
		if err := c.Send("X_N=" + strconv.Itoa(i)); err != nil {
			t.Fatal(err)
		}
		if i%3 == 0 {
			if err := <-waits; err != nil {
				t.Fatal(err)
			}
		}
		if m, ok, err := s.TryReceive(); !ok || err != nil || !m.Says("X_N="+strconv.Itoa(i)) {
			t.Fatalf("TryReceive = %q, %v, %v, want message %d", m.State, ok, err, i)
		}
	}
	s.Close()
	for err := range waits {
		if errors.Is(err, net.ErrClosed) {
			return
		}
	}
}

func TestReceiveEndsWithClose(t *testing.T) {
	s, _ := pair(t)
	failed := make(chan error, 1)
	// Ends with Close.
	go func() { _, err := s.Receive(); failed <- err }()
	s.Close()
	if err := <-failed; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Receive = %v, want net.ErrClosed", err)
	}
	if _, _, err := s.TryReceive(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("TryReceive = %v, want net.ErrClosed", err)
	}
}

func TestWaitingServersHoldNoThread(t *testing.T) {
	threads := func() int {
		entries, err := os.ReadDir("/proc/self/task")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	before := threads()
	done := make(chan struct{})
	var servers []*Server
	for range 64 {
		s, _ := pair(t)
		servers = append(servers, s)
		// Ends with Close.
		go func() { s.Receive(); done <- struct{}{} }()
	}
	// Each has answered a message, so each has waited.
	for _, s := range servers {
		c, _ := Dial(s.Address())
		if err := c.Send(Ready); err != nil {
			t.Fatal(err)
		}
		<-done
	}
	if after := threads(); after > before+16 {
		t.Errorf("%d threads with 64 readers, %d before", after, before)
	}
}

func TestSendGivesUpAfterASecondWhenNobodyReads(t *testing.T) {
	_, c := pair(t)
	start := time.Now()
	var err error
	for err == nil && time.Since(start) < 8*time.Second {
		start = time.Now()
		err = c.Send("STATUS=unread")
	}
	if took := time.Since(start); !errors.Is(err, unix.EAGAIN) || took < 900*time.Millisecond || took > 3*time.Second {
		t.Errorf("send to a full socket took %v: %v, want EAGAIN after 1 s", took, err)
	}
}

func TestSendToNobodyFailsAtOnce(t *testing.T) {
	s, c := pair(t)
	s.Close()
	if err := c.Send(Ready); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("Send = %v, want ECONNREFUSED", err)
	}
}

func TestSendRefusesWhatWouldBeReadOtherwise(t *testing.T) {
	_, c := pair(t)
	for _, state := range [][]string{nil, {"STATUS=a\nREADY=1"}, {"READY"}, {"STATUS=" + strings.Repeat("x", maxMessage)}} {
		if err := c.Send(state...); err == nil {
			t.Errorf("Send(%.30q) was sent", state)
		}
	}
}

func TestQuestionIsAnsweredWithDescriptors(t *testing.T) {
	s, c := pair(t)
	before := openFiles(t)
	answered := make(chan struct{})
	// Ends with the one answer.
	go func() {
		defer close(answered)
		if m, err := s.Receive(); err == nil && m.Says("X_REVENANT_HELLO=1") {
			m.Answer([]int{0, 1}, "X_REVENANT_HELLO=1", "X_MORE=2")
		}
	}()
	m, err := c.Ask(context.Background(), "X_REVENANT_HELLO=1")
	if err != nil {
		t.Fatal(err)
	}
	if !m.Says("X_MORE=2") || len(m.Files) != 2 {
		t.Errorf("answer %q with %d files", m.State, len(m.Files))
	}
	m.Close()
	<-answered
	if after := openFiles(t); after != before {
		t.Errorf("%d descriptors open, %d before", after, before)
	}
}

// The kernel may report the end of the stream although an answer came just before it. A reader that
// believes it the first time loses about one answer in 4,000 here.
func TestAnswerIsNotLostInTheCloseThatFollows(t *testing.T) {
	answered := make(chan int)
	defer close(answered)
	// Ends with the test.
	go func() {
		for fd := range answered {
			unix.Write(fd, []byte("X_YES=1"))
			unix.Close(fd)
		}
	}()
	for round := range 10_000 {
		p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		answered <- p[1]
		for {
			m, ok, err := receiveAnswer(p[0])
			if err == unix.EAGAIN {
				continue
			}
			if !ok || err != nil || !m.Says("X_YES=1") {
				t.Errorf("round %d: %q, %v, %v", round, m.State, ok, err)
			}
			break
		}
		unix.Close(p[0])
	}
}

func TestQuestionToAPlainSupervisorIsRefusedAtOnce(t *testing.T) {
	s, c := pair(t)
	// Ends with the one message.
	go func() {
		if m, err := s.Receive(); err == nil {
			m.Close()
		}
	}()
	if _, err := c.Ask(context.Background(), "X_REVENANT_HELLO=1"); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("Ask = %v, want ErrNoAnswer", err)
	}
}

func TestQuestionEndsWithItsContext(t *testing.T) {
	s, c := pair(t)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Ask(ctx, "X_REVENANT_HELLO=1"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Ask = %v, want the context's error", err)
	}
	m := receiveOne(t, s)
	if err := m.Answer(nil, "X_LATE=1"); err == nil {
		t.Error("an answer to nobody succeeded")
	}
}

func TestAnswerNeedsAPlaceToGo(t *testing.T) {
	if err := (Message{}).Answer(nil, Ready); err == nil {
		t.Error("answered a message without a descriptor")
	}
	s, c := pair(t)
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if err := c.SendFiles([]int{int(null.Fd())}, "X_REVENANT_HELLO=1"); err != nil {
		t.Fatal(err)
	}
	if err := receiveOne(t, s).Answer(nil, Ready); !errors.Is(err, unix.ENOTSOCK) {
		t.Errorf("Answer on /dev/null = %v, want ENOTSOCK", err)
	}
}

func TestNilClientHasNoSupervisor(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	c, err := FromEnv()
	if c != nil || err != nil {
		t.Fatalf("FromEnv = %v, %v", c, err)
	}
	if err := errors.Join(c.Send(Ready), c.SendFiles([]int{0}, Ready)); err != nil {
		t.Error(err)
	}
	if _, err := c.Ask(context.Background(), Ready); !errors.Is(err, ErrNoSupervisor) {
		t.Errorf("Ask = %v, want ErrNoSupervisor", err)
	}
	for _, bad := range []string{"@", "x", "vsock:2:1", "/" + strings.Repeat("x", 107)} {
		if _, err := Dial(bad); err == nil {
			t.Errorf("Dial(%.20q) succeeded", bad)
		}
	}
}

func TestCleanKeepsTheOperatorsVariables(t *testing.T) {
	kept := []string{"PATH=/bin", "LISTEN_ADDR=:80", "REVENANT_LISTEN=unix:/s", "FDSTORES=1", "EMPTY=", "WATCHDOG_URL=x"}
	dropped := []string{
		"NOTIFY_SOCKET=@x", "LISTEN_FDS=1", "LISTEN_FDNAMES=a", "LISTEN_PID=1", "LISTEN_PIDFDID=1", "WATCHDOG_USEC=1", "WATCHDOG_PID=1",
		"FDSTORE=3", "MAINPID=1", "REVENANT_WORKER=1", "REVENANT_SLOT=0", "REVENANT_INSTANCE=u", "REVENANT_GENERATION=1",
		"X_REVENANT_ROLE=worker", "TABLEFLIP_HAS_PARENT_7DIU3=yes",
	}
	if got := Clean(append(append([]string{}, dropped...), kept...)); !reflect.DeepEqual(got, kept) {
		t.Errorf("Clean = %q, want %q", got, kept)
	}
}

func TestNamesSurviveEscaping(t *testing.T) {
	for _, name := range []string{"tcp://127.0.0.1:3000", "unix:/a b%3A", "\n\x00:é%", "plain", "%", "%4", "%zz"} {
		escaped := EscapeName(name)
		if !ValidName(escaped) || UnescapeName(escaped) != name {
			t.Errorf("EscapeName(%q) = %q, which comes back as %q", name, escaped, UnescapeName(escaped))
		}
	}
	for _, name := range []string{"", "a:b", "a\n", strings.Repeat("x", 256)} {
		if ValidName(name) {
			t.Errorf("ValidName(%.20q)", name)
		}
	}
	for plain, want := range map[string]string{"%": "%", "a%4": "a%4", "%zz": "%zz", "%3A": ":", "%+1": "%+1"} {
		if got := UnescapeName(plain); got != want {
			t.Errorf("UnescapeName(%q) = %q, want %q", plain, got, want)
		}
	}
}

func TestInheritedDescriptorsAreThoseMeantForThisProcess(t *testing.T) {
	run := func(count, names string, extra ...string) string {
		t.Helper()
		null, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		defer null.Close()
		child := exec.Command("/proc/self/exe")
		child.ExtraFiles = []*os.File{null, null}
		child.Env = append([]string{"NOTIFY_TEST_CHILD=inherit", "GORACE=atexit_sleep_ms=0", "LISTEN_FDS=" + count, "LISTEN_FDNAMES=" + names}, extra...)
		child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		out, err := child.CombinedOutput()
		if err != nil {
			t.Fatalf("child: %v: %s", err, out)
		}
		return string(out)
	}
	const right = "NOTIFY_TEST_RIGHT_PID=1"
	both := "tcp:80 3 cloexec=true <nil>\nunknown 4 cloexec=true <nil>\n"
	for _, c := range []struct{ name, got, want string }{
		{"right pid", run("2", "tcp%3A80", right), both},
		{"absent pid", run("2", "a:b"), ""},
		{"wrong pid", run("2", "a:b", "LISTEN_PID=1"), ""},
		{"negative", run("-1", "a", right), ""},
		{"no number", run("x", "a", right), ""},
		{"more than there are", run("1000000", "a:b", right)[:len("a 3 cloexec=true <nil>\n")], "a 3 cloexec=true <nil>\n"},
	} {
		if c.got != c.want {
			t.Errorf("%s: inherited %q, want %q", c.name, c.got, c.want)
		}
	}
}
