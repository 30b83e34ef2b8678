package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"revenant/scripts/internal/stage"
	"revenant/scripts/ledger"
)

// stops ends instances in turn, behind nginx, while the other one serves.
func stops(ctx context.Context, args []string) (v verdict, err error) {
	count, rate, rest := 0, 0.0, time.Duration(0)
	err = flags("stops", args, func(f *flag.FlagSet) {
		f.IntVar(&count, "count", 100, "stops")
		f.Float64Var(&rate, "rate", 300, "POSTs per second through nginx")
		f.DurationVar(&rest, "rest", 500*time.Millisecond, "time between two stops")
	})
	if err != nil {
		return v, err
	}
	s, err := newScene()
	if err != nil {
		return v, err
	}
	defer func() { err = errors.Join(err, s.end()) }()
	for range 2 {
		if _, err := s.start(ctx); err != nil {
			return v, err
		}
	}
	if err := s.BehindFront(ctx); err != nil {
		return v, err
	}
	over := make(chan struct{})
	load := ledger.Load{Duration: 24 * time.Hour, Stop: over, Clients: 64, Post: 16 << 10, PostOnly: true, Timeout: 30 * time.Second, ConnectTimeout: 30 * time.Second}
	kept := load
	kept.Target, kept.KeepAlive, kept.Rate = s.Front.Target(), true, rate
	// A client without nginx: it may find nobody, but what has a connection is answered.
	raw := load
	raw.Target, raw.Rate = s.Instances[0].Listen, rate/4
	rawKept := raw
	rawKept.KeepAlive = true
	behind, direct := begin(ctx, kept), begin(ctx, raw, rawKept)
	slowest, err := s.stopInTurn(ctx, count, rest)
	close(over)
	front, err1 := behind.end()
	alone, err2 := direct.end()
	if err := errors.Join(err, err1, err2); err != nil {
		return v, err
	}
	v.add(front.Failed() == 0, fmt.Sprintf("POSTs on kept connections through nginx, %d stops", count), "0 without a 200", "%d of %d (%s); p99 %v", front.Failed(), front.Sent(), front.Kinds(), front.Percentile(99))
	all := ledger.Merge(front, alone)
	v.time(alone.Counts[ledger.Refused] > 0 || count < 2, "clients without nginx that came while there was no instance", "refused", "%d of %d", alone.Counts[ledger.Refused], alone.Sent())
	if err := v.judge(all, s.journal, ledger.Refused); err != nil {
		return v, err
	}
	v.time(slowest <= 10*time.Second, "slowest stop", "<= 10 s", "%v", slowest.Round(time.Millisecond))
	return v, nil
}

// stopInTurn stops and starts one instance after the other.
func (s *scene) stopInTurn(ctx context.Context, count int, rest time.Duration) (slowest time.Duration, err error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	for n := range count {
		if err := stage.Pause(ctx, rest); err != nil {
			return slowest, err
		}
		i := s.Instances[n%len(s.Instances)]
		began := time.Now()
		if err := i.Stop(); err != nil {
			return slowest, err
		}
		slowest = max(slowest, time.Since(began))
		if err := s.again(ctx, i, self); err != nil {
			return slowest, err
		}
	}
	return slowest, nil
}

func (s *scene) again(ctx context.Context, i *stage.Instance, self string) error {
	if err := i.Start(ctx, nil, s.flags(self, nil)...); err != nil {
		return err
	}
	_, err := settle(ctx, i)
	return err
}
