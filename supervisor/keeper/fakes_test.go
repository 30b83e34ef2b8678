package keeper

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"revenant/supervisor/notify"
)

// The test binary plays every process: by role, the keeper under test or a bystander that breaks
// its rules; by X_REVENANT_ROLE, a master; by REVENANT_WORKER, a worker.
func TestMain(m *testing.M) {
	switch role := os.Getenv("KEEPER_TEST_ROLE"); {
	case os.Getenv("KEEPER_TEST_SENDER") != "":
		playSender()
	case os.Getenv(notify.WorkerVariable) != "":
		playWorker()
	case os.Getenv(notify.RoleVariable) == notify.RoleMaster:
		playMaster()
	case role == "keeper":
		playKeeper()
	case role == "shell":
		playShell()
	case role == "bystander":
		playBystander()
	case role == "thief":
		playThief()
	default:
		os.Exit(m.Run())
	}
}

// lifetime bounds every fake, should the test that made it be killed.
const lifetime = 120 * time.Second

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(99)
	}
}

func mountProc() {
	if os.Getpid() == 1 {
		must(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
		must(unix.Mount("proc", "/proc", "proc", 0, ""))
	}
}

func playKeeper() {
	mountProc()
	drain, err := time.ParseDuration(os.Getenv("KEEPER_TEST_DRAIN"))
	must(err)
	if os.Getenv("KEEPER_TEST_HASTY") != "" {
		masterGrace, stableAfter, startShare = 0, 0, 1
	}
	if share, err := strconv.Atoi(os.Getenv("KEEPER_TEST_SHARE")); err == nil {
		startShare = share
	}
	if os.Getenv("KEEPER_TEST_BLIND") != "" {
		lookAgain, limboPause = time.Hour, time.Hour
	}
	if limit, err := time.ParseDuration(os.Getenv("KEEPER_TEST_LIMBO")); err == nil {
		limboLimit = limit
	}
	log := io.Writer(os.Stderr)
	if os.Getenv("KEEPER_TEST_TALKS") != "" {
		log = io.MultiWriter(os.Stderr, os.Stdout)
	}
	args := []string{"--flag", "value"}
	if only := os.Getenv("KEEPER_TEST_ARGUMENT"); only != "" {
		args = []string{only}
	}
	environ := slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "KEEPER_TEST_ROLE=") })
	probation, _ := time.ParseDuration(os.Getenv("KEEPER_TEST_PROBATION"))
	os.Exit(Run(Config{
		Probation:    probation,
		Instance:     os.Getenv("KEEPER_TEST_INSTANCE"),
		Executable:   os.Getenv("KEEPER_TEST_EXECUTABLE"),
		Args:         args,
		Environ:      append(environ, "PATH=/nowhere", "LISTEN_ADDR=:80", "X_REVENANT_ROLE=worker"),
		DrainTimeout: drain,
		Logger:       slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}))
}

// playMaster asks the test what to do, does it, and says what came of it.
func playMaster() {
	time.AfterFunc(lifetime, func() { os.Exit(98) })
	report, err := notify.Dial(os.Getenv("KEEPER_TEST_REPORT"))
	must(err)
	if os.Getenv("KEEPER_TEST_MUTE") != "" {
		must(report.Send("X_MUTE=1"))
		time.Sleep(lifetime)
	}
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, caught()...)
	go func() {
		for s := range signals {
			must(report.Send("X_MASTER="+os.Getenv(notify.GenerationVariable), "X_SIGNAL="+unix.SignalName(s.(syscall.Signal))))
		}
	}()
	os.Setenv(notify.PIDVariable, strconv.Itoa(os.Getpid()))
	inherited := notify.Inherited(os.Getenv)
	if os.Getenv("KEEPER_TEST_SUCCEEDS") != "" {
		inherited = succeed(report)
	}
	if len(inherited) == 0 || inherited[0].Name != "lifeline" {
		must(fmt.Errorf("inherited %v", inherited))
	}
	lifeline := inherited[0].File()
	go func() {
		lifeline.Read(make([]byte, 1))
		must(report.Send("X_LIFELINE=eof"))
		os.Exit(9)
	}()
	if code := os.Getenv("KEEPER_TEST_EXIT"); code != "" {
		n, _ := strconv.Atoi(code)
		os.Exit(n)
	}
	result := ""
	for {
		answer, err := report.Ask(context.Background(), "X_MASTER="+os.Getenv(notify.GenerationVariable), "X_RESULT="+result)
		must(err)
		order, _ := answer.Value("X_DO")
		result, err = obey(strings.Fields(order), inherited)
		if err != nil {
			result = "error: " + strings.ReplaceAll(err.Error(), "\n", "; ")
		}
	}
}

// succeed is how a master begins that its predecessor started. It says what it hears.
func succeed(report *notify.Client) []notify.NamedFile {
	keeper, err := notify.FromEnv()
	must(err)
	generation, err := strconv.Atoi(os.Getenv(notify.GenerationVariable))
	must(err)
	me := "X_MASTER=" + os.Getenv(notify.GenerationVariable)
	stored, later, err := keeper.Succeed(context.Background(), generation)
	if err != nil {
		must(report.Send(me, "X_REFUSED=1"))
		os.Exit(7)
	}
	go func() {
		for {
			m, err := later.Next(context.Background())
			if err != nil {
				must(report.Send(me, "X_ALONE=1"))
				return
			}
			name, _ := m.Value("FDNAME")
			must(report.Send(me, fmt.Sprintf("X_HEARD=%s %d %v", name, len(m.Files), m.Says(notify.RemoveFD))))
			m.Close()
		}
	}()
	return stored
}

func obey(order []string, inherited []notify.NamedFile) (string, error) {
	keeper, err := notify.FromEnv()
	must(err)
	argument := func(i int) int { n, err := strconv.Atoi(order[i]); must(err); return n }
	switch order[0] {
	case "say":
		return "", keeper.Send(order[1:]...)
	case "exit":
		os.Exit(argument(1))
	case "write": // words
		_, err := fmt.Println(strings.Join(order[1:], " "))
		return "", err
	case "die": // say and die at once: the message is in the keeper's queue when the death is seen
		must(keeper.Send(order[1:]...))
		unix.Kill(os.Getpid(), unix.SIGKILL)
	case "listen": // name, and "die" to be killed with the message just sent
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(err)
		raw, err := l.(*net.TCPListener).SyscallConn()
		must(err)
		var cookie uint64
		raw.Control(func(fd uintptr) {
			err = keeper.SendFiles([]int{int(fd)}, notify.StoreFD, "FDNAME="+order[1])
			cookie, _ = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_COOKIE)
		})
		if len(order) > 2 {
			unix.Kill(os.Getpid(), unix.SIGKILL)
		}
		l.Close()
		return fmt.Sprintf("%s %d", l.Addr(), cookie), err
	case "inherited":
		var all []string
		for _, f := range inherited[1:] {
			cookie, _ := unix.GetsockoptUint64(f.FD, unix.SOL_SOCKET, unix.SO_COOKIE)
			flags, _ := unix.FcntlInt(uintptr(f.FD), unix.F_GETFL, 0)
			all = append(all, fmt.Sprintf("%s cookie=%d nonblock=%v", f.Name, cookie, flags&unix.O_NONBLOCK != 0))
		}
		return strings.Join(all, ","), nil
	case "inherited-names":
		var all []string
		for _, f := range inherited[1:] {
			all = append(all, f.Name)
		}
		return strings.Join(all, ","), nil
	case "store": // name, count: so many descriptors under one name
		fds := make([]int, argument(2))
		return "", keeper.SendFiles(fds, notify.StoreFD, "FDNAME="+order[1])
	case "accept": // one connection on the first stored listener
		l, err := net.FileListener(inherited[1].File())
		must(err)
		conn, err := l.Accept()
		must(err)
		fmt.Fprint(conn, "hello")
		return "", conn.Close()
	case "worker": // id, manner
		return startWorker(order[1], order[2])
	case "began": // pid
		return strconv.FormatUint(beganOf(argument(1)), 10), nil
	case "ended": // pid, when it began
		began, _ := strconv.ParseUint(order[2], 10, 64)
		e, err := keeper.HowEnded(context.Background(), argument(1), began)
		if err != nil {
			return err.Error(), nil
		}
		return fmt.Sprintf("status=%#x asked=%d killed=%t", int(e.Status), e.Asked, e.Killed), nil
	case "stranger": // a child of none of ours, which stays until it is killed; its pid where we live
		out, err := exec.Command("/bin/sh", "-c", "/usr/bin/setsid /bin/sleep 100 >/dev/null 2>&1 & echo $!").Output()
		return strings.TrimSpace(string(out)), err
	case "limbo": // id, pipe: a worker that looks like its master until somebody writes to the pipe
		exe, err := os.Executable()
		must(err)
		script := fmt.Sprintf("read line < %s; REVENANT_INSTANCE=$X_REVENANT_INSTANCE REVENANT_GENERATION=$X_REVENANT_GENERATION "+
			"REVENANT_SLOT=0 REVENANT_WORKER=%s KEEPER_TEST_MANNER=polite exec %s", order[2], order[1], exe)
		return "", exec.Command("/bin/sh", "-c", script).Start()
	case "successor": // generation, more variables
		child := exec.Command("/proc/self/exe")
		child.Env = append(os.Environ(), notify.RoleVariable+"=master", notify.GenerationVariable+"="+order[1], "KEEPER_TEST_SUCCEEDS=1")
		child.Env = append(child.Env, order[2:]...)
		if err := child.Start(); err != nil {
			return "", err
		}
		go child.Wait()
		return strconv.Itoa(child.Process.Pid), nil
	case "executable": // path: what it says to be running
		f, err := os.Open(order[1])
		must(err)
		return "", keeper.SendFiles([]int{int(f.Fd())}, notify.StoreFD, "FDNAME=executable")
	case "variable": // name
		return os.Getenv(order[1]), nil
	case "running":
		return os.Readlink("/proc/self/exe")
	case "sender": // another process says it
		child := exec.Command("/proc/self/exe")
		child.Env = append(os.Environ(), "KEEPER_TEST_SENDER="+strings.Join(order[1:], " "))
		return "", child.Run()
	case "orphans": // count
		return "", makeOrphans(argument(1))
	case "statuses": // count, collected while others are orphaned
		return "", checkStatuses(argument(1))
	case "both": // orphans, statuses
		orphaned := make(chan error, 1)
		go func() { orphaned <- makeOrphans(argument(1)) }()
		if err := checkStatuses(argument(2)); err != nil {
			return "", err
		}
		return "", <-orphaned
	case "describe":
		return describe(), nil
	}
	return "", fmt.Errorf("unknown order %q", order)
}

// playShell runs a keeper in the background of the terminal whose foreground it is itself.
func playShell() {
	time.AfterFunc(lifetime, func() { os.Exit(98) })
	must(os.Setenv("KEEPER_TEST_ROLE", "keeper"))
	child := exec.Command("/proc/self/exe")
	child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
	child.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // whose end is the child's
	must(child.Run())
}

// describe is what a master finds itself to be.
func describe() string {
	pgid, _ := unix.Getpgid(0)
	session, _ := unix.Getsid(0)
	ignored, blocked := "", ""
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "SigIgn:"); ok {
			ignored = strings.TrimSpace(rest)
		}
		if rest, ok := strings.CutPrefix(line, "SigBlk:"); ok {
			blocked = strings.TrimSpace(rest)
		}
	}
	var vars []string
	for _, name := range []string{"GOMAXPROCS", "PATH", "LISTEN_ADDR", notify.RoleVariable, "KEEPER_TEST_ROLE"} {
		vars = append(vars, name+"="+os.Getenv(name))
	}
	return fmt.Sprintf("%q leader=%v,%v ignored=%s blocked=%s keeper=%v %q", os.Args, pgid == os.Getpid(), session == os.Getpid(), ignored, blocked,
		os.Getenv(notify.KeeperPIDVariable) == strconv.Itoa(os.Getppid()), vars)
}

// playSender is a process below the master that talks to the keeper.
func playSender() {
	keeper, err := notify.FromEnv()
	must(err)
	must(keeper.SendFiles([]int{0}, strings.Fields(os.Getenv("KEEPER_TEST_SENDER"))...))
}

// makeOrphans makes processes whose parents die at once, in a shell, which forks faster than we do.
func makeOrphans(count int) error {
	script := fmt.Sprintf("i=0; while [ $i -lt %d ]; do (true &); i=$((i+1)); done", count)
	return exec.Command("/bin/sh", "-c", script).Run()
}

// checkStatuses runs children and wants each one's own status back.
func checkStatuses(count int) error {
	var group sync.WaitGroup
	failed := make(chan error, count)
	lanes := make(chan struct{}, 4)
	for i := range count {
		lanes <- struct{}{}
		group.Go(func() {
			defer func() { <-lanes }()
			child := exec.Command("/bin/sh", "-c", fmt.Sprintf("exit %d", i%100))
			if err := child.Run(); child.ProcessState == nil || child.ProcessState.ExitCode() != i%100 {
				failed <- fmt.Errorf("status of child %d: %v, want %d", i, err, i%100)
			}
		})
	}
	group.Wait()
	close(failed)
	return <-failed
}

func startWorker(id, manner string) (string, error) {
	worker := exec.Command("/proc/self/exe")
	worker.Env = append(notify.Clean(os.Environ()),
		notify.WorkerInstanceVariable+"="+os.Getenv(notify.InstanceVariable), notify.WorkerVariable+"="+id,
		notify.WorkerSlotVariable+"=0", notify.WorkerGenerationVariable+"="+os.Getenv(notify.GenerationVariable),
		"KEEPER_TEST_MANNER="+manner)
	worker.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := worker.Start(); err != nil {
		return "", err
	}
	go worker.Wait()
	return strconv.Itoa(worker.Process.Pid), nil
}

// playWorker leaves on SIGTERM when it is polite, and never when it is deaf.
func playWorker() {
	time.AfterFunc(lifetime, func() { os.Exit(98) })
	report, err := notify.Dial(os.Getenv("KEEPER_TEST_REPORT"))
	must(err)
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, syscall.SIGTERM)
	name := "X_WORKER=" + os.Getenv(notify.WorkerVariable)
	if os.Getenv("KEEPER_TEST_MANNER") == "parent" {
		os.Setenv(notify.WorkerVariable, "child")
		os.Setenv("KEEPER_TEST_MANNER", "polite") // both
		must(exec.Command("/proc/self/exe").Start())
	}
	must(report.Send(name, "X_UP=1"))
	for range signals {
		must(report.Send(name, "X_SIGNAL=SIGTERM"))
		if os.Getenv("KEEPER_TEST_MANNER") == "polite" {
			os.Exit(5)
		}
	}
}

// playBystander is a parent of orphans that does not reap them.
func playBystander() {
	mountProc()
	must(unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
	must(makeOrphans(100))
	fmt.Println(len(children()))
}

// playThief waits for all children next to os/exec, which the keeper never has in its process.
func playThief() {
	go func() {
		for {
			syscall.Wait4(-1, nil, 0, nil)
		}
	}()
	fmt.Println(checkStatuses(200))
}
