package main

import (
	"context"
	"fmt"
	"os"

	"revenant/scripts/ledger"
	"revenant/worker"
)

// workerVerb makes this program a worker: soak worker JOURNAL.
const workerVerb = "worker"

// serve puts what it does on a journal that all workers share.
func serve(path string) int {
	journal, err := ledger.OpenJournal(path)
	if err == nil {
		err = worker.Run(context.Background(), journal)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak worker:", err)
		return 1
	}
	return 0
}
