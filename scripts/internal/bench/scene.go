package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"revenant/scripts/internal/stage"
	"revenant/scripts/ledger"
)

// scene starts n instances with the same flags.
func (b *bench) scene(ctx context.Context, n int, flags ...string) (*stage.Scene, error) {
	return b.sceneTo(ctx, nil, n, flags...)
}

// sceneTo is scene with somewhere for what the instances say.
func (b *bench) sceneTo(ctx context.Context, log io.Writer, n int, flags ...string) (*stage.Scene, error) {
	s := &stage.Scene{Dir: b.dir}
	for range n {
		b.names++
		i, err := s.NewInstance(b.binary, fmt.Sprintf("b%d", b.names))
		if err != nil {
			return s, err
		}
		if err := s.Start(ctx, i, log, append([]string{"--log-format", "json"}, flags...)...); err != nil {
			return s, err
		}
		if _, err := s.Watch(ctx, i); err != nil {
			return s, err
		}
	}
	return s, nil
}

// under runs a load beside what do does, until it has returned.
func under(ctx context.Context, load ledger.Load, do func(context.Context) error) (ledger.Report, error) {
	type outcome struct {
		report ledger.Report
		err    error
	}
	stop, done := make(chan struct{}), make(chan outcome, 1)
	load.Duration, load.Stop = time.Hour, stop
	// Ends when stop is closed or ctx ends; received below.
	go func() {
		report, err := load.Run(ctx)
		done <- outcome{report, err}
	}()
	err := do(ctx)
	close(stop)
	loaded := <-done
	return loaded.report, errors.Join(err, loaded.err)
}

// storming runs a storm beside what do does.
func storming(ctx context.Context, s stage.Storm, do func(context.Context) error) ([]stage.Strike, error) {
	type outcome struct {
		strikes []stage.Strike
		err     error
	}
	ctx2, calm := context.WithCancel(ctx)
	done := make(chan outcome, 1)
	// Ends with ctx2; received below.
	go func() {
		strikes, err := s.Run(ctx2)
		done <- outcome{strikes, err}
	}()
	err := do(ctx)
	calm()
	stormed := <-done
	return stormed.strikes, errors.Join(err, stormed.err)
}
