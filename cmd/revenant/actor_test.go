package main

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor/notify"
)

// asProgram makes the test binary act as a program that knows nothing of
// revenant: a service as systemd knows it. What it does comes behind.
const asProgram = "as-program"

// actor is the command line of such a program.
func actor(t testing.TB, deeds ...string) []string {
	t.Helper()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return append([]string{"--", binary, asProgram}, deeds...)
}

// actProgram does one deed after the other.
func actProgram(deeds []string) {
	for _, deed := range deeds {
		verb, object, _ := strings.Cut(deed, "=")
		do, known := actions[verb]
		if !known {
			fmt.Fprintln(os.Stderr, "unknown deed", deed)
			os.Exit(64)
		}
		do(object)
	}
}

var actions map[string]func(object string)

func init() {
	actions = map[string]func(object string){
		"ready":   func(string) { tellAbove(notify.Ready) },
		"beat":    actBeat,
		"drop":    func(string) { _ = unix.Close(3) },
		"line":    func(text string) { fmt.Println(text) },
		"ignore":  func(name string) { signal.Ignore(unix.SignalNum("SIG" + name)) },
		"leak":    actLeak,
		"fill":    actFill,
		"orphans": actOrphans,
		"quiet":   func(string) { quiet = true },
		"only":    actOnly,
		"once":    actOnce,
		"close":   func(string) { _ = unix.CloseRange(0, 1023, 0) },
		"block":   func(string) { _ = unix.SetNonblock(3, false) },
		"shut":    func(string) { _ = unix.Shutdown(3, unix.SHUT_RDWR) },
		"print":   actPrint,
		"await":   actAwait,
		"poll":    func(string) { actPoll(false) },
		"select":  func(string) { actPoll(true) },
		"strict":  func(string) { strict = true },
		"say":     func(text string) { answer = text },
		"serve":   actServe,
		"note":    actNote,
		"exit":    func(code string) { n, _ := strconv.Atoi(code); os.Exit(n) },
		"forget":  func(string) { forgetEnvironment() },
		"daemon":  actDaemon,
		"endless": actEndless,
		"hang":    actHang,
	}
}

func tellAbove(state ...string) {
	client, err := notify.FromEnv()
	if err == nil && client != nil {
		err = client.Send(state...)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

// serveOn is the listener on a descriptor.
func serveOn(fd int) net.Listener {
	f := os.NewFile(uintptr(fd), "listener")
	l, err := net.FileListener(f)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(65)
	}
	_ = f.Close()
	return l
}

// actServe answers each request, with the program's pid unless say was before, on a
// descriptor (3) until
// a signal comes, whose name it adds to the file of note.
func actServe(object string) {
	fd := 3
	if object != "" {
		fd, _ = strconv.Atoi(object)
	}
	l := serveOn(fd)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGQUIT)
	// Ends with the process.
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, answer) }))
	if !quiet {
		tellAbove(notify.Ready)
	}
	s := <-signals
	if notes != "" {
		note(unix.SignalName(s.(syscall.Signal)))
	}
	os.Exit(0)
}

// answer is what serve answers.
var answer = strconv.Itoa(os.Getpid())

// notes is the file that note names.
var notes string

func actNote(path string) { notes = path }

func note(line string) {
	f, err := os.OpenFile(notes, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o666)
	if err == nil {
		_, err = fmt.Fprintln(f, line)
		_ = f.Close()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

// forgetEnvironment writes over the memory that /proc/PID/environ shows, as
// nginx, PostgreSQL and others do to set their title.
func forgetEnvironment() {
	stat, _ := os.ReadFile("/proc/self/stat")
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	begin, _ := strconv.ParseInt(fields[47], 10, 64)
	end, _ := strconv.ParseInt(fields[48], 10, 64)
	memory, err := os.OpenFile("/proc/self/mem", os.O_WRONLY, 0)
	if err == nil {
		_, err = memory.WriteAt(make([]byte, end-begin), begin)
		_ = memory.Close()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(66)
	}
}

// actDaemon starts a process that does the given deeds, separated by commas, in a
// session of its own, with the listener.
func actDaemon(deeds string) {
	binary, err := os.Executable()
	if err == nil {
		args := append([]string{"daemon", asProgram}, strings.Split(deeds, ",")...)
		_, err = syscall.ForkExec(binary, args, &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2, 3}, Sys: &syscall.SysProcAttr{Setsid: true}})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

// strict is set for one that ends when it cannot accept.
var strict bool

// quiet is set for a program that does not speak to its supervisor.
var quiet bool

// actOnly does a deed in one slot: SLOT:DEED.
func actOnly(object string) {
	slot, deed, _ := strings.Cut(object, ":")
	if os.Getenv("REVENANT_SLOT") == slot {
		actProgram([]string{deed})
	}
}

// actOnce does a deed in the first process that comes: FILE:DEED.
func actOnce(object string) {
	path, deed, _ := strings.Cut(object, ":")
	if f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o600); err == nil {
		_ = f.Close()
		actProgram([]string{deed})
	}
}

// actAwait goes on when a file is there.
func actAwait(path string) {
	for {
		if _, err := os.Stat(path); err == nil {
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// actPrint prints what nobody can read.
func actPrint(string) {
	garbage := []byte("\x00\x1b[2J\xff\xfe{\"level\":\r\n\n\t{}[]\xe2\x28\xa1")
	for range 1000 {
		_, _ = os.Stdout.Write(garbage)
		_, _ = os.Stderr.Write(garbage)
	}
}

// actPoll answers with its pid, and is one of those that wait with poll or select
// for what to accept and go on whatever comes.
func actPoll(bySelect bool) {
	answer := fmt.Sprintf("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%d\n", len(strconv.Itoa(os.Getpid()))+1, os.Getpid())
	for {
		if bySelect {
			var set unix.FdSet
			set.Set(3)
			_, _ = unix.Select(4, &set, nil, nil, nil)
		} else {
			_, _ = unix.Poll([]unix.PollFd{{Fd: 3, Events: unix.POLLIN}}, -1)
		}
		fd, _, err := unix.Accept(3)
		if err != nil && err != unix.EAGAIN && strict {
			fmt.Fprintln(os.Stderr, "cannot accept:", err)
			os.Exit(68)
		}
		if err != nil {
			time.Sleep(time.Millisecond) // of one that is shut down, poll returns at once
			continue
		}
		_, _ = unix.Read(fd, make([]byte, 4096))
		_, _ = unix.Write(fd, []byte(answer))
		_ = unix.Close(fd)
	}
}

// actHang waits for nothing and uses no CPU.
func actHang(string) {
	for {
		time.Sleep(time.Hour)
	}
}

// actBeat says WATCHDOG=1 as often as it is asked to, until a file is there.
func actBeat(until string) {
	interval, _ := strconv.Atoi(os.Getenv("WATCHDOG_USEC"))
	if os.Getenv("WATCHDOG_PID") != strconv.Itoa(os.Getpid()) || interval == 0 {
		fmt.Fprintln(os.Stderr, "no watchdog")
		os.Exit(67)
	}
	for {
		tellAbove(notify.WatchdogAlive)
		if _, err := os.Stat(until); err == nil {
			return
		}
		time.Sleep(time.Duration(interval) * time.Microsecond / 4)
	}
}

// actFill takes so many MiB of memory, and keeps them.
func actFill(size string) {
	n, _ := strconv.Atoi(size)
	filled = bytes.Repeat([]byte{1}, n<<20)
}

var filled []byte

// actOrphans makes so many processes whose parents die at once, in a shell, which
// forks faster than we do.
func actOrphans(count string) {
	script := "i=0; while [ $i -lt " + count + " ]; do (true &); i=$((i+1)); done"
	if err := exec.Command("/bin/sh", "-c", script).Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

// actLeak takes memory, some 100 MiB a second, until the kernel has no more.
func actLeak(string) {
	var leaked [][]byte
	for {
		leaked = append(leaked, bytes.Repeat([]byte{1}, 1<<20))
		time.Sleep(10 * time.Millisecond)
	}
}
