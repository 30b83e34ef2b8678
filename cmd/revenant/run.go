package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"revenant/supervisor/keeper"
)

const runLong = `Run an instance in the foreground: a keeper (this process), a master, and the
workers. They run the command that stands behind --, any program that can take
a listening socket as a service of systemd does (LISTEN_FDS); without one they
serve the built-in application. It runs until it is told to stop.`

const runTables = `
Signals to this process:
  TERM, INT, QUIT   stop: finish every request, then exit with 0; a second one stops at once
  HUP               reload: read the settings again and replace every worker
  USR2              upgrade: go over to the program that is in this one's file now
  TTIN, TTOU        one worker more, one less
  all others        no meaning, ignored

Exit codes:
  0    stopped, everything was drained or cut at the drain timeout
  1    failed                     2    wrong usage or configuration
  3    not ready (health)         4    no instance is running (ps, stop, ...)
  10   no worker became ready     11   every worker crashes (--on-crash-loop exit)
  12   cannot bind an address     128+N  stopped at once by a second signal N
`

// runCommand is the keeper, or the master when the keeper started it with the
// same command line.
func runCommand(master bool) *cobra.Command {
	c := &cobra.Command{
		Use:   "run [flags] [-- COMMAND ARG...]",
		Short: "Run an instance in the foreground",
		Args:  commandBehindDashes,
		Long:  runLong,
		Example: `  revenant run --chaos
  revenant run --listen tcp://127.0.0.1:3001 --name two --workers auto/2
  revenant run --listen unix:/run/app.sock
  revenant run --config /etc/revenant.toml
  revenant run --user www-data -- gunicorn app:app`,
	}
	c.SetUsageTemplate(c.UsageTemplate() + runTables)
	s := addOptions(c.Flags(), runOptions...)
	c.RunE = func(_ *cobra.Command, command []string) error {
		s.command = command
		if master {
			return runMaster(s)
		}
		s.openFile(nil)
		o, err := readOptions(s)
		if err != nil {
			return err
		}
		if err := checkProgram(o); err != nil {
			return err
		}
		return runKeeper(o)
	}
	return c
}

// commandBehindDashes keeps a command's flags from being taken for ours.
func commandBehindDashes(c *cobra.Command, args []string) error {
	if dash := c.ArgsLenAtDash(); dash != 0 && len(args) > 0 {
		return fmt.Errorf("unexpected argument %q: the command stands behind --", args[0])
	}
	return nil
}

// runKeeper claims the name and becomes the first process of the instance.
func runKeeper(o instanceOptions) error {
	outliveReaders()
	if err := ownProc(); err != nil {
		return err
	}
	claimed, err := claim(o.dir, os.Getpid())
	if err != nil {
		name, value := "runtime-dir", runtimeDir(o.settings)
		if running := new(runningError); errors.As(err, &running) {
			name, value = "name", o.name
		}
		return o.settings.wrong(name, value, err)
	}
	defer claimed.release()
	id, err := uuid.NewRandom()
	if err != nil {
		return fmt.Errorf("cannot name the instance: %w", err)
	}
	kept, err := keepFiles(o)
	if err != nil {
		return err
	}
	log := newLogger(o.logFormat, "keeper").With("instance", id)
	return exitWith(keeper.Run(keeper.Config{
		Instance:     id.String(),
		Args:         os.Args[1:],
		Environ:      os.Environ(),
		Stored:       kept,
		DrainTimeout: o.policy.DrainTimeout,
		Probation:    o.probation,
		StopSignal:   o.program.StopSignal,
		Logger:       log,
	}))
}

// ownProc makes sure that /proc is about us: with another namespace's, orphans
// would not be found and strangers be taken for workers.
func ownProc() error {
	pid, err := os.Readlink("/proc/self")
	if err == nil && pid == strconv.Itoa(os.Getpid()) {
		return nil
	}
	return codeError{exitUsage, errors.New("/proc is missing or that of another PID namespace (mount it: containers do; with unshare give --mount-proc)")}
}
