package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"revenant/scripts/internal/stage"
)

// memory is measured after some deaths, when the master has done its work.
func memory(ctx context.Context, b *bench) (got result, err error) {
	s, err := b.scene(ctx, 1, "--workers", "2")
	defer func() { err = errors.Join(err, s.End()) }()
	if err != nil {
		return got, err
	}
	for i := range 50 {
		if _, err := respawnOnce(ctx, s.Watches[0], i%2); err != nil {
			return got, err
		}
	}
	status, err := s.Instances[0].AwaitReady(ctx)
	if err != nil {
		return got, err
	}
	keeper, err := stage.PSS(status.KeeperPID)
	if err != nil {
		return got, err
	}
	master, err := stage.PSS(status.MasterPID)
	if err != nil {
		return got, err
	}
	mib := func(n int64) float64 { return float64(n) / (1 << 20) }
	got.measured = fmt.Sprintf("%.1f MiB (keeper %.1f, master %.1f)", mib(keeper+master), mib(keeper), mib(master))
	got.kept = keeper+master <= 24<<20
	return got, nil
}

func idle(ctx context.Context, b *bench) (got result, err error) {
	const span = 20 * time.Second
	s, err := b.scene(ctx, 1, "--workers", "64", "--start-timeout", "60s")
	defer func() { err = errors.Join(err, s.End()) }()
	if err != nil {
		return got, err
	}
	status, err := s.Instances[0].AwaitReady(ctx)
	if err != nil {
		return got, err
	}
	// Whoever follows the events would be measured too.
	s.Watches[0].Close()
	s.Watches = nil
	if err := stage.Pause(ctx, 3*time.Second); err != nil {
		return got, err
	}
	var workers []int
	for _, worker := range status.Workers {
		workers = append(workers, worker.PID)
	}
	supervising, serving, err := usedDuring(ctx, span, []int{status.KeeperPID, status.MasterPID}, workers)
	if err != nil {
		return got, err
	}
	percent := func(d time.Duration) float64 { return 100 * d.Seconds() / span.Seconds() }
	got.measured = fmt.Sprintf("%.4f %% of a core: in %v keeper and master used %v, %d workers %v",
		percent(supervising+serving), span, supervising, len(workers), serving)
	got.kept = len(workers) == 64 && percent(supervising+serving) < 0.5
	return got, nil
}

// usedDuring is the CPU time of two groups of processes during a span.
func usedDuring(ctx context.Context, span time.Duration, one, other []int) (time.Duration, time.Duration, error) {
	read := func() (a, b time.Duration, err error) {
		if a, err = stage.CPU(one...); err == nil && len(other) > 0 {
			b, err = stage.CPU(other...)
		}
		return a, b, err
	}
	a0, b0, err := read()
	if err == nil {
		err = stage.Pause(ctx, span)
	}
	if err != nil {
		return 0, 0, err
	}
	a1, b1, err := read()
	return a1 - a0, b1 - b0, err
}
