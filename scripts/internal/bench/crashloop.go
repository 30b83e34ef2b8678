package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"revenant/scripts/internal/stage"
)

// crashLoop empties the keeper's copy of the token, which workers read when they
// start: they exit at once. The token comes back, and nobody does anything else.
func crashLoop(ctx context.Context, b *bench) (got result, err error) {
	const span = 30 * time.Second
	const secret = "a-token-for-the-benchmark\n"
	token, err := os.CreateTemp(b.dir, "token")
	if err == nil {
		_, err = token.WriteString(secret)
	}
	if err = errors.Join(err, token.Close()); err != nil {
		return got, err
	}
	s, err := b.scene(ctx, 1, "--workers", "2", "--chaos", "--chaos-token-file", token.Name())
	defer func() { err = errors.Join(err, s.End()) }()
	if err != nil {
		return got, err
	}
	status, err := s.Instances[0].AwaitReady(ctx)
	if err != nil {
		return got, err
	}
	kept, err := keptToken(status.KeeperPID)
	if err == nil {
		err = os.Truncate(kept, 0)
	}
	if err != nil {
		return got, err
	}
	began := time.Now()
	for _, worker := range status.Workers {
		if err := stage.Kill(worker.PID, syscall.SIGKILL); err != nil {
			return got, err
		}
	}
	slowest := time.Duration(0)
	var asked error
	asking, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	// Ends with asking; waited for below.
	go func() {
		defer close(done)
		slowest, asked = s.Instances[0].SlowestAnswer(asking, 200*time.Millisecond)
	}()
	used, _, err := usedDuring(ctx, span, []int{status.MasterPID}, nil)
	stop()
	<-done
	if err := errors.Join(err, asked); err != nil {
		return got, err
	}
	starts := map[int]int{}
	for _, e := range s.Watches[0].Events(stage.WorkerStarted, began) {
		starts[e.Slot]++
	}
	restored := time.Now()
	if err := os.WriteFile(kept, []byte(secret), 0o600); err != nil {
		return got, err
	}
	_, healErr := s.Instances[0].AwaitReady(ctx)
	percent := 100 * used.Seconds() / span.Seconds()
	most := max(starts[0], starts[1])
	got.measured = fmt.Sprintf("%d starts of a slot at most, master %.2f %% of a core, control within %s, healed after %v",
		most, percent, ms(slowest), time.Since(restored).Round(100*time.Millisecond))
	got.kept = most > 1 && most <= 12 && percent < 2 && slowest < 50*time.Millisecond && healErr == nil
	if healErr != nil {
		got.notes = append(got.notes, fmt.Sprintf("not healed: %v", healErr))
	}
	return got, nil
}

// keptToken is the path of a keeper's copy of the token.
func keptToken(keeper int) (string, error) {
	paths, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", keeper))
	for _, path := range paths {
		if target, _ := os.Readlink(path); strings.HasPrefix(target, "/memfd:revenant-token") {
			return path, nil
		}
	}
	return "", fmt.Errorf("the keeper %d has no copy of the token", keeper)
}
