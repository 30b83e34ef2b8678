// Package command makes a worker of any program. A master cannot start one
// directly: LISTEN_PID must hold the worker's own pid, which nobody knows before
// the fork, and rights are given up after the fork and before the exec. So the
// master starts this binary in the role of a step, which does that (Become) and
// then executes the program in its own place.
package command

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"revenant/supervisor/notify"
)

const (
	// Variable carries a Spec from the master to the step.
	Variable = "X_REVENANT_COMMAND"
	// FailedKey is what the step notifies when it cannot become the program: its
	// value says why, in words for the operator.
	FailedKey = "X_REVENANT_FAILED"
	// ExitFailed is the exit code of a step that failed, as a shell has it for a
	// command that it cannot find.
	ExitFailed = 127
)

// Spec says how a program is started. The zero value changes nothing.
type Spec struct {
	// Path is executed; "" means that the first argument is looked up in PATH.
	Path string `json:",omitempty"`
	// Role is handed on to a program that is this binary again.
	Role string `json:",omitempty"`
	// Dir is the working directory; "" is the master's.
	Dir string `json:",omitempty"`
	// Umask is nil for the master's.
	Umask *int `json:",omitempty"`
	// Limits are set before the user changes: only root can raise them.
	Limits []Limit `json:",omitempty"`
	// User is whose rights the program has; nil for the master's.
	User *User `json:",omitempty"`
}

// Encode is the value of Variable.
func (s *Spec) Encode() string {
	text, err := json.Marshal(s)
	if err != nil {
		panic(err) // numbers and strings
	}
	return string(text)
}

// Become executes the program that the arguments of this process name, as
// Variable says. It returns only when that failed, after telling the master why,
// with the exit code of the process.
func Become() int {
	err := become(os.Args, os.Environ())
	text := strings.ReplaceAll(err.Error(), "\n", " ")
	client, _ := notify.FromEnv()
	if client == nil || client.Send(FailedKey+"="+text[:min(len(text), longestText)]) != nil {
		fmt.Fprintln(os.Stderr, "revenant:", text)
	}
	return ExitFailed
}

// longestText leaves room in a message of the protocol.
const longestText = 3000

func become(args, environ []string) error {
	var spec Spec
	if err := json.Unmarshal([]byte(os.Getenv(Variable)), &spec); err != nil {
		return fmt.Errorf("cannot read how to start the program: %w", err)
	}
	if spec.Umask != nil {
		unix.Umask(*spec.Umask)
	}
	for _, l := range spec.Limits {
		if err := l.set(); err != nil {
			return err
		}
	}
	if spec.User != nil {
		if err := spec.User.become(); err != nil {
			return err
		}
	}
	if spec.Dir != "" {
		if err := os.Chdir(spec.Dir); err != nil {
			return fmt.Errorf("cannot enter the working directory %s: %w (it must be there, and open for this user)", spec.Dir, reason(err))
		}
	}
	path := spec.Path
	if path == "" {
		var err error
		if path, err = Find(args[0], os.Getenv("PATH"), ""); err != nil {
			return err
		}
	}
	closeOthers(environ)
	return explain(path, syscall.Exec(path, args, contract(environ, spec.Role, os.Getpid())))
}

// contract is the program's environment: that of the step without what was for
// the step alone, and with the pid that only the step knows.
func contract(environ []string, role string, pid int) []string {
	program := make([]string, 0, len(environ)+2)
	for _, line := range environ {
		name, _, _ := strings.Cut(line, "=")
		if strings.HasPrefix(name, "X_REVENANT_") {
			continue
		}
		program = append(program, line)
		switch name {
		case notify.FDsVariable:
			program = append(program, notify.PIDVariable+"="+strconv.Itoa(pid))
		case notify.WatchdogVariable:
			program = append(program, notify.WatchdogPIDVariable+"="+strconv.Itoa(pid))
		}
	}
	if role != "" {
		program = append(program, notify.RoleVariable+"="+role)
	}
	return program
}

// closeOthers makes sure that the program gets no descriptor but those that the
// master placed. All others are close-on-exec already, wherever they come from;
// this is for a mistake that nobody has made yet.
func closeOthers(environ []string) {
	next := 3
	for _, fd := range placed(environ) {
		if fd > next {
			_ = unix.CloseRange(uint(next), uint(fd-1), unix.CLOSE_RANGE_CLOEXEC)
		}
		next = max(next, fd+1)
	}
	_ = unix.CloseRange(uint(next), math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
}

// PlacedVariable lists the descriptors of the listeners for the step, in any
// order, with spaces.
const PlacedVariable = "X_REVENANT_PLACED"

func placed(environ []string) (fds []int) {
	for _, line := range environ {
		list, is := strings.CutPrefix(line, PlacedVariable+"=")
		if !is {
			continue
		}
		for word := range strings.FieldsSeq(list) {
			if fd, err := strconv.Atoi(word); err == nil {
				fds = append(fds, fd)
			}
		}
	}
	slices.Sort(fds)
	return fds
}
