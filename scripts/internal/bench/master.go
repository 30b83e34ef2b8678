package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"revenant/scripts/internal/stage"
	"revenant/scripts/ledger"
)

// Masters that are killed as fast as they start are started later, on purpose:
// at most a fifth of the time goes into starting. Two seconds between two kills
// are far beyond that.
const (
	masterDeaths = 20
	masterLife   = 2 * time.Second
)

func masterDeath(ctx context.Context, b *bench) (got result, err error) {
	s, err := b.scene(ctx, 1, "--workers", "2")
	defer func() { err = errors.Join(err, s.End()) }()
	if err != nil {
		return got, err
	}
	// Events of a dead master's stream end with it; they are asked for later.
	for _, watch := range s.Watches {
		watch.Close()
	}
	s.Watches = nil
	var took []time.Duration
	do := func(ctx context.Context) error {
		took, err = killMasters(ctx, s.Instances[0])
		return err
	}
	// By rate: clients that ask as fast as they are answered would leave the two
	// processors to nobody, and what is measured would be the kernel's scheduler.
	var reports []ledger.Report
	for _, load := range []ledger.Load{
		{Target: s.Instances[0].Listen, Clients: 8, Rate: 3000, KeepAlive: true},
		{Target: s.Instances[0].Listen, Clients: 8, Rate: 500},
	} {
		inner := do
		do = func(ctx context.Context) error {
			report, err := under(ctx, load, inner)
			reports = append(reports, report)
			return err
		}
	}
	if err := do(ctx); err != nil {
		return got, err
	}
	all := ledger.Merge(reports...)
	slowest := percentile(took, 100)
	got.measured = fmt.Sprintf("%d failed of %d, in charge after %s (median), %s (max)", all.Failed(), all.Sent(), ms(percentile(took, 50)), ms(slowest))
	got.kept = all.Failed() == 0 && slowest <= 300*time.Millisecond && len(took) == masterDeaths
	got.notes = append(got.notes, all.String())
	for _, failure := range all.Failures[:min(3, len(all.Failures))] {
		got.notes = append(got.notes, failure.String())
	}
	return got, nil
}

// killMasters kills one master after another.
func killMasters(ctx context.Context, instance *stage.Instance) (took []time.Duration, err error) {
	for range masterDeaths {
		d, err := masterDeathOnce(ctx, instance)
		if err != nil {
			return took, err
		}
		took = append(took, d)
		if err := stage.Pause(ctx, masterLife); err != nil {
			return took, err
		}
	}
	return took, nil
}

// masterDeathOnce kills the master and returns how long it took until another
// one said that it was ready. Then the old workers may drain.
func masterDeathOnce(ctx context.Context, instance *stage.Instance) (time.Duration, error) {
	before, err := instance.AwaitReady(ctx)
	if err != nil {
		return 0, err
	}
	killed := time.Now()
	if err := stage.Kill(before.MasterPID, syscall.SIGKILL); err != nil {
		return 0, err
	}
	after, err := instance.AwaitReady(ctx)
	if err != nil {
		return 0, err
	}
	if after.MasterPID == before.MasterPID || after.Instance != before.Instance {
		return 0, fmt.Errorf("the master was killed and %d of %s is still in charge", after.MasterPID, after.Instance)
	}
	events, err := instance.Events(ctx)
	if err != nil {
		return 0, err
	}
	for _, e := range events {
		if e.Kind == stage.MasterReady && e.Generation == after.Generation {
			return e.Time.Sub(killed), nil
		}
	}
	return 0, fmt.Errorf("generation %d has not said %s", after.Generation, stage.MasterReady)
}
