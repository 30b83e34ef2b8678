package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"revenant/scripts/internal/stage"
)

// respawn takes turns with a Node cluster: so many of ours, then one of theirs.
func respawn(ctx context.Context, b *bench) (got result, err error) {
	const kills, peerKills = 300, 40
	s, err := b.scene(ctx, 1, "--workers", "2")
	defer func() { err = errors.Join(err, s.End()) }()
	if err != nil {
		return got, err
	}
	peer, peerErr := startNode(ctx, b.dir)
	if peerErr == nil {
		defer peer.stop()
	}
	var ours, theirs []time.Duration
	for i := range kills {
		took, err := respawnOnce(ctx, s.Watches[0], i%2)
		if err != nil {
			return got, err
		}
		ours = append(ours, took)
		if peerErr == nil && i%(kills/peerKills) == 0 && len(theirs) < peerKills {
			if took, peerErr = peer.respawnOnce(ctx, i%2); peerErr == nil {
				theirs = append(theirs, took)
			}
		}
	}
	mid, high := percentile(ours, 50), percentile(ours, 99)
	got.measured = fmt.Sprintf("median %s, p99 %s, max %s of %d", ms(mid), ms(high), ms(percentile(ours, 100)), kills)
	got.kept = mid <= 15*time.Millisecond && high <= 60*time.Millisecond
	if peerErr != nil {
		got.notes = append(got.notes, fmt.Sprintf("Node cluster: not measured: %v", peerErr))
	} else {
		mid2 := percentile(theirs, 50)
		got.notes = append(got.notes, fmt.Sprintf("Node cluster: median %s, p99 %s of %d: %.1f times ours",
			ms(mid2), ms(percentile(theirs, 99)), len(theirs), float64(mid2)/float64(mid)))
	}
	return got, nil
}

// respawnOnce kills the worker of a slot and waits for its successor. Then it
// lets the slot rest: one may spend a fifth of its time starting, and this
// measures starting, not waiting.
func respawnOnce(ctx context.Context, watch *stage.Watch, slot int) (time.Duration, error) {
	return respawnOnceOf(ctx, watch, slot, 2)
}

// respawnOnceOf is respawnOnce for so many workers.
func respawnOnceOf(ctx context.Context, watch *stage.Watch, slot, workers int) (time.Duration, error) {
	if err := watch.AwaitReady(ctx, workers); err != nil {
		return 0, err
	}
	victim := watch.Ready()[slot]
	killed := time.Now()
	if err := stage.Kill(victim.PID, syscall.SIGKILL); err != nil {
		return 0, err
	}
	var successor stage.Event
	err := watch.Await(ctx, "the successor is ready", func() bool {
		for _, e := range watch.Events(stage.WorkerReady, killed) {
			successor = e
		}
		return !successor.Time.IsZero()
	})
	if err != nil {
		return 0, err
	}
	if err := watch.AwaitReady(ctx, workers); err != nil {
		return 0, err
	}
	took := successor.Time.Sub(killed)
	return took, stage.Pause(ctx, max(5*took, 50*time.Millisecond)/2)
}
