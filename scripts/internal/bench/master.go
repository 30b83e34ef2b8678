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

// A master that dies again within ten seconds is started later, on purpose. So
// four instances take turns, and each has lived that long before it dies.
const (
	masterInstances = 4
	masterDeaths    = 20
	masterLife      = 10500 * time.Millisecond
)

func masterDeath(ctx context.Context, b *bench) (got result, err error) {
	s, err := b.scene(ctx, masterInstances, "--workers", "2")
	defer func() { err = errors.Join(err, s.end()) }()
	if err != nil {
		return got, err
	}
	// Events of a dead master's stream end with it; they are asked for later.
	for _, watch := range s.watches {
		watch.Close()
	}
	s.watches = nil
	var took []time.Duration
	do := func(ctx context.Context) error {
		took, err = killMasters(ctx, s.instances)
		return err
	}
	// Of each instance: one client keeps its connection, one makes new ones.
	reports := make([]ledger.Report, 0, 2*masterInstances)
	for _, instance := range s.instances {
		for _, load := range []ledger.Load{
			{Target: instance.Listen, Clients: 1, KeepAlive: true},
			{Target: instance.Listen, Clients: 4, Rate: 300},
		} {
			inner := do
			do = func(ctx context.Context) error {
				report, err := under(ctx, load, inner)
				reports = append(reports, report)
				return err
			}
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

// killMasters kills one instance's master after another's.
func killMasters(ctx context.Context, instances []*stage.Instance) (took []time.Duration, err error) {
	since := make([]time.Time, len(instances))
	for i := range masterDeaths {
		n := i % len(instances)
		if err := pause(ctx, time.Until(since[n].Add(masterLife))); err != nil {
			return took, err
		}
		d, err := masterDeathOnce(ctx, instances[n])
		if err != nil {
			return took, err
		}
		took, since[n] = append(took, d), time.Now()
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
