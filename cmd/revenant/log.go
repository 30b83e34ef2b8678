package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/lmittmann/tint"
	"github.com/mattn/go-isatty"
	"golang.org/x/sys/unix"

	"revenant/supervisor/event"
)

// stderr is where everything that this process says goes. It is made when first
// used.
var stderr = &asyncWriter{to: os.Stderr}

// newLogger writes to stderr: for people on a terminal, JSON elsewhere. It
// becomes the process's default, through which libraries speak.
func newLogger(format, component string) *slog.Logger {
	stderr.begin(newHandler(os.Stderr, format).WithAttrs([]slog.Attr{slog.String("component", component)}))
	log := slog.New(newHandler(stderr, format)).With("component", component)
	slog.SetDefault(log)
	return log
}

// inJSON tells whether the log is for programs.
func inJSON(format string) bool {
	return format == "json" || format == "auto" && !isatty.IsTerminal(os.Stderr.Fd())
}

func newHandler(to io.Writer, format string) slog.Handler {
	tty := isatty.IsTerminal(os.Stderr.Fd())
	if inJSON(format) {
		return slog.NewJSONHandler(to, &slog.HandlerOptions{Level: slog.LevelInfo})
	}
	return tint.NewHandler(to, &tint.Options{
		Level: slog.LevelInfo, TimeFormat: "15:04:05.000", NoColor: !tty || os.Getenv("NO_COLOR") != "",
	})
}

const (
	waitingLines = 256         // that a reader of stderr may be behind
	lastLines    = time.Second // for what is waiting when the process ends
	noticeAfter  = time.Second // between two notices of lost lines while lines are waiting
)

// asyncWriter hands lines to a goroutine that writes them. A reader of stderr
// that stalls, or is gone, costs lines, which are counted, and never stops the
// process: its descriptor is shared with others, so it cannot be made to fail
// instead of to wait. Before begin it writes directly.
type asyncWriter struct {
	to    io.Writer
	lines chan line
	lost  atomic.Int64
	torn  bool  // what was written last ended within a line; drain's own
	err   error // why something could not be written last; drain's own
}

// line is what to write, one or many, or with done only a place in the queue.
type line struct {
	text []byte
	done chan<- struct{}
}

// begin starts the goroutine. It is called before the writer is shared, and
// counts once. The notice of lost lines writes directly.
func (w *asyncWriter) begin(notice slog.Handler) {
	if w.lines != nil {
		return
	}
	w.lines = make(chan line, waitingLines)
	// Lives as long as the process; flush waits for what it has to do.
	go w.drain(notice)
}

// Write never waits and never fails.
func (w *asyncWriter) Write(p []byte) (int, error) {
	if w.lines == nil {
		return w.to.Write(p)
	}
	select {
	case w.lines <- line{text: bytes.Clone(p)}:
	default:
		w.lost.Add(1)
	}
	return len(p), nil
}

// writeAll writes many lines at once and waits until that was done, however long
// it takes. The text is the caller's again afterwards.
func (w *asyncWriter) writeAll(text []byte) {
	if w.lines == nil {
		_, _ = w.to.Write(text)
		return
	}
	done := make(chan struct{})
	w.lines <- line{text, done}
	<-done
}

func (w *asyncWriter) drain(notice slog.Handler) {
	writeInBackground()
	noticed := time.Now()
	for l := range w.lines {
		works := w.put(l)
		// What was lost is told behind what was waiting.
		if works && (len(w.lines) == 0 || l.done != nil || time.Since(noticed) > noticeAfter) {
			noticed = time.Now()
			w.tell(w.lost.Swap(0), notice)
		}
		if l.done != nil {
			close(l.done)
		}
	}
}

// put writes lines and tells whether that worked. A full disk may take the half of
// one; it is ended before the next.
func (w *asyncWriter) put(l line) bool {
	text := l.text
	if w.torn && len(text) > 0 {
		if _, err := w.to.Write([]byte{'\n'}); err != nil {
			return w.lose(text, err)
		}
		w.torn = false
	}
	for len(text) > 0 {
		piece := text[:wholeLines(text)]
		n, err := w.to.Write(piece)
		if n > 0 {
			w.torn = piece[n-1] != '\n'
		}
		if err != nil {
			return w.lose(text[n:], err)
		}
		text = text[len(piece):]
	}
	return true
}

// lose counts the lines that were not written to their end.
func (w *asyncWriter) lose(text []byte, err error) bool {
	w.lost.Add(int64(bytes.Count(text, []byte{'\n'})))
	w.err = err
	return false
}

// unmixed is how much is written at once. Keeper, masters and workers share
// stderr, and of more than that (PIPE_BUF) a pipe that is nearly full takes a part,
// then something of another process, and then the rest.
const unmixed = 4096

// wholeLines is the length of as many lines as are written at once, or of one that
// is longer.
func wholeLines(text []byte) int {
	if len(text) <= unmixed {
		return len(text)
	}
	if end := bytes.LastIndexByte(text[:unmixed], '\n'); end >= 0 {
		return end + 1
	}
	if end := bytes.IndexByte(text, '\n'); end >= 0 {
		return end + 1
	}
	return len(text)
}

// writeInBackground makes the caller's goroutine one that a terminal with "stty
// tostop" lets write while others have its foreground. With SIGTTOU not blocked,
// such a write sends us the signal, which means "one worker less", and is then
// tried again, for ever.
func writeInBackground() {
	runtime.LockOSThread()
	var set unix.Sigset_t
	set.Val[0] = 1 << (unix.SIGTTOU - 1)
	_ = unix.PthreadSigmask(unix.SIG_BLOCK, &set, nil)
}

// tell says how many lines were lost, or keeps the number for later.
func (w *asyncWriter) tell(n int64, notice slog.Handler) {
	if n == 0 {
		return
	}
	why := "stderr was not read"
	if w.err != nil {
		why = cause(w.err).Error()
	}
	r := slog.NewRecord(time.Now(), slog.LevelWarn, "log lines lost: "+why, 0)
	r.AddAttrs(slog.Int64("count", n))
	if notice.Handle(context.Background(), r) != nil {
		w.lost.Add(n)
		return
	}
	w.err = nil
}

// flush waits until everything said so far was written, for a moment at most.
func (w *asyncWriter) flush() {
	if w.lines == nil {
		return
	}
	limit := time.NewTimer(lastLines)
	defer limit.Stop()
	done := make(chan struct{})
	select {
	case w.lines <- line{done: done}:
	case <-limit.C:
		return
	}
	select {
	case <-done:
	case <-limit.C:
	}
}

// logged is how many events the log may be behind.
const logged = 1024

// logEvents writes the stream to the log until it ends. It returns a function
// that ends the stream and waits until the rest was logged.
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
		<-done
	}
}
