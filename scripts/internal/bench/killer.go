package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"revenant/scripts/internal/stage"
	"revenant/scripts/ledger"
)

// workerKiller asks for deaths through nginx while others ask for pages. 409
// says that the worker was the last one ready: it lives, and it is asked again.
func workerKiller(ctx context.Context, b *bench) (got result, err error) {
	const wanted = 1000
	s, err := b.scene(ctx, 2, "--workers", "2", "--chaos")
	defer func() { err = errors.Join(err, s.End()) }()
	if err == nil {
		err = s.BehindFront(ctx)
	}
	if err != nil {
		return got, err
	}
	began := time.Now()
	var answered, refused, lost int
	report, err := under(ctx, ledger.Load{Target: s.Front.Target(), Clients: 4, Rate: 300, KeepAlive: true}, func(ctx context.Context) error {
		client := &ledger.Client{Target: s.Front.Target(), ConnectTimeout: 2 * time.Second, Timeout: 10 * time.Second}
		for answered < wanted && lost < 10 {
			outcome := client.Do(ledger.Request{Path: "/workerKiller"})
			switch {
			case outcome.Class == ledger.Answered && strings.HasPrefix(string(outcome.Response.Body), "Worker ["):
				answered++
			case outcome.Class == ledger.Status && outcome.Response.Status == http.StatusConflict:
				refused++
				if err := stage.Pause(ctx, 5*time.Millisecond); err != nil {
					return err
				}
			default:
				lost++
				got.notes = append(got.notes, fmt.Sprintf("a reply was lost: %v, %v, %.80q", outcome.Class, outcome.Err, outcome.Response.Body))
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
		return nil
	})
	if err != nil {
		return got, err
	}
	deaths, err := chaosDeaths(ctx, s, answered, began)
	if err != nil {
		return got, err
	}
	got.measured = fmt.Sprintf("%d answered 200, %d deaths, %d replies lost", answered, deaths[0]+deaths[1], lost)
	// An instance that nginx leaves out has no deaths while it is out.
	balanced := min(deaths[0], deaths[1]) > wanted/5
	got.kept = answered == wanted && deaths[0]+deaths[1] == wanted && lost == 0 && balanced && report.Failed() == 0
	got.notes = append(got.notes,
		fmt.Sprintf("%d and %d deaths of the two instances; %d times 409, the last worker ready", deaths[0], deaths[1], refused),
		"other GETs meanwhile: "+report.String())
	return got, nil
}

// chaosDeaths waits until so many deaths are told, and then for more: there must
// be none.
func chaosDeaths(ctx context.Context, s *stage.Scene, wanted int, since time.Time) (deaths [2]int, err error) {
	count := func() int {
		for i, watch := range s.Watches {
			deaths[i] = 0
			for _, e := range watch.Events(stage.WorkerExited, since) {
				if e.Cause == "chaos" && e.Planned {
					deaths[i]++
				}
			}
		}
		return deaths[0] + deaths[1]
	}
	waiting, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for count() < wanted && waiting.Err() == nil {
		if err := stage.Pause(waiting, 50*time.Millisecond); err != nil {
			break
		}
	}
	err = stage.Pause(ctx, 500*time.Millisecond)
	count()
	return deaths, err
}
