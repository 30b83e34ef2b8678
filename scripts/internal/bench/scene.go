package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"revenant/nginx"
	"revenant/scripts/internal/stage"
	"revenant/scripts/ledger"
)

// scene is the instances of one row, and a front where it has one.
type scene struct {
	instances []*stage.Instance
	watches   []*stage.Watch
	front     *stage.Front
}

// scene starts n instances with the same flags.
func (b *bench) scene(ctx context.Context, n int, flags ...string) (*scene, error) {
	return b.sceneTo(ctx, nil, n, flags...)
}

// sceneTo is scene with somewhere for what the instances say.
func (b *bench) sceneTo(ctx context.Context, log io.Writer, n int, flags ...string) (*scene, error) {
	s := &scene{}
	ports, err := stage.FreePorts(n)
	if err != nil {
		return s, err
	}
	for _, port := range ports {
		b.names++
		instance := &stage.Instance{
			Binary: b.binary, Name: fmt.Sprintf("b%d", b.names), RuntimeDir: filepath.Join(b.dir, "run"), Listen: stage.Target(port),
		}
		if err := instance.Start(ctx, log, append([]string{"--log-format", "json"}, flags...)...); err != nil {
			return s, err
		}
		s.instances = append(s.instances, instance)
		watch, err := instance.Watch(ctx)
		if err != nil {
			return s, err
		}
		s.watches = append(s.watches, watch)
	}
	return s, nil
}

// behindFront adds nginx with production.conf.
func (b *bench) behindFront(ctx context.Context, s *scene) error {
	ports, err := stage.FreePorts(3)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(b.dir, "nginx")
	if err != nil {
		return err
	}
	s.front = &stage.Front{Config: "production.conf", Dir: dir, Ports: nginx.Ports{Front: ports[0], Status: ports[1]}}
	s.front.Ports.Instances[2] = ports[2] // the standby: nobody
	for i, instance := range s.instances {
		if _, err := fmt.Sscanf(instance.Listen, "tcp://127.0.0.1:%d", &s.front.Ports.Instances[i]); err != nil {
			return err
		}
	}
	return s.front.Start(ctx)
}

// end stops everything. What does not stop is an error of the row.
func (s *scene) end() error {
	for _, watch := range s.watches {
		watch.Close()
	}
	var err error
	if s.front != nil {
		err = s.front.Stop()
	}
	for _, instance := range s.instances {
		err = errors.Join(err, instance.Stop())
	}
	return err
}

// pause waits, unless ctx ends first.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
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
