// Command revenant runs a web server that does not stay dead: a keeper, a
// master, and a worker process per CPU on a shared listening socket.
//
// One binary plays every part. Which one is said once, by a variable that the
// parent sets (notify.RoleVariable) and that is taken off here before anything
// else runs; a process started by hand is the keeper or a client.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"revenant/supervisor"
	"revenant/supervisor/command"
	"revenant/supervisor/control"
	"revenant/supervisor/listen"
	"revenant/supervisor/notify"
)

// Exit codes. They are part of the interface and stand in --help.
const (
	exitOK         = 0
	exitFailed     = 1
	exitUsage      = 2
	exitNotReady   = 3
	exitNotRunning = 4
	exitNoWorker   = 10
	exitCrashLoop  = 11
	exitCannotBind = 12
	exitSignal     = 128
)

func main() {
	// Top and ps -e show this name also for what was started as /proc/self/exe.
	_ = os.WriteFile("/proc/self/comm", []byte("revenant"), 0)
	role := takeRole()
	if role == notify.RoleCommand {
		os.Exit(command.Become())
	}
	if role == notify.RoleCandidate {
		fmt.Fprintln(stderr, "revenant:", becomeMaster())
		os.Exit(exitFailed)
	}
	err := commands(role).Execute()
	if err != nil && !errors.Is(err, errSilent) {
		fmt.Fprintln(stderr, "revenant:", strings.ReplaceAll(err.Error(), "\n", "\nrevenant: "))
	}
	stderr.flush()
	os.Exit(exitCode(err))
}

// takeRole says what the parent started this process as, "" by hand. LISTEN_PID
// could not be known before the fork, so it is set here (DESIGN 5).
func takeRole() string {
	role := os.Getenv(notify.RoleVariable)
	if role != "" {
		outliveReaders()
		if role == notify.RoleWorker || role == notify.RoleCommand {
			volunteer()
		}
		if role == notify.RoleCommand {
			return role // the step cleans its own environment
		}
		_ = os.Unsetenv(notify.RoleVariable)
		_ = os.Setenv(notify.PIDVariable, strconv.Itoa(os.Getpid()))
	}
	return role
}

// volunteer lets the kernel take this worker before keeper or master when memory
// runs out. Raising needs no privilege; where it is refused the default is good
// enough.
func volunteer() { _ = os.WriteFile("/proc/self/oom_score_adj", []byte(workerOOMScore), 0) }

const workerOOMScore = "200"

// outliveReaders makes a write to a stderr that nobody reads any more fail, where
// it would end the process. The signal is caught and not ignored, for programs
// that are executed inherit what is ignored.
func outliveReaders() {
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
}

// codeError carries an exit code through the command line library.
type codeError struct {
	code int
	error
}

func (e codeError) Unwrap() error { return e.error }

// errSilent ends the program with a code and without a word: it was said before.
var errSilent = errors.New("silent")

func exitWith(code int) error {
	if code == exitOK {
		return nil
	}
	return codeError{code, errSilent}
}

func exitCode(err error) int {
	var coded codeError
	var killed *supervisor.KilledError
	var bind *listen.BindError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &coded):
		return coded.code
	case errors.As(err, &killed):
		return exitSignal + int(killed.Signal)
	case errors.As(err, &bind):
		return exitCannotBind
	case errors.Is(err, supervisor.ErrNoWorkerReady):
		return exitNoWorker
	case errors.Is(err, supervisor.ErrCrashLoop):
		return exitCrashLoop
	case errors.Is(err, control.ErrNotRunning):
		return exitNotRunning
	}
	return exitFailed
}
