package main

import (
	"context"
	"errors"
	"flag"
	"fmt"

	"revenant/scripts/internal/stage"
)

// leaks reloads one master many times, and then upgrades it many times, and
// compares what its processes hold with what they held near the beginning.
func leaks(ctx context.Context, args []string) (v verdict, err error) {
	reloads, upgrades, warm, g := 0, 0, 0, growth{}
	err = flags("leaks", args, func(f *flag.FlagSet) {
		f.IntVar(&reloads, "reloads", 1000, "reloads")
		f.IntVar(&upgrades, "upgrades", 200, "upgrades")
		f.IntVar(&g.things, "more", 2, "how many more descriptors, threads and goroutines are no leak")
		f.Float64Var(&g.memory, "memory", 5, "how many percent more resident memory are no leak")
		f.IntVar(&warm, "warm", 200, "reloads before the first look, so that the events which the master remembers are all there; and a tenth as many upgrades")
	})
	if err != nil {
		return v, err
	}
	s, err := newScene()
	if err != nil {
		return v, err
	}
	defer func() { err = errors.Join(err, s.end()) }()
	i, err := s.start(ctx)
	if err != nil {
		return v, err
	}
	reload := func() error { return command(ctx, i, "reload") }
	if err := v.phase(ctx, i, warm, reloads, "reloads", g, reload); err != nil {
		return v, err
	}
	return v, v.phase(ctx, i, (warm+9)/10, upgrades, "upgrades", g, func() error { return s.upgrade(ctx, i, nil) })
}

// phase makes one kind of change, a few to begin with and then all the others.
func (v *verdict) phase(ctx context.Context, i *stage.Instance, warm, count int, what string, g growth, change func() error) error {
	if count == 0 {
		return nil
	}
	var was household
	for n := range warm + count {
		if n == warm {
			var err error
			if was, err = take(ctx, i); err != nil {
				return err
			}
		}
		if err := change(); err != nil {
			return fmt.Errorf("after %d %s: %w", n, what, err)
		}
	}
	is, err := take(ctx, i)
	if err == nil {
		v.hold(fmt.Sprintf("%d %s", count, what), was, is, g)
	}
	return err
}
