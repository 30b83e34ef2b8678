package supervisor

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor/event"
	"revenant/supervisor/notify"
	"revenant/supervisor/output"
	"revenant/worker/scoreboard"
)

// printing is the main function of a worker that prints.
func printing(how string, signals chan os.Signal, master *notify.Client) int {
	fmt.Println("first")
	fmt.Fprint(os.Stderr, "\x1b[31mred\xff\n{\"a\":1}\n")
	fmt.Println(strings.Repeat("x", 1<<20))
	_ = master.Send(notify.Ready)
	switch how {
	case "print and go on": // a process that nobody sweeps has the pipes still
		stray := exec.Command("sleep", "600")
		stray.Stdout, stray.Stderr = os.Stdout, os.Stderr
		stray.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if stray.Start() == nil {
			_ = os.WriteFile(os.Getenv(notesVariable), fmt.Appendln(nil, stray.Process.Pid), 0o600)
		}
	case "flood":
		out := bufio.NewWriterSize(os.Stdout, 64<<10)
		for n := 0; len(signals) == 0; n++ {
			fmt.Fprintln(out, "flood", n)
		}
		_ = out.Flush()
	}
	code := serveUntil(signals, master)
	for n := range 100 {
		fmt.Println("last", n)
	}
	fmt.Print("no end")
	return code
}

// printed reads lines until one has this text.
func printed(t *testing.T, m *Master, last string) (lines []output.Line) {
	t.Helper()
	f := m.Output().Follow()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		more, lost := f.Next(ctx)
		if len(more) == 0 || lost > 0 {
			t.Fatalf("%q was never printed; %d lines were lost, read were %d", last, lost, len(lines))
		}
		lines = append(lines, more...)
		if slices.ContainsFunc(more, func(l output.Line) bool { return string(l.Text) == last }) {
			return lines
		}
	}
}

func TestWhatAWorkerPrintsIsTakenLineByLineWithWhoAndWhere(t *testing.T) {
	i := runReal(t, Config{Settings: Settings{Workers: 2}}, "print")
	s := i.awaitReady(2)
	_ = unix.Kill(s.Workers[1].PID, unix.SIGUSR2)
	e := i.await("the exit", is(event.WorkerExited))
	lines := printed(t, i.Master, "no end")
	var out, errs []output.Line
	for _, l := range lines {
		switch {
		case l.Worker != e.Worker:
		case l.Stream == output.Stdout:
			out = append(out, l)
		default:
			errs = append(errs, l)
		}
	}
	if len(out) != 1+1+100+1 || len(errs) != 2 {
		t.Fatalf("%d lines of stdout and %d of stderr", len(out), len(errs))
	}
	if l := out[0]; string(l.Text) != "first" || l.Source != (output.Source{Worker: e.Worker, Slot: 1, Generation: 1}) {
		t.Errorf("the first line is %+v", l)
	}
	if l := out[1]; l.Size != 1<<20 || len(l.Text) != output.MaxLine {
		t.Errorf("of a line of 1 MiB are kept %d bytes, and it is said to have %d", len(l.Text), l.Size)
	}
	if !bytes.Equal(errs[0].Text, []byte("\x1b[31mred\xff")) || string(errs[1].Text) != `{"a":1}` {
		t.Errorf("stderr is %q, %q", errs[0].Text, errs[1].Text)
	}
}

// What a worker printed last explains its end, so it is there when that is told,
// also when somebody else has its pipes still.
func TestLastLinesAreThereWhenTheEndIsTold(t *testing.T) {
	i := runReal(t, Config{Settings: Settings{Workers: 1}}, "print and go on")
	s := i.awaitReady(1)
	_ = unix.Kill(s.Workers[0].PID, unix.SIGUSR2)
	last := i.await("the exit", is(event.WorkerExited)).LastLines
	if len(last) != output.TailLines || last[output.TailLines-1] != "no end" || last[0] != "last 81" {
		t.Errorf("the last lines are %q", last)
	}
	if !lives(i.noted()[0]) {
		t.Fatal("the process that has the pipes does not live: nothing was tested")
	}
}

func TestFloodStopsNeitherItsWorkerNorTheMaster(t *testing.T) {
	i := runReal(t, Config{Settings: Settings{Workers: 2}}, "flood")
	i.awaitReady(2)
	lazy := i.Output().Follow() // and reads nothing
	before := i.Output().Added()
	awaitTrue(t, "many lines more", func() bool {
		i.awaitReady(2) // the loop answers
		return i.Output().Added() > before+200_000
	})
	lines, lost := lazy.Rest()
	if lost == 0 || len(lines) == 0 {
		t.Errorf("a reader that does not read lost %d lines and gets %d", lost, len(lines))
	}
	if err := i.Kill(context.Background(), 1, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	i.await("the exit", is(event.WorkerExited))
	i.awaitReady(2)
}

func TestPassthroughLeavesWorkersOurOwnOutput(t *testing.T) {
	world := newWorld(deaf)
	m := newMaster(Config{}, world.platform())
	m.platform.pipe = systemPipe
	m.cfg.Program.LogPassthrough = true
	o, ends, err := m.openOutput(scoreboard.Identity{Worker: 1})
	if o != nil || ends != [2]int{1, 2} || err != nil {
		t.Errorf("the worker prints into %v, %v", ends, err)
	}
	l := launch{files: []uintptr{0, 1, 7}} // 7 was put in the place of stderr
	l.prints([2]int{30, 31})
	if !slices.Equal(l.files, []uintptr{0, 30, 7}) {
		t.Errorf("the worker's descriptors are %v", l.files)
	}
}

func TestNextMasterGoesOnReadingWhatOrphansPrint(t *testing.T) {
	world := newWorld(deaf)
	dead := newMaster(Config{}, world.platform())
	dead.platform.pipe = systemPipe
	var stored []notify.NamedFile
	dead.platform.store = func(name string, fds ...int) {
		for _, fd := range fds {
			own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			stored = append(stored, notify.NamedFile{Name: name, FD: own})
		}
	}
	o, ends, err := dead.openOutput(scoreboard.Identity{Worker: 7, Slot: 2, Generation: 4})
	if err != nil {
		t.Fatal(err)
	}
	o.close() // by its death
	if _, err := unix.Write(ends[1], []byte("while nobody was there\nhalf ")); err != nil {
		t.Fatalf("the worker cannot print while there is no master: %v", err)
	}
	world.kept[o.name] = true
	next := newMaster(Config{}, world.platform())
	adopted := next.adoptOutputs(append(stored, notify.NamedFile{Name: "board-7", FD: -1}))
	if _, err := unix.Write(ends[1], []byte("a line\n")); err != nil {
		t.Fatal(err)
	}
	lines := printed(t, next, "half a line")
	if want := (output.Source{Worker: 7, Slot: 2, Generation: 4, Stream: output.Stderr}); lines[0].Source != want || string(lines[0].Text) != "while nobody was there" {
		t.Errorf("the first line is %+v", lines[0])
	}
	closeAll(ends[:])
	adopted[7].closed.Wait()
	awaitTrue(t, "the pipes are taken back from the keeper", func() bool {
		world.mu.Lock()
		defer world.mu.Unlock()
		return !world.kept[o.name]
	})
}

// leavingPipe is one stream of a worker in whose first line its reader is.
func leavingPipe(t *testing.T) (p *outputPipe, ring *output.Ring, print func(string)) {
	t.Helper()
	r, w, err := systemPipe()
	if err != nil {
		t.Fatal(err)
	}
	ring = output.NewRing(outputKept)
	p = &outputPipe{file: os.NewFile(uintptr(r), "pipe"), ring: ring, tail: new(output.Tail), left: new(atomic.Bool)}
	writer := os.NewFile(uintptr(w), "worker")
	t.Cleanup(func() { _ = p.file.Close(); _ = writer.Close() })
	p.split.Took(copy(p.split.Space(), "half "), p.add)
	_ = p.file.SetReadDeadline(time.Unix(1, 0))
	return p, ring, func(text string) {
		if _, err := writer.WriteString(text); err != nil {
			t.Error(err)
		}
	}
}

func texts(ring *output.Ring) (texts []string) {
	lines, _ := ring.Follow().Rest()
	for _, l := range lines {
		texts = append(texts, string(l.Text))
	}
	return texts
}

func TestMasterThatIsSucceededReadsToTheEndOfALineAndNoFurther(t *testing.T) {
	p, ring, print := leavingPipe(t)
	print("a line\nthe next one\n")
	p.left.Store(true)
	p.read()
	if got := texts(ring); !slices.Equal(got, []string{"half a line"}) {
		t.Errorf("it has read %q", got)
	}
	rest := make([]byte, 100)
	_ = p.file.SetReadDeadline(time.Time{})
	if n, _ := p.file.Read(rest); string(rest[:n]) != "the next one\n" {
		t.Errorf("in the pipe it left %q", rest[:n])
	}
	// The negative twin: of a worker that has ended, everything is read.
	p, ring, print = leavingPipe(t)
	print("a line\nthe next one\n")
	p.read()
	if got := texts(ring); !slices.Equal(got, []string{"half a line", "the next one"}) {
		t.Errorf("of a worker that has ended it has read %q", got)
	}
}

func TestNoWorkerWaitsForAMasterThatLeavesSlowly(t *testing.T) {
	p, ring, print := leavingPipe(t)
	o := &workerOutput{read: []*os.File{p.file}, pipes: []*outputPipe{p}}
	p.left = &o.left
	m := newMaster(Config{}, newWorld(deaf).platform())
	m.children[1] = &child{output: o}
	m.leaveOutput()
	for range 32 {
		print(strings.Repeat("x", output.MaxLine-1) + "\n") // returns, or the test ends by its limit
	}
	awaitTrue(t, "what was printed is read", func() bool { return ring.Added() > 8 })
}

func TestWorkerMayPrintAQuarterOfAMiBWhileThereIsNoMaster(t *testing.T) {
	r, w, err := systemPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll([]int{r, w})
	size, err := unix.FcntlInt(uintptr(w), unix.F_GETPIPE_SZ, 0)
	if err != nil || size < pipeSize && os.Geteuid() == 0 {
		t.Errorf("the pipe holds %d bytes, %v; want %d", size, err, pipeSize)
	}
	if flags, err := unix.FcntlInt(uintptr(w), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK != 0 {
		t.Errorf("the worker's end does not wait, which programs are not used to: flags %#o, %v", flags, err)
	}
}
