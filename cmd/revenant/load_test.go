package main

import (
	"context"
	"slices"
	"testing"
	"time"

	"revenant/scripts/ledger"
	"revenant/supervisor/event"
	"revenant/supervisor/supervisortest"
)

// load is what clients do during a test: some with a connection for each
// request, some with one that they keep.
type load struct {
	t       testing.TB
	stop    chan struct{}
	reports chan ledger.Report
	runs    int
}

// beginLoad sends requests to the instance until end: rate a second from each
// kind of client, or as fast as they are answered when rate is 0.
func beginLoad(i *supervisortest.Instance, t testing.TB, fresh, kept int, rate float64) *load {
	t.Helper()
	target := i.Now().Listeners[0]
	l := &load{t: t, stop: make(chan struct{}), reports: make(chan ledger.Report, 2)}
	for clients, keep := range map[int]bool{fresh: false, kept: true} {
		if clients == 0 {
			continue
		}
		l.runs++
		run := ledger.Load{Target: target, Clients: clients, KeepAlive: keep, Rate: rate, Duration: 10 * time.Minute, Stop: l.stop,
			ConnectTimeout: supervisortest.Patience, Timeout: supervisortest.Patience} // the machine may stall; nobody may be lost
		// Ends when stop is closed; end waits for it.
		go func() {
			report, err := run.Run(context.Background())
			if err != nil {
				t.Errorf("load: %v", err)
			}
			l.reports <- report
		}()
	}
	return l
}

// end stops the clients and returns what they counted.
func (l *load) end() ledger.Report {
	l.t.Helper()
	close(l.stop)
	var all []ledger.Report
	for range l.runs {
		all = append(all, <-l.reports)
	}
	report := ledger.Merge(all...)
	l.t.Log(report)
	return report
}

// losses are the failures that a worker's death can cause.
var losses = []ledger.Class{ledger.Reset, ledger.Empty, ledger.Cut}

// unexplained are the failures that no exit explains: an exit explains as many
// as it says were in flight, near its time.
func unexplained(failures []ledger.Failure, exits []event.Event) (open []ledger.Failure) {
	const near = 2 * time.Second // a busy machine tells the client, or the master, late
	room := make([]int, len(exits))
	for i, e := range exits {
		room[i] = e.InFlight + e.Accepting
	}
	for _, f := range failures {
		best := -1
		for i, e := range exits {
			d := f.End.Sub(e.Time).Abs()
			if room[i] > 0 && d < near && slices.Contains(losses, f.Class) && (best < 0 || d < f.End.Sub(exits[best].Time).Abs()) {
				best = i
			}
		}
		if best < 0 {
			open = append(open, f)
			continue
		}
		room[best]--
	}
	return open
}

// neverRefused checks what holds whichever worker died: nobody was refused,
// nobody waited in vain, nobody got another's answer.
func neverRefused(t testing.TB, r ledger.Report) {
	t.Helper()
	for class, n := range r.Counts {
		if c := ledger.Class(class); n > 0 && c != ledger.Answered && !slices.Contains(losses, c) {
			t.Errorf("%d requests: %v", n, c)
		}
	}
}
