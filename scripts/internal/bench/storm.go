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

func killStorm(ctx context.Context, b *bench) (got result, err error) {
	s, err := b.scene(ctx, 1, "--workers", "2")
	defer func() { err = errors.Join(err, s.End()) }()
	if err != nil {
		return got, err
	}
	var strikes []stage.Strike
	report, err := under(ctx, ledger.Load{Target: s.Instances[0].Listen, Clients: 8}, func(ctx context.Context) error {
		var err error
		strikes, err = storming(ctx, stage.Storm{Watches: s.Watches, Every: 100 * time.Millisecond, Signal: syscall.SIGKILL},
			func(ctx context.Context) error { return stage.Pause(ctx, 20*time.Second) })
		return errors.Join(err, stage.Pause(ctx, 200*time.Millisecond))
	})
	if err != nil {
		return got, err
	}
	exits, err := stage.Exits(ctx, strikes)
	if err != nil {
		return got, err
	}
	account := stage.AccountFor(report.Failures, exits, false)
	got.measured = fmt.Sprintf("%d kills, %d sent, %d refused, %d timed out, %d failed (%s), %d unexplained", len(exits), report.Sent(),
		report.Counts[ledger.Refused], report.Counts[ledger.ConnectTimeout]+report.Counts[ledger.Timeout], report.Failed(), report.Kinds(), len(account.Open))
	got.kept = len(exits) > 0 && report.Failed() <= account.InFlight && len(account.Open) == 0
	got.notes = append(got.notes, account.String(), report.String())
	return got, nil
}

func frontStorm(ctx context.Context, b *bench) (got result, err error) {
	const requests = 50_000
	s, err := b.scene(ctx, 2, "--workers", "2")
	defer func() { err = errors.Join(err, s.End()) }()
	if err == nil {
		err = s.BehindFront(ctx)
	}
	if err != nil {
		return got, err
	}
	var report ledger.Report
	began := time.Now()
	strikes, err := storming(ctx, stage.Storm{Watches: s.Watches, Every: 50 * time.Millisecond, Signal: syscall.SIGKILL}, func(ctx context.Context) error {
		var err error
		report, err = ledger.Load{Target: s.Front.Target(), Requests: requests, Clients: 8}.Run(ctx)
		return err
	})
	if err != nil {
		return got, err
	}
	exits, err := stage.Exits(ctx, strikes)
	if err != nil {
		return got, err
	}
	got.measured = fmt.Sprintf("%d failed (%s) of %d, %d kills in %v", report.Failed(), report.Kinds(), report.Sent(), len(exits), time.Since(began).Round(100*time.Millisecond))
	got.kept = report.Failed() == 0 && report.Sent() >= requests && len(exits) > 0
	got.notes = append(got.notes, report.String())
	for i, failure := range report.Failures {
		if i < 3 {
			got.notes = append(got.notes, failure.String())
		}
	}
	return got, nil
}

func massacre(ctx context.Context, b *bench) (got result, err error) {
	const times = 100
	s, err := b.scene(ctx, 1, "--workers", "2")
	defer func() { err = errors.Join(err, s.End()) }()
	if err != nil {
		return got, err
	}
	watch := s.Watches[0]
	var strikes []stage.Strike
	report, err := under(ctx, ledger.Load{Target: s.Instances[0].Listen, Clients: 8}, func(ctx context.Context) error {
		for range times {
			struck, err := killAll(ctx, watch)
			if err != nil {
				return err
			}
			strikes = append(strikes, struck...)
		}
		return nil
	})
	if err != nil {
		return got, err
	}
	exits, err := stage.Exits(ctx, strikes)
	if err != nil {
		return got, err
	}
	gap, _ := report.LongestGap()
	account := stage.AccountFor(report.Failures, exits, false)
	got.measured = fmt.Sprintf("%d kills, %d refused, longest gap %s", len(exits), report.Counts[ledger.Refused], ms(gap))
	got.kept = report.Counts[ledger.Refused] == 0 && len(account.Open) == 0 && gap <= 50*time.Millisecond && len(exits) == 2*times
	got.notes = append(got.notes, account.String(), report.String())
	return got, nil
}

// killAll kills every worker, waits until all are back, and lets the slots rest
// until they may start at once again.
func killAll(ctx context.Context, watch *stage.Watch) ([]stage.Strike, error) {
	if err := watch.AwaitReady(ctx, 2); err != nil {
		return nil, err
	}
	var strikes []stage.Strike
	began := time.Now()
	for _, worker := range watch.Ready() {
		if err := stage.Kill(worker.PID, syscall.SIGKILL); err != nil {
			return nil, err
		}
		strikes = append(strikes, stage.Strike{Watch: watch, Worker: worker, Time: began})
	}
	if _, err := stage.Exits(ctx, strikes); err != nil {
		return nil, err
	}
	if err := watch.AwaitReady(ctx, 2); err != nil {
		return nil, err
	}
	return strikes, stage.Pause(ctx, max(5*time.Since(began), 50*time.Millisecond))
}
