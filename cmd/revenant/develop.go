package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"revenant/cmd/revenant/watch"
	"revenant/supervisor/control"
	"revenant/supervisor/event"
	"revenant/supervisor/notify"
)

// developer keeps an instance on the newest code that works. Its loop owns the
// state; what takes time runs beside it, one thing at a time, and reports.
type developer struct {
	options instanceOptions
	log     *slog.Logger
	watcher *watch.Watcher
	build   *builder
	client  *control.Client

	instance *exec.Cmd // nil while none runs
	gone     <-chan struct{}
	serves   bool // it has been ready
	givenUp  bool // for newer code, before it was
	busy     bool // building, starting or reloading
	building bool
	pending  []string // what changed meanwhile
	stopping bool

	signals chan os.Signal
	changes chan []string
	reports chan report
	exits   chan int
}

// report is the end of what took time.
type report struct {
	step     step
	err      error
	instance *exec.Cmd // of which it is, nil for a build
}

type step int

const (
	buildDone step = iota
	startDone
	reloadDone
)

func newDeveloper(o instanceOptions) (*developer, error) {
	config, err := watching(o)
	if err != nil {
		return nil, err
	}
	d := &developer{
		options: o, log: newLogger(o.logFormat, "dev"), build: newBuilder(o),
		signals: make(chan os.Signal, 16), changes: make(chan []string), reports: make(chan report), exits: make(chan int),
	}
	if d.watcher, err = watch.New(config); err != nil {
		return nil, codeError{exitUsage, err}
	}
	d.client = control.Dial(controlSocket(o.dir), func() bool { return claimed(o.dir) })
	return d, nil
}

// run returns the exit code: that of the instance when it was told to stop.
func (d *developer) run() (code int) {
	signal.Notify(d.signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGHUP)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	d.log.Info("watching", "files", d.watcher.Files(), "by", d.watcher.How())
	// Ends with ctx, or with the watcher, which says why.
	go d.watch(ctx)
	d.make(ctx)
	for !d.over() {
		select {
		case s := <-d.signals:
			d.signal(s.(syscall.Signal), cancel)
		case paths := <-d.changes:
			d.begin(ctx, paths)
		case r := <-d.reports:
			d.report(ctx, r)
		case code = <-d.exits:
			d.ended(ctx, code)
		}
	}
	return code
}

func (d *developer) over() bool { return d.stopping && d.instance == nil && !d.busy }

func (d *developer) watch(ctx context.Context) {
	for {
		paths, err := d.watcher.Next(ctx)
		if err != nil {
			if ctx.Err() == nil {
				d.log.Error("changes are no longer seen", "err", err)
			}
			return
		}
		select {
		case d.changes <- paths:
		case <-ctx.Done():
			return
		}
	}
}

// begin goes on with the code as it is now: builds it, and then starts or reloads
// the instance. While that is done, what changes waits.
func (d *developer) begin(ctx context.Context, paths []string) {
	if !d.building { // else it is not known yet what the build writes
		paths = d.build.others(paths)
	}
	switch {
	case d.stopping, len(paths) == 0:
		return
	case d.busy:
		d.pending = append(d.pending, paths...)
		return
	}
	d.log.Info("changed", "files", brief(paths))
	d.make(ctx)
}

// make builds, and goes on from there in report.
func (d *developer) make(ctx context.Context) {
	d.busy, d.building = true, true
	d.build.begin()
	// Ends with the build; its report is awaited.
	go func() { d.reports <- report{step: buildDone, err: d.build.run(ctx)} }()
}

// giveUp ends an instance that does not serve yet; another one follows.
func (d *developer) giveUp() {
	d.givenUp = true
	_ = d.instance.Process.Signal(syscall.SIGTERM)
	_ = d.instance.Process.Signal(syscall.SIGTERM) // now
}

func (d *developer) report(ctx context.Context, r report) {
	if r.instance != nil && r.instance != d.instance {
		return // that one has ended
	}
	if r.step == startDone {
		d.serves = r.err == nil
		return
	}
	d.busy = false
	if r.step == buildDone {
		d.building = false
		d.build.end()
	}
	switch {
	case d.stopping:
		return
	case r.step == buildDone && r.err != nil:
		d.log.Error("the build failed, waiting for a change", "err", r.err)
	case r.step == buildDone && d.instance == nil:
		d.start(ctx)
	case r.step == buildDone && !d.serves && !d.ready(ctx):
		d.giveUp()
	case r.step == buildDone:
		d.busy = true
		d.beside(reloadDone, func() error { return d.client.Reload(ctx, func(event.Event) error { return nil }) })
	case r.step == reloadDone && r.err != nil:
		d.log.Error("the change is not in force, waiting for another one", "err", r.err)
	}
	d.goOn(ctx)
}

// goOn begins with what has changed meanwhile.
func (d *developer) goOn(ctx context.Context) {
	if paths := d.pending; !d.busy && len(paths) > 0 {
		d.pending = nil
		d.begin(ctx, paths)
	}
}

// beside does what takes time with an instance that lives. When that ends there is
// no report: its end is told in any case.
func (d *developer) beside(s step, do func() error) {
	gone, of := d.gone, d.instance
	// Ends with the deed, or with the instance.
	go func() {
		r := report{s, do(), of}
		select {
		case d.reports <- r:
		case <-gone:
		}
	}()
}

// start starts the instance: a keeper with our own command line.
func (d *developer) start(ctx context.Context) {
	c := exec.Command(self, os.Args[1:]...)
	c.Args[0] = "revenant: dev instance"
	c.Env = append(notify.Clean(os.Environ()), notify.RoleVariable+"="+notify.RoleKeeper)
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	// Ctrl-C is for us, who ask it to stop; and when we die it stops too.
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := c.Start(); err != nil {
		d.log.Error("cannot start the instance", "err", err)
		d.stopping = true
		return
	}
	gone := make(chan struct{})
	d.instance, d.gone = c, gone
	// Ends with the instance; its exit is awaited.
	go func() {
		_ = c.Wait()
		close(gone)
		d.exits <- c.ProcessState.ExitCode()
	}()
	d.beside(startDone, func() error { return d.awaitReady(ctx, gone) })
}

var errGone = errors.New("the instance has ended")

// awaitReady returns when a worker serves.
func (d *developer) awaitReady(ctx context.Context, gone <-chan struct{}) error {
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for !d.ready(ctx) {
		select {
		case <-again.C:
		case <-gone:
			return errGone
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// ready asks whether a worker serves.
func (d *developer) ready(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	s, err := d.client.Status(ctx)
	return err == nil && s.Ready > 0
}

// ended decides what the end of the instance means. By itself it ends when none of
// its workers ever served, which the next change may heal.
func (d *developer) ended(ctx context.Context, code int) {
	served, givenUp := d.serves, d.givenUp
	d.instance, d.serves, d.givenUp, d.busy = nil, false, false, d.building
	switch {
	case d.stopping:
	case givenUp:
		d.start(ctx)
	case code == exitOK, !served && (code == exitUsage || code == exitCannotBind):
		d.stopping = true
	default:
		d.log.Error("the instance has ended, waiting for a change", "code", code)
	}
	d.goOn(ctx)
}

// signal stops everything; the instance hears each one.
func (d *developer) signal(s syscall.Signal, cancel func()) {
	d.stopping = true
	cancel()
	if s == syscall.SIGHUP { // the terminal is gone; to an instance it means reload
		s = syscall.SIGTERM
	}
	if d.instance != nil {
		_ = d.instance.Process.Signal(s)
	}
}

// brief names files as people do, and not too many.
func brief(paths []string) string {
	const most = 5
	names := make([]string, 0, most)
	for _, path := range paths[:min(len(paths), most)] {
		names = append(names, fromHere(path))
	}
	text := strings.Join(names, ", ")
	if more := len(paths) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

func fromHere(path string) string {
	here, err := os.Getwd()
	if err == nil {
		if name, err := filepath.Rel(here, path); err == nil && !strings.HasPrefix(name, "..") {
			return name
		}
	}
	return path
}
