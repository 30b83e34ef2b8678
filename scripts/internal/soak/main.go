// Command soak holds the project to what it promises about changes on a running
// instance: many of them, under load, with every request counted. It prints
// target, figure and verdict of each promise; 1 is the exit code when one was
// broken.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"
)

const usage = `usage: scripts/soak WHAT [flags]

  changes    reloads and upgrades under load: nothing fails, nothing is done twice, and how long it takes
  stops      stops of instances behind nginx under POSTs on kept connections: no answer but 200, no reset
  leaks      reloads and upgrades: descriptors, threads, goroutines, memory and environment stay what they were
  container  upgrades of PID 1 in a container under load
  liveness   too much work for the processors, and a standstill: no worker is taken for a hung one
  examples   the programs of worker/examples under kills, reloads, an upgrade and TERM

scripts/soak WHAT -h says the flags. Without flags the figures are those of the promise, which takes
from three minutes (stops) to half an hour (leaks) on two processors; with smaller ones it is a try.
`

// kinds are what can be asked for.
var kinds = map[string]func(context.Context, []string) (verdict, error){
	"changes": changes, "stops": stops, "leaks": leaks, "container": container, "examples": runExamples, "liveness": liveness,
}

func main() {
	// What is started ends with this thread, should the soak be killed.
	runtime.LockOSThread()
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	if len(args) == 2 && args[0] == workerVerb {
		return serve(args[1])
	}
	if len(args) == 0 || kinds[args[0]] == nil {
		fmt.Fprint(os.Stderr, usage)
		if len(args) == 1 && (args[0] == "-h" || args[0] == "--help") {
			return 0
		}
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	fmt.Printf("%d CPUs, %s, %s\n\n", runtime.NumCPU(), runtime.Version(), time.Now().Format("2006-01-02 15:04"))
	v, err := kinds[args[0]](ctx, args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if usage := new(usageError); errors.As(err, &usage) {
		return 2
	}
	v.print()
	if err != nil {
		fmt.Fprintln(os.Stderr, "scripts/soak:", err)
		return 1
	}
	if v.broken() {
		return 1
	}
	return 0
}

// usageError is one that the flags have explained.
type usageError struct{ error }

// flags reads those of one kind.
func flags(kind string, args []string, declare func(*flag.FlagSet)) error {
	set := flag.NewFlagSet("scripts/soak "+kind, flag.ContinueOnError)
	declare(set)
	err := set.Parse(args)
	if err == nil && set.NArg() > 0 {
		err = fmt.Errorf("%q is no flag", set.Arg(0))
		fmt.Fprintln(os.Stderr, "scripts/soak:", err)
	}
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		return &usageError{err}
	}
	return err
}

// verdict is the table.
type verdict struct{ lines []line }

// line is a promise. One that is about time does not decide the exit code: a
// machine that does something else too is slower than the promise says.
type line struct {
	what, target, measured string
	kept, timing           bool
}

func (v *verdict) add(kept bool, what, target, measured string, args ...any) {
	v.lines = append(v.lines, line{what: what, target: target, measured: fmt.Sprintf(measured, args...), kept: kept})
}

func (v *verdict) time(kept bool, what, target, measured string, args ...any) {
	v.add(kept, what, target, measured, args...)
	v.lines[len(v.lines)-1].timing = true
}

func (v verdict) broken() bool {
	for _, l := range v.lines {
		if !l.kept && !l.timing {
			return true
		}
	}
	return len(v.lines) == 0
}

func (v verdict) print() {
	for _, l := range v.lines {
		word := "kept"
		switch {
		case !l.kept && l.timing:
			word = "MISSED"
		case !l.kept:
			word = "BROKEN"
		}
		fmt.Printf("%-6s  %s\n        target    %s\n        measured  %s\n", word, l.what, l.target, l.measured)
	}
}
