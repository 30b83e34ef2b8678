package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"revenant/scripts/ledger"
)

// crowd is several loads side by side.
type crowd struct {
	runs    int
	results chan result
}

type result struct {
	report ledger.Report
	err    error
}

// begin starts the loads. end waits for them.
func begin(ctx context.Context, loads ...ledger.Load) *crowd {
	c := &crowd{runs: len(loads), results: make(chan result, len(loads))}
	for _, load := range loads {
		// Ends with the load, or with ctx; end waits for it.
		go func() {
			report, err := load.Run(ctx)
			if err != nil {
				err = fmt.Errorf("load on %s: %w", load.Target, err)
			}
			c.results <- result{report, err}
		}()
	}
	return c
}

func (c *crowd) end() (ledger.Report, error) {
	var all []ledger.Report
	var failed error
	for range c.runs {
		r := <-c.results
		all, failed = append(all, r.report), errors.Join(failed, r.err)
	}
	return ledger.Merge(all...), failed
}

// judge adds what every soak promises: nothing fails, and nothing is done twice.
func (v *verdict) judge(r ledger.Report, journal string, allowed ...ledger.Class) error {
	failed := 0
	for class, n := range r.Counts {
		if c := ledger.Class(class); c != ledger.Answered && !slices.Contains(allowed, c) {
			failed += n
		}
	}
	v.add(failed == 0, "requests that failed", "0", "%d of %d (%s); p50 %v, p99 %v, most %v", failed, r.Sent(), r.Kinds(), r.Percentile(50), r.Percentile(99), r.Percentile(100))
	shown := 0
	for _, f := range r.Failures {
		if !slices.Contains(allowed, f.Class) && shown < 5 {
			fmt.Printf("failed: %v at %s\n", f, f.End.Format("15:04:05.000"))
			shown++
		}
	}
	entries, err := ledger.ReadJournal(journal)
	if err != nil {
		return err
	}
	delete(entries, "") // the master's own questions to a new worker have no id
	done := 0
	for _, work := range entries {
		done += min(work.Done, 1)
	}
	doubles := ledger.Doubles(entries)
	v.add(len(doubles) == 0 && done >= r.Counts[ledger.Answered], "requests that the workers did twice, by their journal", "0", "%d of %d done, for %d answers", len(doubles), done, r.Counts[ledger.Answered])
	return nil
}
