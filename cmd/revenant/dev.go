package main

import (
	"errors"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"revenant/cmd/revenant/watch"
	"revenant/supervisor/notify"
)

// The settings of revenant dev alone.
var devOptions = []option{
	{"watch", "PATH", "", "folder or file to watch, with all below it; may be given again (default --chdir, or the working directory)"},
	{"ignore", "PATTERN", "", "what not to watch, as in a .gitignore and stronger than that; may be given again"},
	{"build", "COMMAND", "", "run by a shell before the start and before each reload; when it fails, the workers stay as they are"},
	{"poll", "TIME", "", "look for changes so often, in place of waiting for events (default 500ms on file systems without events: nfs, 9p, fuse, and others)"},
}

// devDefaults are other defaults of the settings of run: one worker, whose lines
// are easy to follow, and a drain that does not let the former code answer for long.
var devDefaults = map[string]string{"name": "dev", "workers": "1", "start-timeout": "10s", "drain-timeout": "1s", "log-format": "pretty"}

// devCommand is the developer's process, or the keeper or the master of its
// instance, which are started with the same command line.
func devCommand(role string) *cobra.Command {
	c := &cobra.Command{
		Use:   "dev [flags] -- COMMAND ARG...",
		Short: "Run an instance in the foreground, and reload it when a file changes",
		Args:  commandBehindDashes,
		Long: `Run an instance for development: when a file of the project changes, the new code
is started beside the old one, and takes over once it is ready and has answered a
request. A change that is broken shows its error, and the workers that served go on.

Watched is what git does not ignore. With --build a command runs before each
reload; while it fails, nothing is reloaded. The settings are those of revenant
run; other defaults: --name dev, --workers 1, --start-timeout 10s, --drain-timeout 1s,
--log-format pretty.`,
		Example: `  revenant dev -- python3 app.py
  revenant dev --listen tcp://127.0.0.1:8000 -- gunicorn app:app
  revenant dev --build "go build -o bin/app ." -- bin/app`,
	}
	s := addOptions(c.Flags(), append(withDefaults(runOptions, devDefaults), devOptions...)...)
	c.RunE = func(_ *cobra.Command, command []string) error {
		s.command = command
		if role == notify.RoleMaster {
			return runMaster(s)
		}
		s.openFile(nil)
		o, err := readOptions(s)
		if err != nil {
			return err
		}
		if role == notify.RoleKeeper {
			return runKeeper(o)
		}
		return develop(o)
	}
	return c
}

// withDefaults are options with other defaults.
func withDefaults(options []option, defaults map[string]string) []option {
	changed := make([]option, len(options))
	for i, o := range options {
		if value, is := defaults[o.name]; is {
			o.value = value
		}
		changed[i] = o
	}
	return changed
}

// develop runs the instance until it is told to stop.
func develop(o instanceOptions) error {
	if len(o.program.Args) == 0 {
		return codeError{exitUsage, errors.New("there is no COMMAND (write it behind --, see revenant dev --help)")}
	}
	if o.settings.one("build") == "" {
		if err := checkProgram(o); err != nil {
			return err
		}
	}
	// An instance ends with the thread that started it, which must be here until the end.
	runtime.LockOSThread()
	d, err := newDeveloper(o)
	if err != nil {
		return err
	}
	defer d.watcher.Close()
	return exitWith(d.run())
}

// watching is what to watch and how.
func watching(o instanceOptions) (watch.Config, error) {
	s := o.settings
	var err error
	config := watch.Config{Roots: s.several("watch"), Ignore: s.several("ignore")}
	if text := s.one("poll"); text != "" {
		config.Poll = parse(s, &err, "poll", duration)
	}
	if len(config.Roots) == 0 {
		config.Roots = []string{"."}
		if dir := s.one("chdir"); dir != "" {
			config.Roots[0] = dir
		}
	}
	if s.file != nil {
		config.Roots = append(config.Roots, s.file.Name)
	}
	return config, err
}

// several are the values of a setting that may be given again; in the variable
// there is one a line.
func (s *settings) several(name string) []string {
	values, _ := s.get(name)
	var several []string
	for _, value := range values {
		for line := range strings.SplitSeq(value, "\n") {
			if line != "" {
				several = append(several, line)
			}
		}
	}
	return several
}
