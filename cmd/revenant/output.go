package main

import (
	"context"
	"log/slog"
	"time"

	"revenant/supervisor/output"
)

// written is how much of what workers print is written to the log at once.
const written = 64 << 10

// logOutput writes what workers print to the log. It returns a function that
// writes the rest, for a moment at most, and ends.
func logOutput(format string, log *slog.Logger, ring *output.Ring) (flush func()) {
	record := output.Line.AppendText
	if inJSON(format) {
		record = output.Line.AppendJSON
	}
	ended := make(chan struct{})
	// Ends with the ring, which flush closes and waits for; or with the process, when
	// nobody reads stderr.
	go func() {
		defer close(ended)
		copyOutput(ring.Follow(), log.Handler(), record)
	}()
	return func() {
		ring.Close()
		limit := time.NewTimer(lastLines)
		defer limit.Stop()
		select {
		case <-ended:
		case <-limit.C:
		}
	}
}

// copyOutput writes lines as they come. While stderr is not read it waits, and the
// ring forgets; that is said when it is read again.
func copyOutput(from *output.Follower, notice slog.Handler, record func(output.Line, []byte) []byte) {
	var text []byte
	for {
		lines, lost := from.Next(context.Background())
		if lost > 0 {
			_ = notice.Handle(context.Background(), output.Lost(lost))
		}
		if len(lines) == 0 {
			return
		}
		for _, l := range lines {
			if text = record(l, text); len(text) >= written {
				stderr.writeAll(text)
				text = text[:0]
			}
		}
		if len(text) > 0 {
			stderr.writeAll(text)
			text = text[:0]
		}
	}
}
