package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"revenant/scripts/internal/stage"
	"revenant/scripts/ledger"
)

// cost compares the CPU time of everything that serves, per request, with the
// same application as one plain process with as many GOMAXPROCS. They take
// turns, so that whatever else the machine does hits both.
func cost(ctx context.Context, b *bench) (got result, err error) {
	const turns = 7
	s, err := b.scene(ctx, 1)
	defer func() { err = errors.Join(err, s.End()) }()
	if err != nil {
		return got, err
	}
	status, err := s.Instances[0].AwaitReady(ctx)
	if err != nil {
		return got, err
	}
	supervised := server{target: s.Instances[0].Listen, pids: []int{status.KeeperPID, status.MasterPID}}
	for _, worker := range status.Workers {
		supervised.pids = append(supervised.pids, worker.PID)
	}
	plain, stop, err := b.startPlain(ctx, max(runtime.NumCPU(), 2))
	if err != nil {
		return got, err
	}
	defer stop()

	got.kept = true
	var measured []string
	for _, load := range []struct {
		name string
		ledger.Load
	}{
		{"kept connections", ledger.Load{Requests: 60_000, Clients: 8, KeepAlive: true}},
		{"new connections", ledger.Load{Requests: 15_000, Clients: 8}},
	} {
		var ours, theirs []float64
		for range turns {
			for _, side := range []struct {
				server
				samples *[]float64
			}{{supervised, &ours}, {plain, &theirs}} {
				used, err := side.cpuPerRequest(ctx, load.Load)
				if err != nil {
					return got, err
				}
				*side.samples = append(*side.samples, used)
			}
		}
		ratio := median(ours) / median(theirs)
		got.kept = got.kept && ratio <= 1.10
		measured = append(measured, fmt.Sprintf("%.3f times on %s", ratio, load.name))
		got.notes = append(got.notes, fmt.Sprintf("%s: %.1f us supervised, %.1f us plain (medians of %d turns)", load.name, median(ours), median(theirs), turns))
	}
	got.measured = and(measured...)
	return got, nil
}

// server is something to load, and all of its processes.
type server struct {
	target string
	pids   []int
}

func (s server) cpuPerRequest(ctx context.Context, load ledger.Load) (microseconds float64, err error) {
	load.Target = s.target
	before, err := stage.CPU(s.pids...)
	if err != nil {
		return 0, err
	}
	report, err := load.Run(ctx)
	if err != nil {
		return 0, err
	}
	after, err := stage.CPU(s.pids...)
	if err != nil {
		return 0, err
	}
	if report.Failed() > 0 {
		return 0, fmt.Errorf("requests failed on %s: %v", s.target, report.Kinds())
	}
	return (after - before).Seconds() * 1e6 / float64(report.Sent()), nil
}

// startPlain runs the built-in application without a supervisor.
func (b *bench) startPlain(ctx context.Context, procs int) (server, func(), error) {
	ports, err := stage.FreePorts(1)
	if err != nil {
		return server{}, nil, err
	}
	target := stage.Target(ports[0])
	cmd := exec.Command(b.binary, "app", "--listen", target)
	cmd.Env = append(os.Environ(), fmt.Sprintf("GOMAXPROCS=%d", procs))
	// In a session of its own, as workers are and as any daemon is. The kernel
	// schedules each session as a group (sched_autogroup): beside the client in
	// the script's session a server wakes up less often and takes a third less CPU
	// for a new connection, and the comparison would be one of sessions.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	process, err := stage.StartProcess(cmd)
	if err != nil {
		return server{}, nil, err
	}
	stop := func() { process.Stop(10 * time.Second) }
	client := &ledger.Client{Target: target, Timeout: time.Second}
	err = process.Await(ctx, func() bool { return client.Do(ledger.Request{Path: "/"}).Class == ledger.Answered })
	if err != nil {
		stop()
		return server{}, nil, fmt.Errorf("cannot start the plain process: %w", err)
	}
	return server{target: target, pids: []int{process.PID()}}, stop, nil
}
