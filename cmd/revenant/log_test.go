package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"revenant/supervisor"
	"revenant/supervisor/control"
	"revenant/supervisor/supervisortest"
)

// gate is a reader of stderr that can stall and be gone.
type gate struct {
	mu   sync.Mutex
	err  error
	text bytes.Buffer
}

func (g *gate) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err != nil {
		return 0, g.err
	}
	return g.text.Write(p)
}

func (g *gate) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.err = err
}

func newAsyncWriter(to io.Writer) *asyncWriter {
	w := &asyncWriter{to: to}
	w.begin(slog.NewTextHandler(to, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	return w
}

func TestLinesThatNobodyReadsAreCountedAndSaidLater(t *testing.T) {
	g := &gate{}
	w := newAsyncWriter(g)
	g.mu.Lock() // stalled
	for range waitingLines + 10 {
		if n, err := w.Write([]byte("line\n")); n != 5 || err != nil {
			t.Fatalf("a write returns %d, %v", n, err)
		}
	}
	lost := w.lost.Load()
	if lost < 9 || lost > 10 { // the goroutine holds one, if it got that far
		t.Errorf("%d lines were lost, want about 10", lost)
	}
	g.mu.Unlock()
	w.flush()
	want := strings.Repeat("line\n", int(waitingLines+10-lost)) + "level=WARN msg=\"log lines lost: stderr was not read\" count=" + fmt.Sprintln(lost)
	if g.text.String() != want {
		t.Errorf("written was\n%s", g.text.String())
	}

	g.fail(errors.New("gone"))
	g.text.Reset()
	for range 3 {
		_, _ = w.Write([]byte("line\n"))
	}
	w.flush()
	g.fail(nil)
	_, _ = w.Write([]byte("back\n"))
	w.flush()
	if want := "back\nlevel=WARN msg=\"log lines lost: gone\" count=3\n"; g.text.String() != want {
		t.Errorf("written was %q, want %q", g.text.String(), want)
	}
}

// readBadly begins an instance whose stderr is a pipe that is full, and which
// nobody reads.
func readBadly(t *testing.T) (*piped, *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	p := beginPiped(t, w)
	t.Cleanup(func() { _ = w.Close() })
	return p, r
}

// beginPiped begins an instance with that stderr.
func beginPiped(t *testing.T, w *os.File) *piped {
	t.Helper()
	p := &piped{Client: nil}
	dir := openDir(t)
	p.Cmd = exec.Command(supervisortest.Binary(t), "run", "--runtime-dir", dir, "--name", "t", "--listen", "tcp://127.0.0.1:0", "--workers", "2", "--chaos")
	p.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	p.Stderr = w
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	p.exited = make(chan struct{})
	// Ends with the process, which the cleanup ends.
	go func() { _ = p.Wait(); close(p.exited) }()
	t.Cleanup(func() { _ = p.Process.Kill(); <-p.exited })
	p.Client = control.Dial(controlSocket(dir+"/t"), func() bool { return claimed(dir + "/t") })
	p.w = w
	return p
}

// piped is an instance whose stderr the test holds both ends of.
type piped struct {
	*exec.Cmd
	*control.Client
	w      *os.File
	exited chan struct{}
}

func (p *piped) await(t *testing.T, what string, good func(supervisor.Status) bool) (s supervisor.Status) {
	t.Helper()
	awaitTrue(t, what, func() bool {
		now, err := p.Status(t.Context())
		s = now
		return err == nil && good(now)
	})
	return s
}

// fill leaves no room in a pipe. The writing end's file description is shared
// with the instance, so it is not made non-blocking: another one is opened.
func fill(t *testing.T, w *os.File) {
	t.Helper()
	raw, err := w.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) {
		own, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(own)
		for _, size := range []int{4096, 1} {
			for {
				if _, err := unix.Write(own, bytes.Repeat([]byte("."), size)); err != nil {
					break
				}
			}
		}
	})
}

func TestStalledReaderOfStderrStopsNobody(t *testing.T) {
	p, r := readBadly(t)
	before := p.await(t, "ready", isReady)
	fill(t, p.w)
	for range 3 {
		signalNow(t, before.Workers[0].PID, unix.SIGKILL)
		signalNow(t, before.MasterPID, unix.SIGKILL)
		before = p.await(t, "healed", func(s supervisor.Status) bool { return s.Generation > before.Generation && isReady(s) })
	}
	signalNow(t, p.Process.Pid, unix.SIGTERM)
	<-p.exited
	if code := p.ProcessState.ExitCode(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	_ = r
}

func TestClosedReaderOfStderrEndsNobody(t *testing.T) {
	p, r := readBadly(t)
	before := p.await(t, "ready", isReady)
	_ = r.Close()
	for range 2 {
		signalNow(t, before.Workers[0].PID, unix.SIGKILL)
		signalNow(t, before.MasterPID, unix.SIGKILL)
		after := p.await(t, "healed", func(s supervisor.Status) bool { return s.Generation > before.Generation && isReady(s) })
		if after.Generation != before.Generation+1 {
			t.Errorf("%d masters were needed", after.Generation-before.Generation)
		}
		before = after
	}
	signalNow(t, before.Workers[1].PID, unix.SIGKILL)
	p.await(t, "healed", func(s supervisor.Status) bool { return isReady(s) && s.Workers[1].PID != before.Workers[1].PID })
	signalNow(t, p.Process.Pid, unix.SIGTERM)
	<-p.exited
	if code := p.ProcessState.ExitCode(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

// pieces are writes, one by one.
type pieces [][]byte

func (p *pieces) Write(b []byte) (int, error) {
	*p = append(*p, bytes.Clone(b))
	return len(b), nil
}

// A pipe that several processes write into mixes what is more than PIPE_BUF.
func TestRecordsAreWrittenInPiecesThatAPipeDoesNotMix(t *testing.T) {
	var p pieces
	w := newAsyncWriter(&p)
	short, long := strings.Repeat("s", 99)+"\n", strings.Repeat("l", 10_000)+"\n"
	text := strings.Repeat(short, 100) + long + short + long + long + strings.Repeat(short, 40)
	w.writeAll([]byte(text))
	whole := ""
	for _, piece := range p {
		whole += string(piece)
		if lines := bytes.Count(piece, []byte{'\n'}); len(piece) > 4096 && lines != 1 || piece[len(piece)-1] != '\n' {
			t.Errorf("a piece has %d bytes of %d lines and ends with %q", len(piece), lines, piece[len(piece)-1])
		}
	}
	if whole != text || len(p) > 9 {
		t.Errorf("%d bytes became %d in %d pieces", len(text), len(whole), len(p))
	}
}

// disk takes so many bytes and is full.
type disk struct {
	bytes.Buffer
	room int
}

func (d *disk) Write(p []byte) (int, error) {
	n := min(len(p), d.room)
	d.room -= n
	d.Buffer.Write(p[:n])
	if n < len(p) {
		return n, unix.ENOSPC
	}
	return n, nil
}

func TestHalfALineOnAFullDiskIsEndedBeforeTheNext(t *testing.T) {
	d := &disk{room: 8}
	w := newAsyncWriter(d)
	w.writeAll([]byte("first\nsecond\nthird\n"))
	if lost := w.lost.Load(); lost != 2 {
		t.Errorf("%d lines count as lost, want 2", lost)
	}
	w.writeAll([]byte("full\n"))
	if lost := w.lost.Load(); lost != 3 {
		t.Errorf("%d lines count as lost, want 3", lost)
	}
	d.room = 1000
	w.writeAll([]byte("fourth\n"))
	w.flush()
	if want := "first\nse\nfourth\nlevel=WARN msg=\"log lines lost: no space left on device\" count=3\n"; d.String() != want {
		t.Errorf("on the disk is %q, want %q", d.String(), want)
	}
}

func TestFullDiskUnderTheLogStopsNobody(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	p := beginPiped(t, full)
	before := p.await(t, "ready", isReady)
	signalNow(t, before.Workers[0].PID, unix.SIGQUIT) // it prints a lot
	p.await(t, "healed", func(s supervisor.Status) bool { return isReady(s) && s.Workers[0].PID != before.Workers[0].PID })
	signalNow(t, p.Process.Pid, unix.SIGTERM)
	<-p.exited
	if code := p.ProcessState.ExitCode(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}
