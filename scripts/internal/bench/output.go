package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"revenant/scripts/internal/stage"
)

// printer is this program's first argument when it is the worker of the row about
// output. The second is how many bytes it prints a second, 0 for all it can.
const printer = "print"

// printAway is that worker. It answers nobody.
func printAway(rate string) {
	perSecond, _ := strconv.Atoi(rate)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReady)
	line := `{"level":"info","msg":"request","method":"GET","path":"/index.html","status":200,"ms":1.25,"agent":"curl/8.0"}` + "\n"
	text := []byte(strings.Repeat(line, max(1, perSecond/100/len(line))))
	if perSecond == 0 {
		text = []byte(strings.Repeat(line, 100))
	}
	step := time.NewTicker(10 * time.Millisecond)
	for len(stop) == 0 {
		_, _ = os.Stdout.Write(text)
		if perSecond > 0 {
			<-step.C
		}
	}
}

// sluggard is a reader of the log who reads nothing until the channel is closed.
type sluggard chan struct{}

func (s sluggard) Write(p []byte) (int, error) {
	<-s
	return len(p), nil
}

// chatter is workers that print, with a log that is read and with one that is not.
func chatter(ctx context.Context, b *bench) (got result, err error) {
	const rate = 1 << 20
	own, err := os.Executable()
	if err != nil {
		return got, err
	}
	read, peak1, err := b.chatter(ctx, io.Discard, func() {}, "--workers", "64", "--start-timeout", "60s", "--", own, printer, strconv.Itoa(rate))
	if err != nil {
		return got, err
	}
	nobody := make(sluggard)
	unread, peak2, err := b.chatter(ctx, nobody, func() { close(nobody) }, "--workers", "2", "--", own, printer, "0")
	got.measured = fmt.Sprintf("at most %.1f MiB and %.1f MiB", float64(peak1)/(1<<20), float64(peak2)/(1<<20))
	got.notes = []string{"64 workers: " + read, "log not read: " + unread}
	got.kept = max(peak1, peak2) <= 48<<20
	return got, err
}

// chatter runs one such instance and says what it cost its master. An instance ends
// when its log has been read: the reader is told.
func (b *bench) chatter(ctx context.Context, log io.Writer, end func(), flags ...string) (said string, peak int64, err error) {
	const span = 10 * time.Second
	s, err := b.sceneTo(ctx, log, 1, flags...)
	defer func() {
		end()
		err = errors.Join(err, s.End())
	}()
	if err != nil {
		return "", 0, err
	}
	status, err := s.Instances[0].AwaitReady(ctx)
	if err != nil {
		return "", 0, err
	}
	asking, stop := context.WithCancel(ctx)
	slowest, done := time.Duration(0), make(chan error, 1)
	// Ends with asking; received below.
	go func() {
		var err error
		slowest, err = s.Instances[0].SlowestAnswer(asking, 200*time.Millisecond)
		done <- err
	}()
	used, _, err := usedDuring(ctx, span, []int{status.MasterPID}, nil)
	stop()
	if err = errors.Join(err, <-done); err != nil {
		return "", 0, err
	}
	heal, err := respawnOnceOf(ctx, s.Watches[0], 0, len(status.Workers))
	if err != nil {
		return "", 0, err
	}
	if peak, err = stage.PeakRSS(status.MasterPID); err != nil {
		return "", 0, err
	}
	return fmt.Sprintf("%.0f %% of a core, ps within %s, a killed worker back in %s",
		100*used.Seconds()/span.Seconds(), ms(slowest), ms(heal)), peak, nil
}
