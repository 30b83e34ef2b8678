package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"revenant/scripts/internal/stage"
	"revenant/scripts/ledger"
)

// change is one reload or upgrade.
type change struct {
	upgrade    bool
	begin, end time.Time // of the command
	ready      time.Time // the last new worker, or the new master with all of its workers
}

// after is how long a change is still felt: its former workers drain.
const after = 500 * time.Millisecond

// changes reloads and upgrades one instance under load, through nginx and
// without, on new connections and on kept ones.
func changes(ctx context.Context, args []string) (v verdict, err error) {
	requests, rate, reloads, upgrades := 0, 0.0, 0, 0
	err = flags("changes", args, func(f *flag.FlagSet) {
		f.IntVar(&requests, "requests", 300_000, "requests, half of them POSTs of 16 KiB")
		f.Float64Var(&rate, "rate", 900, "requests per second, all clients together")
		f.IntVar(&reloads, "reloads", 100, "reloads")
		f.IntVar(&upgrades, "upgrades", 50, "upgrades, between two versions")
	})
	if err != nil {
		return v, err
	}
	s, err := newScene()
	if err != nil {
		return v, err
	}
	defer func() { err = errors.Join(err, s.end()) }()
	socket := filepath.Join(s.Dir, "app.sock")
	i, err := s.start(ctx, "--listen", "unix:"+socket)
	if err != nil {
		return v, err
	}
	if err := s.BehindFront(ctx); err != nil {
		return v, err
	}
	watch, err := s.Watch(ctx, i)
	if err != nil {
		return v, err
	}
	var loads []ledger.Load
	over := make(chan struct{})
	for _, target := range []string{s.Front.Target(), i.Listen, "unix:" + socket} {
		for _, keep := range []bool{true, false} {
			loads = append(loads, ledger.Load{
				Target: target, KeepAlive: keep, Duration: 24 * time.Hour, Stop: over, Rate: rate / 6, Clients: 4, Post: 16 << 10,
				Timeout: 30 * time.Second, ConnectTimeout: 30 * time.Second,
			})
		}
	}
	began := time.Now()
	due := time.Duration(float64(requests) / rate * float64(time.Second))
	crowd := begin(ctx, loads...)
	made, changeErr := s.change(ctx, i, watch, reloads, upgrades, began, due)
	changed := time.Since(began)
	if changeErr == nil {
		changeErr = stage.Pause(ctx, due-changed) // the rest of the load
	}
	close(over)
	report, loadErr := crowd.end()
	if err := errors.Join(changeErr, loadErr); err != nil {
		return v, err
	}
	v.add(true, "changes under load", fmt.Sprintf("%d reloads, %d upgrades", reloads, upgrades), "%d, %d, in %v", reloads, upgrades, changed.Round(time.Second))
	v.time(report.Sent() >= requests*99/100, "requests, every second one a POST", fmt.Sprintf(">= %d", requests), "%d in %v", report.Sent(), report.End.Sub(report.Begin).Round(time.Second))
	if err := v.judge(report, s.journal); err != nil {
		return v, err
	}
	v.timings(report, made)
	return v, nil
}

// change makes the changes, spread over the time of the load.
func (s *scene) change(ctx context.Context, i *stage.Instance, watch *stage.Watch, reloads, upgrades int, began time.Time, due time.Duration) ([]change, error) {
	var made []change
	count := reloads + upgrades
	for n := range count {
		at := began.Add(due * time.Duration(n+1) / time.Duration(count+2))
		if err := stage.Pause(ctx, time.Until(at)); err != nil {
			return made, err
		}
		if _, err := settle(ctx, i); err != nil {
			return made, err
		}
		c := change{upgrade: n*upgrades/count != (n+1)*upgrades/count, begin: time.Now()}
		var err error
		if c.upgrade {
			err = s.upgrade(ctx, i, &c)
		} else {
			err = command(ctx, i, "reload")
		}
		c.end = time.Now()
		if err == nil {
			c.ready, err = readyAfter(ctx, watch, c)
		}
		if err != nil {
			return made, fmt.Errorf("change %d of %d: %w", n+1, count, err)
		}
		made = append(made, c)
	}
	return made, nil
}

// upgrade goes over to the version that does not run.
func (s *scene) upgrade(ctx context.Context, i *stage.Instance, _ *change) error {
	s.binaries[0], s.binaries[1] = s.binaries[1], s.binaries[0]
	return command(ctx, i, "upgrade", "--binary", s.binaries[0])
}

// readyAfter is when a change was in force, by the events.
func readyAfter(ctx context.Context, watch *stage.Watch, c change) (at time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	kind, wanted := stage.WorkerReady, 2
	if c.upgrade {
		kind, wanted = stage.MasterReady, 1
	}
	err = watch.Await(ctx, kind+" was told", func() bool {
		events := watch.Events(kind, c.begin)
		if len(events) < wanted {
			return false
		}
		at = events[wanted-1].Time
		return true
	})
	return at, err
}

// timings are what the changes took, and what the clients felt of them.
func (v *verdict) timings(report ledger.Report, made []change) {
	took := map[bool][]time.Duration{}
	for _, c := range made {
		took[c.upgrade] = append(took[c.upgrade], c.ready.Sub(c.begin))
	}
	v.took(took[false], 100*time.Millisecond, "reload: from the command to the last new worker ready")
	v.took(took[true], 250*time.Millisecond, "upgrade: from the command to Ready")
	during := func(at time.Time) bool {
		for _, c := range made {
			if at.After(c.begin) && at.Before(c.end.Add(after)) {
				return true
			}
		}
		return false
	}
	changing := report.Where(during)
	quiet := report.Where(func(at time.Time) bool { return !during(at) })
	v.time(changing.Percentile(99) <= 2*quiet.Percentile(99), "p99 of requests during a change, and half a second after it", "<= 2 times the quiet p99",
		"%v of %d requests; quiet %v of %d", changing.Percentile(99), changing.Sent(), quiet.Percentile(99), quiet.Sent())
}

func (v *verdict) took(times []time.Duration, limit time.Duration, what string) {
	if len(times) == 0 {
		return
	}
	slices.Sort(times)
	slowest, median := times[len(times)-1], times[len(times)/2]
	v.time(slowest <= limit, what, fmt.Sprintf("<= %v", limit), "%v at most, median %v", slowest.Round(100*time.Microsecond), median.Round(100*time.Microsecond))
}
