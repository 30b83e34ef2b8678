package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"

	"revenant/scripts/internal/stage"
)

// launch is how an instance was started, read off the running one.
type launch struct {
	keeper         int
	args           []string // without the program
	env            []string
	dir            string
	stdout, stderr *os.File
	listeners      []string

	program string   // the file that it runs
	exe     *os.File // the same, though its file may be gone
}

// launchOf reads it before anything is stopped.
func launchOf(status stage.Status) (*launch, error) {
	l := &launch{keeper: status.KeeperPID, listeners: status.Listeners, program: program(status.MasterPID)}
	args, err := strings0(l.keeper, "cmdline")
	if err != nil {
		return nil, err
	}
	if len(args) < 2 || args[1] != "run" {
		return nil, fmt.Errorf("pid %d is no revenant run: %q", l.keeper, args)
	}
	l.args = args[1:]
	if l.env, err = strings0(l.keeper, "environ"); err != nil {
		return nil, err
	}
	if l.dir, err = os.Readlink(fmt.Sprintf("/proc/%d/cwd", l.keeper)); err != nil {
		return nil, err
	}
	if l.isService() {
		return nil, errors.New("systemd supervises it: change its unit and restart that (systemctl restart), with nginx as it is")
	}
	if l.exe, err = os.Open(fmt.Sprintf("/proc/%d/exe", status.MasterPID)); err != nil {
		return nil, err
	}
	l.stdout, l.stderr = l.output(1), l.output(2)
	return l, nil
}

func strings0(pid int, file string) ([]string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	if err != nil {
		return nil, err
	}
	return strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00"), nil
}

// isService says whether somebody waits for the word of this process, and would
// start it again when it ends.
func (l *launch) isService() bool {
	return slices.ContainsFunc(l.env, func(line string) bool { return strings.HasPrefix(line, "NOTIFY_SOCKET=") })
}

// output opens what a descriptor of the instance writes to, nil where that is
// not possible (a socket).
func (l *launch) output(fd int) *os.File {
	// Without waiting for somebody who reads a pipe; who gets it may wait.
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/fd/%d", l.keeper, fd), os.O_WRONLY|os.O_APPEND|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil || syscall.SetNonblock(int(f.Fd()), false) != nil {
		return nil
	}
	return f
}

// former is a path of the program that ran, for as long as this script does.
func (l *launch) former() string {
	if now, err := os.Stat(l.program); err == nil {
		if ran, err := l.exe.Stat(); err == nil && os.SameFile(now, ran) {
			return l.program
		}
	}
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), l.exe.Fd())
}

// command starts a program in the place of this instance, in a session of its
// own, so that nothing that ends here ends it.
func (l *launch) command(path string) *exec.Cmd {
	cmd := exec.Command(path)
	cmd.Args = append([]string{path}, l.args...)
	cmd.Env, cmd.Dir = l.env, l.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if l.stdout != nil {
		cmd.Stdout = l.stdout
	}
	if l.stderr != nil {
		cmd.Stderr = l.stderr
	}
	return cmd
}

// standbyArgs are those of another instance with a name and an address of its
// own.
func standbyArgs(args []string, name, listen string) ([]string, error) {
	if len(args) == 0 || args[0] != "run" {
		return nil, fmt.Errorf("cannot start %s like an instance that was started with %q", name, args)
	}
	made := []string{"run", "--name", name, "--listen", listen}
	for i := 1; i < len(args); i++ {
		flag, _, joined := strings.Cut(args[i], "=")
		switch {
		case args[i] == "--":
			return append(made, args[i:]...), nil
		case flag == "--name" || flag == "--listen":
			if !joined {
				i++
			}
		default:
			made = append(made, args[i])
		}
	}
	return made, nil
}
