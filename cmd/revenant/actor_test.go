package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"

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

var actions = map[string]func(object string){
	"ready":   func(string) { tellAbove(notify.Ready) },
	"serve":   actServe,
	"note":    actNote,
	"exit":    func(code string) { n, _ := strconv.Atoi(code); os.Exit(n) },
	"forget":  func(string) { forgetEnvironment() },
	"daemon":  actDaemon,
	"endless": actEndless,
	"hang":    func(string) { select {} },
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

// actServe answers each request with the program's pid on a descriptor (3), until
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
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, os.Getpid()) }))
	tellAbove(notify.Ready)
	s := <-signals
	if notes != "" {
		note(unix.SignalName(s.(syscall.Signal)))
	}
	os.Exit(0)
}

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
