package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor"
	"revenant/supervisor/notify"
)

// Names of the programs among the descriptors that the keeper stores.
const (
	programName  = "executable"
	previousName = "executable-previous"
)

// becomeMaster makes a master of a process that the one before has started. That
// one could choose neither its name nor its session, and left it variables that
// were meant for itself: so it executes itself once more.
func becomeMaster() error {
	_, _ = unix.Setsid() // or what is sent to the group of the one before would reach it
	var env []string
	for _, entry := range os.Environ() {
		switch name, _, _ := strings.Cut(entry, "="); name {
		case notify.RoleVariable, notify.FDsVariable, notify.NamesVariable, notify.PIDVariable, notify.RolledBackVariable:
		default:
			env = append(env, entry)
		}
	}
	title := "revenant: master g" + os.Getenv(notify.GenerationVariable)
	err := unix.Exec("/proc/self/exe", append([]string{title}, os.Args[1:]...), append(env, notify.RoleVariable+"="+notify.RoleMaster))
	return fmt.Errorf("cannot execute this program again: %w", err)
}

// takeOverLimit bounds the wait for what the keeper stored.
const takeOverLimit = 10 * time.Second

// succeed completes what a master inherits that was started by the one before.
func (in *inheritance) succeed() error {
	address := os.Getenv(notify.PredecessorVariable)
	if address == "" {
		return nil
	}
	_ = os.Unsetenv(notify.PredecessorVariable)
	supervisor.Faults(os.Getenv(supervisor.FaultVariable)).At("after-fork")
	before, err := notify.Dial(address)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), takeOverLimit)
	defer cancel()
	stored, later, err := in.keeper.Succeed(ctx, in.generation)
	if err != nil {
		return err
	}
	in.stored, in.succession = stored, &supervisor.Succession{Predecessor: before, Later: later}
	return nil
}

// keepProgram tells the keeper what this master runs, so that the next one can be
// started from it when its file is gone, and returns the program before.
func (in inheritance) keepProgram() (previous int) {
	if fd, err := unix.Open("/proc/self/exe", unix.O_PATH|unix.O_CLOEXEC, 0); err == nil {
		_ = in.keeper.SendFiles([]int{fd}, notify.StoreFD, notify.FDName(programName))
		_ = unix.Close(fd)
	}
	if in.succession != nil {
		return named(in.stored, programName)
	}
	return named(in.stored, previousName)
}

// calledPath is the path by which this program was called, with its symbolic
// links: a release that turns a link to the next version is one to upgrade to. It
// is the program's own file where the name that it was called by says nothing.
func calledPath() string {
	executable, _ := os.Executable() // without it one has to be named
	called, err := exec.LookPath(os.Args[0])
	if err == nil {
		called, err = filepath.Abs(called)
	}
	if err == nil && leadsTo(called, executable) {
		return called
	}
	return executable
}

func leadsTo(path, executable string) bool {
	target, err := filepath.EvalSymlinks(path)
	return err == nil && target == executable
}

// programPath is where an upgrade finds the next version, unless a file is named:
// where the instance was called from, or what was named last; after a return to
// the program before, that one's own file and not the one that was no good.
func (in inheritance) programPath() string {
	executable, _ := os.Executable()
	kept, err := in.text(keptPath)
	path := string(kept)
	changed := in.succession != nil || os.Getenv(notify.RolledBackVariable) != ""
	if err != nil || path == "" || changed && !leadsTo(path, executable) {
		in.keepText(keptPath, []byte(executable))
		return executable
	}
	return path
}
