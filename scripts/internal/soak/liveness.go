package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os/exec"
	"runtime"
	"slices"
	"syscall"
	"time"

	"revenant/scripts/internal/stage"
	"revenant/scripts/ledger"
)

// patient is an instance that must take no worker for a hung one.
type patient struct {
	name string
	*stage.Instance
	*stage.Watch
}

// liveness looks for workers that are killed though they live: on a machine with
// more work than processors, and after everything stood still for a while. At the
// end a worker that is really stopped must be found.
func liveness(ctx context.Context, args []string) (v verdict, err error) {
	var busy, frozen, interval time.Duration
	over := 0
	err = flags("liveness", args, func(f *flag.FlagSet) {
		f.DurationVar(&busy, "busy", 10*time.Minute, "how long the processors have too much to do")
		f.IntVar(&over, "over", 4, "how many endless loops a processor has then")
		f.DurationVar(&frozen, "frozen", 30*time.Second, "how long everything stands still")
		f.DurationVar(&interval, "liveness", 5*time.Second, "--liveness of the instances")
	})
	if err != nil {
		return v, err
	}
	s, err := newScene()
	if err != nil {
		return v, err
	}
	defer func() { err = errors.Join(err, s.end()) }()
	patients, err := s.patients(ctx, interval)
	if err != nil {
		return v, err
	}
	end := make(chan struct{})
	var loads []ledger.Load
	for _, p := range patients {
		loads = append(loads, ledger.Load{Target: p.Instance.Listen, Duration: 24 * time.Hour, Stop: end, Clients: 8, Rate: 20, KeepAlive: true, Timeout: time.Minute, ConnectTimeout: time.Minute})
	}
	load := begin(ctx, loads...)
	err = v.watchOver(ctx, patients, fmt.Sprintf("in %v with %d endless loops on %d CPUs", busy, over*runtime.NumCPU(), runtime.NumCPU()), func() error { return overload(ctx, over*runtime.NumCPU(), busy) })
	close(end)
	report, e := load.end()
	if err := errors.Join(err, e); err != nil {
		return v, err
	}
	v.add(report.Failed() == 0, "requests meanwhile", "0 failed", "%d of %d (%s)", report.Failed(), report.Sent(), report.Kinds())
	err = v.watchOver(ctx, patients, fmt.Sprintf("after %v of standstill", frozen), func() error { return freeze(ctx, patients, frozen, 3*interval) })
	if err != nil {
		return v, err
	}
	return v, v.findStopped(ctx, patients, interval)
}

// patients are three instances: one whose workers answer the master, one whose
// program knows nothing of us, and one of a single thread that is probed, too.
func (s *scene) patients(ctx context.Context, interval time.Duration) ([]patient, error) {
	ours, err := s.start(ctx, "--liveness", interval.String())
	if err != nil {
		return nil, err
	}
	watch, err := s.Watch(ctx, ours)
	if err != nil {
		return nil, err
	}
	patients := []patient{{"workers of package worker", ours, watch}}
	for _, e := range examples {
		flags, name := []string{"--liveness", interval.String()}, "workers that know nothing of us" // of several options the last one counts
		switch e.name {
		case "nethttp":
		case "node":
			flags, name = append(flags, "--liveness-probe", "http:/"), "workers of Node that are probed"
		default:
			continue
		}
		i, watch, err := e.start(ctx, s, flags...)
		if err != nil {
			return nil, err
		}
		patients = append(patients, patient{name, i, watch})
	}
	return patients, nil
}

// watchOver holds the instances to it that no worker ends while something goes on.
func (v *verdict) watchOver(ctx context.Context, patients []patient, what string, do func() error) error {
	began := time.Now()
	if err := do(); err != nil {
		return err
	}
	for _, p := range patients {
		if _, err := settle(ctx, p.Instance); err != nil {
			return err
		}
		ends := p.Watch.Events(stage.WorkerExited, began)
		v.add(len(ends) == 0, fmt.Sprintf("%s that ended, %s", p.name, what), "0", "%d%s", len(ends), causes(ends))
	}
	return nil
}

func causes(ends []stage.Event) (text string) {
	for _, e := range ends {
		text += fmt.Sprintf("; worker %d: %s", e.Worker, e.Cause)
	}
	return text
}

// overload gives the machine more to do than it can, for a while. Each loop has a
// session of its own, as workers have: the kernel shares the time among those.
func overload(ctx context.Context, loops int, span time.Duration) (err error) {
	for range loops {
		loop := exec.Command("sh", "-c", "while :; do :; done")
		loop.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		p, e := stage.StartProcess(loop)
		if e != nil {
			return e
		}
		defer func() { _ = p.Stop(time.Second) }() // by the signal that it was sent: no failure
	}
	return stage.Pause(ctx, span)
}

// freeze stops every process of the instances, and lets them go on.
func freeze(ctx context.Context, patients []patient, span, after time.Duration) error {
	var all []int
	for _, p := range patients {
		status, err := p.PS(ctx)
		if err != nil {
			return err
		}
		all = append(all, status.KeeperPID, status.MasterPID)
		for _, w := range status.Workers {
			all = append(all, w.PID)
		}
	}
	send := func(sig syscall.Signal) (err error) {
		for _, pid := range all {
			err = errors.Join(err, syscall.Kill(pid, sig))
		}
		return err
	}
	stopped := errors.Join(send(syscall.SIGSTOP), stage.Pause(ctx, span))
	slices.Reverse(all) // a keeper that wakes first sees its master stopped for longer
	return errors.Join(stopped, send(syscall.SIGCONT), stage.Pause(ctx, after))
}

// findStopped is the counter-check: one worker alone is stopped, and must be found.
func (v *verdict) findStopped(ctx context.Context, patients []patient, interval time.Duration) error {
	for _, p := range patients {
		status, err := settle(ctx, p.Instance)
		if err != nil {
			return err
		}
		w, began := status.Workers[0], time.Now()
		if err := stage.Kill(w.PID, syscall.SIGSTOP); err != nil {
			return err
		}
		exit, err := p.AwaitExit(ctx, w.Worker)
		if err != nil {
			return err
		}
		hung := p.Watch.Events("worker.hung", began)
		if len(hung) == 0 {
			return fmt.Errorf("worker %d ended by %s and nobody said that it hung", w.Worker, exit.Cause)
		}
		took := hung[0].Time.Sub(began)
		v.add(exit.Cause == "hang", "the cause of a worker that was stopped, of "+p.name, "hang", "%s", exit.Cause)
		v.time(took <= 2*interval, "until it was found", fmt.Sprintf("<= %v, twice --liveness", 2*interval), "%v", took.Round(time.Millisecond))
	}
	return nil
}
