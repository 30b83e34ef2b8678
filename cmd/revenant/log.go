package main

import (
	"context"
	"log/slog"
	"os"
	"time"

	"github.com/lmittmann/tint"
	"github.com/mattn/go-isatty"

	"revenant/supervisor/event"
)

// newLogger writes to stderr: for people on a terminal, JSON elsewhere.
func newLogger(format, component string) *slog.Logger {
	tty := isatty.IsTerminal(os.Stderr.Fd())
	if format == "json" || format == "auto" && !tty {
		return slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo})).With("component", component)
	}
	return slog.New(tint.NewHandler(os.Stderr, &tint.Options{
		Level: slog.LevelInfo, TimeFormat: "15:04:05.000", NoColor: !tty || os.Getenv("NO_COLOR") != "",
	})).With("component", component)
}

// logged is how many events the log may be behind: a stalled reader of our
// stderr must not stop the master.
const logged = 1024

// logEvents writes the stream to the log until it ends. It returns a function
// that ends the stream and waits a moment for the rest to be written.
func logEvents(log *slog.Logger, bus *event.Bus) (flush func()) {
	past, live := bus.Subscribe(0, logged)
	done := make(chan struct{})
	// Ends when flush closes the subscription; flush waits for it.
	go func() {
		defer close(done)
		for _, e := range past {
			log.LogAttrs(context.Background(), e.Level(), e.Text(), e.Attrs()...)
		}
		for e := range live.Events() {
			log.LogAttrs(context.Background(), e.Level(), e.Text(), e.Attrs()...)
		}
	}()
	return func() {
		live.Close()
		select {
		case <-done:
		case <-time.After(time.Second):
		}
	}
}
