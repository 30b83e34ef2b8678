package tree

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// patience bounds every wait.
const patience = 30 * time.Second

// roleVariable makes the test binary a process to look at.
const roleVariable = "TREE_TEST_ROLE"

// The main goroutine of a role stays on the first thread.
func init() {
	if os.Getenv(roleVariable) != "" {
		runtime.LockOSThread()
	}
}

func TestMain(m *testing.M) {
	switch role := os.Getenv(roleVariable); role {
	case "":
	case "confined":
		pid, _ := strconv.Atoi(os.Args[1])
		inode, _ := strconv.ParseUint(os.Args[2], 10, 64)
		actConfined(pid, inode)
		return
	default:
		act(role)
		return
	}
	os.Exit(m.Run())
}

// act says that it is there and then waits in the way that role names, on
// descriptor 3, which is a listener, until its input ends.
func act(role string) {
	// Ends with the process.
	go func() {
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
		os.Exit(0)
	}()
	os.Stdout.WriteString("here\n")
	switch role {
	case "epoll":
		l, err := net.FileListener(os.NewFile(3, "listener"))
		if err == nil {
			_, err = l.Accept()
		}
		panic(err)
	case "poll":
		_, _ = unix.Poll([]unix.PollFd{{Fd: 0, Events: unix.POLLERR}, {Fd: 3, Events: unix.POLLIN}}, -1)
	case "select":
		var set unix.FdSet
		set.Set(3)
		_, _ = unix.Select(4, &set, nil, nil, nil)
	case "accept":
		_ = unix.SetNonblock(3, false)
		_, _, _ = unix.Accept(3)
	case "poll-other":
		_, _ = unix.Poll([]unix.PollFd{{Fd: 0, Events: unix.POLLERR}}, -1)
	case "busy": // with the listener in an epoll instance, as in an event loop
		_ = unix.EpollCtl(must(unix.EpollCreate1(0)), unix.EPOLL_CTL_ADD, 3, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: 3})
		for {
		}
	case "locked", "locked-a-while":
		word, limit := uint32(1), &unix.Timespec{Sec: 60}
		if role == "locked" {
			limit = nil
		}
		_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&word)), 0x80, 1, uintptr(unsafe.Pointer(limit)), 0, 0)
	case "idle", "parent":
		if role == "parent" {
			_, _ = syscall.ForkExec("/proc/self/exe", []string{"child"}, &syscall.ProcAttr{
				Env: []string{roleVariable + "=poll", "GORACE=atexit_sleep_ms=0"}, Files: []uintptr{0, 1, 2, 3}})
		}
		select {}
	}
}

func must(fd int, err error) int {
	if err != nil {
		panic(err)
	}
	return fd
}

// listener is a socket and its inode.
func listener(t *testing.T) (*os.File, uint64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f, err := l.(*net.TCPListener).File()
	_ = l.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	var stat unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &stat); err != nil {
		t.Fatal(err)
	}
	return f, stat.Ino
}

// start starts a process in a role, which ends with the test.
func start(t *testing.T, role string, socket *os.File) (pid int) {
	t.Helper()
	c := exec.Command("/proc/self/exe")
	c.Env = append(os.Environ(), roleVariable+"="+role, "GORACE=atexit_sleep_ms=0")
	c.ExtraFiles = []*os.File{socket}
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = c.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "here\n" {
		t.Fatalf("it says %q, %v", line, err)
	}
	return c.Process.Pid
}

func await(t *testing.T, what string, good func() bool) {
	t.Helper()
	for limit := time.Now().Add(patience); !good(); time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("never: %s", what)
		}
	}
}

func TestProcessThatWaitsForConnectionsIsSeen(t *testing.T) {
	for _, role := range []string{"epoll", "poll", "select", "accept", "parent"} {
		t.Run(role, func(t *testing.T) {
			socket, inode := listener(t)
			pid := start(t, role, socket)
			await(t, "it waits", func() bool {
				waits, err := Waits(pid, []uint64{1, inode})
				if err != nil {
					t.Fatal(err)
				}
				return waits
			})
			if waits, _ := Waits(pid, []uint64{1}); waits {
				t.Error("it waits for another socket's connections")
			}
		})
	}
}

// The twin: to hold a listener is not to wait on it.
func TestProcessThatOnlyHoldsTheListenerDoesNotWait(t *testing.T) {
	for _, role := range []string{"idle", "poll-other"} {
		t.Run(role, func(t *testing.T) {
			socket, inode := listener(t)
			pid := start(t, role, socket)
			await(t, "it sleeps", func() bool { return StatOf(pid).State == 'S' })
			if holds, err := Holds(pid, []uint64{inode}); !holds || err != nil {
				t.Errorf("holds the listener: %t, %v", holds, err)
			}
			if waits, err := Waits(pid, []uint64{inode}); waits || err != nil {
				t.Errorf("waits: %t, %v", waits, err)
			}
		})
	}
}

func TestWhatIsGoneSaysNothing(t *testing.T) {
	c := exec.Command("true")
	if err := c.Run(); err != nil {
		t.Fatal(err)
	}
	pid := c.Process.Pid
	if waits, err := Waits(pid, []uint64{1}); waits || err != nil {
		t.Errorf("waits: %t, %v", waits, err)
	}
	if s := StatOf(pid); s != (Stat{}) {
		t.Errorf("%+v", s)
	}
}

func TestStoppedProcessIsSeenAndItsFamilyListed(t *testing.T) {
	socket, _ := listener(t)
	pid := start(t, "idle", socket)
	if !slices.Contains(Of(os.Getpid()), pid) || !slices.Contains(Children(os.Getpid()), pid) || Parent(pid) != os.Getpid() {
		t.Errorf("%d is not among %v", pid, Of(os.Getpid()))
	}
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	await(t, "it is stopped", func() bool { return StatOf(pid).State == 'T' })
	_ = unix.Kill(pid, unix.SIGCONT)
	if env := Environ(pid); env[roleVariable] != "idle" {
		t.Errorf("environment %v", env)
	}
	if began := StatOf(pid).Began; began < StatOf(os.Getpid()).Began || began == 0 {
		t.Errorf("it began at %d", began)
	}
}

func TestProgramThatIsStoppedBehindAShellIsSeenAndDoesNotWait(t *testing.T) {
	socket, inode := listener(t)
	c := exec.Command("sh", "-c", os.Args[0]+"; true")
	c.Env = append(os.Environ(), roleVariable+"=poll", "GORACE=atexit_sleep_ms=0")
	c.ExtraFiles = []*os.File{socket}
	in, err := c.StdinPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close(); _ = c.Wait() })
	waits := func() bool { now, err := Waiting(c.Process.Pid, []uint64{inode}); return now && err == nil }
	await(t, "it waits for connections", waits)
	family := Of(c.Process.Pid)
	if len(family) != 2 || Stopped(family) {
		t.Fatalf("shell and program are %v, stopped %t", family, Stopped(family))
	}
	_ = unix.Kill(family[1], unix.SIGSTOP)
	await(t, "it is stopped", func() bool { return Stopped(family) && !waits() })
	_ = unix.Kill(family[1], unix.SIGCONT)
	await(t, "it goes on", func() bool { return !Stopped(family) && waits() })
	// The twin: somebody else goes on.
	if _ = unix.Kill(family[1], unix.SIGSTOP); Stopped(append(family, os.Getpid())) {
		t.Error("not all are stopped")
	}
	_ = unix.Kill(family[1], unix.SIGCONT)
}

func TestEpollOfAKernelThatTellsNoInodeIsRead(t *testing.T) {
	line := "tfd:        5 events:     2019 data:                5\n"
	if !polled(line, map[int]bool{5: true}, []uint64{7}) || polled(line, map[int]bool{6: true}, []uint64{7}) {
		t.Error("by the descriptor")
	}
	line = strings.TrimSuffix(line, "\n") + "  pos:0 ino:7 sdev:8\n"
	if !polled(line, nil, []uint64{7}) || polled(line, map[int]bool{5: true}, []uint64{8}) {
		t.Error("by the inode")
	}
	if polled("tfd: 5 events: 4 data: 5 pos:0 ino:7 sdev:8\n", map[int]bool{5: true}, []uint64{7}) {
		t.Error("who waits to write does not accept")
	}
}

func TestThreadThatSleepsForConnectionsIsToldFromOneThatOnlyCould(t *testing.T) {
	socket, inode := listener(t)
	for _, role := range []string{"epoll", "poll", "select", "accept", "parent"} {
		pid := start(t, role, socket)
		await(t, role+" sleeps there", func() bool { now, err := Waiting(pid, []uint64{inode}); return now && err == nil })
	}
	pid := start(t, "busy", socket)
	await(t, "it could take one", func() bool { waits, _ := Waits(pid, []uint64{inode}); return waits })
	await(t, "it does not", func() bool { now, err := Waiting(pid, []uint64{inode}); return !now && err == nil })
}

func TestThreadThatSpinsNeverSleepsAndOneThatWaitsForASiblingIsDeadlocked(t *testing.T) {
	socket, _ := listener(t)
	pid := start(t, "busy", socket)
	before := threadsOf(t, pid)[0]
	await(t, "it used CPU without a pause", func() bool {
		now := threadsOf(t, pid)[0]
		if now.Sleeps != before.Sleeps { // it was still on its way there
			before = now
		}
		return now.CPU > before.CPU+10 && !now.Deadlocked
	})
	for role, deadlocked := range map[string]bool{"locked": true, "locked-a-while": false, "poll": false} {
		pid := start(t, role, socket)
		await(t, role, func() bool { return StatOf(pid).State == 'S' && threadsOf(t, pid)[0].Deadlocked == deadlocked })
	}
}

func threadsOf(t *testing.T, pid int) []Thread {
	t.Helper()
	threads, err := Threads(pid)
	if err != nil || len(threads) == 0 {
		t.Fatalf("threads %v, %v", threads, err)
	}
	return threads
}

func TestSocketsOfAProcessAreListed(t *testing.T) {
	socket, inode := listener(t)
	found, err := Sockets(start(t, "idle", socket))
	if err != nil || !slices.Contains(found, inode) {
		t.Errorf("%d is not among %v, %v", inode, found, err)
	}
}

// A container's default filter of system calls lets a process be looked at by /proc
// alone (Docker refuses process_vm_readv without CAP_SYS_PTRACE).
func TestProcessThatPollsIsSeenWhereProcessVmReadvIsRefused(t *testing.T) {
	for _, role := range []string{"poll", "select"} {
		socket, inode := listener(t)
		pid := start(t, role, socket)
		await(t, "it waits", func() bool { waits, _ := Waiting(pid, []uint64{inode}); return waits })
		c := exec.Command("/proc/self/exe", strconv.Itoa(pid), strconv.FormatUint(inode, 10))
		c.Env = append(os.Environ(), roleVariable+"=confined", "GORACE=atexit_sleep_ms=0")
		if out, err := c.CombinedOutput(); err != nil || string(out) != "operation not permitted; true <nil>\n" {
			t.Errorf("%s: under the filter it says %q, %v", role, out, err)
		}
	}
}

// actConfined looks at a process when the filter is in place, and proves that it is.
func actConfined(pid int, inode uint64) {
	runtime.LockOSThread()
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, // the number of the call
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_PROCESS_VM_READV, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		panic(err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&filter))); errno != 0 {
		panic(errno)
	}
	_, refused := unix.ProcessVMReadv(os.Getpid(), nil, nil, 0)
	waits, err := Waiting(pid, []uint64{inode})
	fmt.Println(refused.Error()+";", waits, err)
}
