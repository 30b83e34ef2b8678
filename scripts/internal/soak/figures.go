package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"revenant/scripts/internal/stage"
)

// figures are what a process must not have more of for having lived longer.
type figures struct {
	descriptors, threads, goroutines int
	resident                         int64 // bytes
	environ                          int   // bytes, every number counted as one digit
}

func (f figures) String() string {
	return fmt.Sprintf("%d descriptors, %d threads, %d goroutines, %.1f MiB", f.descriptors, f.threads, f.goroutines, float64(f.resident)/(1<<20))
}

// least are the smallest figures of a while: what is only for the moment, as the
// connection that asks, is not counted.
func least(ctx context.Context, pid int) (figures, error) {
	f, err := figuresOf(pid)
	for range 10 {
		if err := errors.Join(err, stage.Pause(ctx, 50*time.Millisecond)); err != nil {
			return f, err
		}
		now, e := figuresOf(pid)
		f.descriptors, f.threads = min(f.descriptors, now.descriptors), min(f.threads, now.threads)
		f.goroutines, f.resident = min(f.goroutines, now.goroutines), min(f.resident, now.resident)
		err = e
	}
	return f, err
}

var number = regexp.MustCompile(`[0-9]+`)

func figuresOf(pid int) (f figures, err error) {
	proc := fmt.Sprintf("/proc/%d", pid)
	fds, err1 := os.ReadDir(filepath.Join(proc, "fd"))
	tasks, err2 := os.ReadDir(filepath.Join(proc, "task"))
	status, err3 := os.ReadFile(filepath.Join(proc, "status"))
	environ, err4 := os.ReadFile(filepath.Join(proc, "environ"))
	count, err5 := goroutines(pid)
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		return f, err
	}
	f = figures{descriptors: len(fds), threads: len(tasks), goroutines: count, environ: len(number.ReplaceAll(environ, []byte("0")))}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
			if err != nil {
				return f, err
			}
			f.resident = kib << 10
		}
	}
	return f, nil
}

// household are the figures of an instance.
type household struct {
	keeper, master figures
	worker         int // bytes of a worker's environment
}

// take waits until the instance rests, and looks.
func take(ctx context.Context, i *stage.Instance) (h household, err error) {
	status, err := settle(ctx, i)
	if err != nil {
		return h, err
	}
	if h.keeper, err = least(ctx, status.KeeperPID); err != nil {
		return h, err
	}
	if h.master, err = least(ctx, status.MasterPID); err != nil {
		return h, err
	}
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", status.Workers[0].PID))
	h.worker = len(number.ReplaceAll(environ, []byte("0")))
	return h, err
}

// growth is what is no leak.
type growth struct {
	things int     // descriptors, threads, goroutines
	memory float64 // percent
}

// hold compares what is with what was.
func (v *verdict) hold(what string, was, is household, g growth) {
	v.same("the keeper after "+what, was.keeper, is.keeper, g)
	v.same("the master after "+what, was.master, is.master, g)
	v.add(was.worker == is.worker, "the environment of a worker after "+what, "unchanged", "%d bytes, was %d", is.worker, was.worker)
}

func (v *verdict) same(who string, was, is figures, g growth) {
	near := func(a, b int) bool { return a <= b+g.things }
	v.add(near(is.descriptors, was.descriptors) && near(is.threads, was.threads) && near(is.goroutines, was.goroutines) && is.environ == was.environ,
		"descriptors, threads and goroutines of "+who, fmt.Sprintf("%d more at most, environment unchanged", g.things), "%v, environment %d bytes; was %v, %d bytes", is, is.environ, was, was.environ)
	more := 100 * (float64(is.resident)/float64(was.resident) - 1)
	v.add(more <= g.memory, "resident memory of "+who, fmt.Sprintf("%.0f %% more at most", g.memory), "%+.1f %%", more)
}
