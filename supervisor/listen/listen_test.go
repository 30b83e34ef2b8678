package listen

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const patience = 10 * time.Second

func mustParse(t testing.TB, value string) Address {
	t.Helper()
	address, err := Parse(value)
	if err != nil {
		t.Fatal(err)
	}
	return address
}

func mustBind(t testing.TB, value string) *Socket {
	t.Helper()
	s, err := Bind(t.Context(), mustParse(t, value))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Unlink()
		s.Close()
	})
	return s
}

// each runs the test on every kind of socket that an instance can have.
func each(t *testing.T, test func(t *testing.T, s *Socket)) {
	for _, value := range []string{"tcp://127.0.0.1:0", "tcp://[::1]:0", "tcp://:0", "unix:DIR/app.sock"} {
		t.Run(value, func(t *testing.T) {
			test(t, mustBind(t, strings.ReplaceAll(value, "DIR", t.TempDir())))
		})
	}
}

func dial(t testing.TB, s *Socket) net.Conn {
	t.Helper()
	conn, err := net.DialTimeout(s.Bound().Network(), s.Bound().Dial(), patience)
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { conn.Close() })
	return conn
}

// answerOne accepts one connection on the raw descriptor and says hello on it.
func answerOne(t testing.TB, s *Socket) {
	t.Helper()
	waitUntil(t, "a connection waits", s.Pending)
	fd, _, err := unix.Accept4(s.FD(), unix.SOCK_CLOEXEC)
	if err != nil {
		t.Fatalf("accept: %v", err)
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte("hello")); err != nil {
		t.Fatal(err)
	}
}

func waitUntil(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v in vain until %s", patience, what)
		}
	}
}

func flags(t testing.TB, s *Socket) (nonblock, cloexec bool) {
	t.Helper()
	status, err := unix.FcntlInt(uintptr(s.FD()), unix.F_GETFL, 0)
	if err != nil {
		t.Fatal(err)
	}
	descriptor, err := unix.FcntlInt(uintptr(s.FD()), unix.F_GETFD, 0)
	if err != nil {
		t.Fatal(err)
	}
	return status&unix.O_NONBLOCK != 0, descriptor&unix.FD_CLOEXEC != 0
}

func TestBindServesOnARawDescriptor(t *testing.T) {
	each(t, func(t *testing.T, s *Socket) {
		conn := dial(t, s)
		answerOne(t, s)
		if got, err := io.ReadAll(conn); string(got) != "hello" || err != nil {
			t.Errorf("client read %q, %v, want hello", got, err)
		}
		if nonblock, cloexec := flags(t, s); !nonblock || !cloexec {
			t.Errorf("O_NONBLOCK %v, CLOEXEC %v, want both", nonblock, cloexec)
		}
		if s.Name().Network() == "tcp" && (s.Bound().port == 0 || s.Name().port != 0) {
			t.Errorf("name %s, bound %s: want port 0 in the name and a real one in the other", s.Name(), s.Bound())
		}
		if s.Bound().host != s.Name().host {
			t.Errorf("bound host %q, want %q as configured", s.Bound().host, s.Name().host)
		}
	})
}

func TestBindIsPlainTCPAndShared(t *testing.T) {
	s := mustBind(t, "tcp://127.0.0.1:0")
	if protocol, err := unix.GetsockoptInt(s.FD(), unix.SOL_SOCKET, unix.SO_PROTOCOL); err != nil || protocol != unix.IPPROTO_TCP {
		t.Errorf("protocol %d, %v, want TCP (%d), not MPTCP", protocol, err, unix.IPPROTO_TCP)
	}
	if on, err := unix.GetsockoptInt(s.FD(), unix.SOL_SOCKET, unix.SO_REUSEPORT); err != nil || on != 0 {
		t.Errorf("SO_REUSEPORT %d, %v, want 0", on, err)
	}
	if on, err := unix.GetsockoptInt(s.FD(), unix.SOL_SOCKET, unix.SO_REUSEADDR); err != nil || on != 1 {
		t.Errorf("SO_REUSEADDR %d, %v, want 1", on, err)
	}
}

// A program that writes an answer in two pieces must not wait for the client's
// delayed acknowledgement in between, 40 ms on each request. Connections have the
// option from the socket that they came by.
func TestConnectionsOfABoundSocketSendAtOnce(t *testing.T) {
	for _, value := range []string{"tcp://127.0.0.1:0", "tcp://[::1]:0", "tcp://:0"} {
		s := mustBind(t, value)
		dial(t, s)
		waitUntil(t, "a connection waits", s.Pending)
		fd, _, err := unix.Accept4(s.FD(), unix.SOCK_CLOEXEC)
		if err != nil {
			t.Fatalf("accept: %v", err)
		}
		defer unix.Close(fd)
		if on, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY); err != nil || on == 0 {
			t.Errorf("TCP_NODELAY of a connection to %s = %d, %v, want it on", value, on, err)
		}
	}
}

func TestBindSaysWhoHoldsTheAddress(t *testing.T) {
	me, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	each(t, func(t *testing.T, s *Socket) {
		_, err := Bind(t.Context(), s.Bound())
		var failed *BindError
		if !errors.As(err, &failed) || !errors.Is(err, unix.EADDRINUSE) {
			t.Fatalf("Bind of %s a second time = %v, want a BindError of EADDRINUSE", s.Bound(), err)
		}
		want := fmt.Sprintf("%s: cannot bind: address already in use (held by %s, pid %d; choose another %s or stop it)",
			s.Bound(), strings.TrimSpace(string(me)), os.Getpid(), failed.what())
		if err.Error() != want {
			t.Errorf("error %q\nwant  %q", err, want)
		}
	})
}

func TestBindErrorsSayWhatToDo(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ value, want string }{
		{"tcp://192.0.2.1:3000", "tcp://192.0.2.1:3000: cannot bind: cannot assign requested address (this machine has no such address"},
		{"unix:/nowhere/app.sock", "unix:/nowhere/app.sock: cannot bind: no such file or directory (the directory /nowhere does not exist; create it)"},
		{"unix:" + file, "something else is there: the path is a file and no socket (choose another path or remove it)"},
		{"unix:" + filepath.Dir(file), "the path is a directory and no socket"},
	} {
		_, err := Bind(t.Context(), mustParse(t, test.value))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("Bind(%s) = %v, want %q", test.value, err, test.want)
		}
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("the file in the way: %v, want it untouched", err)
	}
}

func TestBindTakesOverAStalePathOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "app.sock")
	dead := mustBind(t, "unix:"+path)
	dead.Close()
	alive := mustBind(t, "unix:"+path)
	if err := dead.Unlink(); err != nil {
		t.Fatal(err)
	}
	dial(t, alive) // the dead one's Unlink has left its successor's path alone

	if _, err := Bind(t.Context(), alive.Name()); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("Bind over a live socket = %v, want EADDRINUSE", err)
	}
}

func TestBindOverAStalePathHasOneWinner(t *testing.T) {
	path := filepath.Join(t.TempDir(), "app.sock")
	mustBind(t, "unix:"+path).Close()
	const rivals = 20
	type result struct {
		s   *Socket
		err error
	}
	results := make(chan result, rivals)
	for range rivals {
		go func() {
			s, err := Bind(context.Background(), Address{network: "unix", path: path})
			results <- result{s, err}
		}()
	}
	winners := 0
	for range rivals {
		switch r := <-results; {
		case r.err == nil:
			winners++
			defer r.s.Close()
		case !errors.Is(r.err, unix.EADDRINUSE):
			t.Error(r.err)
		}
	}
	if winners != 1 {
		t.Errorf("%d of %d bound the path, want 1", winners, rivals)
	}
}

func TestUnixModeIsNeverWiderThanAskedFor(t *testing.T) {
	for _, mode := range []os.FileMode{0o600, 0o660, 0o666} {
		path := filepath.Join(t.TempDir(), "app.sock")
		mustBind(t, fmt.Sprintf("unix:%s?mode=%04o", path, mode))
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("mode %v, %v, want %v", info.Mode().Perm(), err, mode)
		}
	}
}

func TestUnlinkEndsAUnixSocket(t *testing.T) {
	s := mustBind(t, fmt.Sprintf("unix:%s/app.sock?mode=0600", t.TempDir()))
	for range 2 {
		if err := s.Unlink(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Lstat(s.Bound().Path()); !os.IsNotExist(err) {
		t.Errorf("Lstat = %v, want no such file", err)
	}
}

func TestAdoptKeepsNameAndQueue(t *testing.T) {
	each(t, func(t *testing.T, s *Socket) {
		conn := dial(t, s)
		fd, err := unix.Dup(s.FD())
		if err != nil {
			t.Fatal(err)
		}
		adopted, err := Adopt(fd, s.Name().String())
		if err != nil {
			t.Fatal(err)
		}
		defer adopted.Close()
		s.Close()
		if adopted.Name() != s.Name() || adopted.Bound() != s.Bound() {
			t.Errorf("adopted %s bound to %s, want %s and %s", adopted.Name(), adopted.Bound(), s.Name(), s.Bound())
		}
		if nonblock, cloexec := flags(t, adopted); !nonblock || !cloexec {
			t.Errorf("O_NONBLOCK %v, CLOEXEC %v, want both", nonblock, cloexec)
		}
		answerOne(t, adopted)
		if got, err := io.ReadAll(conn); string(got) != "hello" || err != nil {
			t.Errorf("client read %q, %v, want hello", got, err)
		}
	})
}

func TestAdoptNamesASocketItDoesNotKnowByItsAddress(t *testing.T) {
	s := mustBind(t, "tcp://127.0.0.1:0")
	fd, err := unix.Dup(s.FD())
	if err != nil {
		t.Fatal(err)
	}
	adopted, err := Adopt(fd, "http")
	if err != nil {
		t.Fatal(err)
	}
	defer adopted.Close()
	if adopted.Name() != s.Bound() {
		t.Errorf("name %s, want %s", adopted.Name(), s.Bound())
	}
}

func TestAdoptRefusesWhatDoesNotListen(t *testing.T) {
	pipe := [2]int{}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err := errors.Join(err, unix.Pipe2(pipe[:], unix.O_CLOEXEC)); err != nil {
		t.Fatal(err)
	}
	for _, fd := range []int{pipe[0], pipe[1], pair[0], pair[1]} {
		defer unix.Close(fd)
	}
	for name, fd := range map[string]int{"pipe": pipe[0], "connection": pair[0], "closed": 9999} {
		if _, err := Adopt(fd, "tcp://127.0.0.1:3000"); !errors.Is(err, ErrNotListening) {
			t.Errorf("Adopt(%s) = %v, want ErrNotListening", name, err)
		}
	}
}

func TestRepairUndoesWhatAWorkerDid(t *testing.T) {
	s := mustBind(t, "tcp://127.0.0.1:0")
	if found, err := s.Repair(); found != "" || err != nil {
		t.Errorf("Repair of a sound socket = %q, %v, want nothing", found, err)
	}
	for _, damage := range []struct {
		name string
		do   func() error
	}{
		{"O_NONBLOCK was cleared", func() error { return unix.SetNonblock(s.FD(), false) }},
		{"the socket was shut down", func() error { return unix.Shutdown(s.FD(), unix.SHUT_RDWR) }},
	} {
		if err := damage.do(); err != nil {
			t.Fatal(err)
		}
		if found, err := s.Repair(); found != damage.name || err != nil {
			t.Errorf("Repair = %q, %v, want %q", found, err, damage.name)
		}
		dial(t, s)
		answerOne(t, s)
	}
	u := mustBind(t, "unix:"+t.TempDir()+"/app.sock")
	if err := unix.Shutdown(u.FD(), unix.SHUT_RDWR); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Repair(); !errors.Is(err, ErrNotListening) {
		t.Errorf("Repair of a unix socket that was shut down = %v, want ErrNotListening", err)
	}
}

// A thousand children get the descriptor, as workers do. The description is
// shared: one flag cleared in any of them would block accept in all.
func TestSpawningNeverMakesTheSocketBlock(t *testing.T) {
	each(t, func(t *testing.T, s *Socket) {
		null, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		defer null.Close()
		for range 250 {
			pid, err := syscall.ForkExec("/bin/true", []string{"true"}, &syscall.ProcAttr{
				Files: []uintptr{null.Fd(), null.Fd(), null.Fd(), uintptr(s.FD())},
			})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := syscall.Wait4(pid, nil, 0, nil); err != nil {
				t.Fatal(err)
			}
		}
		if nonblock, _ := flags(t, s); !nonblock {
			t.Error("O_NONBLOCK was cleared, want it set after every spawn")
		}
		if fd, _, err := unix.Accept4(s.FD(), unix.SOCK_CLOEXEC); err != unix.EAGAIN {
			t.Errorf("accept on an empty queue = %d, %v, want EAGAIN", fd, err)
		}
	})
}

// The twin: the usual way to hand a listener to a child, its File, clears the
// flag for all, and the test above would see it.
func TestFileOfAListenerMakesTheSocketBlock(t *testing.T) {
	s := mustBind(t, "tcp://127.0.0.1:0")
	fd, err := unix.FcntlInt(uintptr(s.FD()), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		t.Fatal(err)
	}
	copied := os.NewFile(uintptr(fd), "listener")
	defer copied.Close()
	ln, err := net.FileListener(copied)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	file, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	file.Fd() // as os/exec asks for the number
	if nonblock, _ := flags(t, s); nonblock {
		t.Error("O_NONBLOCK is still set, want it cleared through the copy")
	}
}
