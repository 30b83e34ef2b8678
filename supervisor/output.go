package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor/notify"
	"revenant/supervisor/output"
	"revenant/worker/scoreboard"
)

// What workers print comes through two pipes for each. Their read ends are at the
// keeper too, so that a worker neither dies of SIGPIPE nor stops when a master
// dies: what it prints meanwhile waits in the pipe for the next one. A pipe is
// always read; what nobody takes from us in time is overwritten in the ring.

const (
	// outputKept is how much of what workers print is kept for late readers.
	outputKept = 4 << 20
	// pipeSize is what a worker may print while there is no master. The kernel may
	// allow less.
	pipeSize = 256 << 10
)

var streams = [...]output.Stream{output.Stdout, output.Stderr}

// workerOutput is what the master has of a worker's pipes. A nil one is that of a
// worker which prints where we do.
type workerOutput struct {
	name   string // at the keeper
	read   []*os.File
	pipes  []*outputPipe // what reads them
	tail   *output.Tail
	closed sync.WaitGroup
	left   atomic.Bool // to the next master
}

// outputName says whose pipes a descriptor at the keeper is.
func outputName(w scoreboard.Identity) string {
	return fmt.Sprintf("output-%d-%d-%d", w.Worker, w.Slot, w.Generation)
}

// tailName says whose last lines a descriptor at the keeper holds.
func tailName(worker uint64) string { return fmt.Sprintf("tail-%d", worker) }

func readTailName(name string) (worker uint64, ok bool) {
	n, err := fmt.Sscanf(name, "tail-%d", &worker)
	return worker, n == 1 && err == nil
}

func readOutputName(name string) (w scoreboard.Identity, ok bool) {
	n, err := fmt.Sscanf(name, "output-%d-%d-%d", &w.Worker, &w.Slot, &w.Generation)
	return w, n == 3 && err == nil
}

// Output is the ring of what workers print, for any goroutine.
func (m *Master) Output() *output.Ring { return m.output }

// ErrPassthrough says that there are no lines of workers, and why.
var ErrPassthrough = errors.New("workers print to the instance's own stdout and stderr (--log-passthrough): look there")

// HasOutput tells whether there can be lines of a worker, of any for 0.
func (m *Master) HasOutput(ctx context.Context, worker uint64) error {
	var err error
	asked := m.ask(ctx, func() {
		switch {
		case worker > m.state.workers.Load():
			err = &UnknownWorkerError{worker}
		case m.cfg.Program.LogPassthrough && m.output.Added() == 0:
			err = ErrPassthrough
		}
	})
	if asked != nil {
		return asked
	}
	return err
}

// openOutput makes a worker's pipes and hands their read ends to the keeper,
// before the worker can write into them. outputBegins must be called.
func (m *Master) openOutput(who scoreboard.Identity) (*workerOutput, [2]int, error) {
	ends := [2]int{1, 2}
	if m.platform.pipe == nil || m.cfg.Program.LogPassthrough {
		return nil, ends, nil
	}
	o := &workerOutput{name: outputName(who)}
	var fds []int
	for i := range streams {
		r, w, err := m.platform.pipe()
		if err != nil {
			o.close()
			closeAll(ends[:i])
			return nil, ends, fmt.Errorf("cannot make the pipes for its output: %w", err)
		}
		if step := m.cfg.Program.Step; step != nil && step.User != nil {
			_ = unix.Fchown(w, step.User.UID, step.User.GID) // for those who open /dev/stderr
		}
		o.read, ends[i] = append(o.read, os.NewFile(uintptr(r), o.name)), w
		fds = append(fds, r)
	}
	m.platform.store(o.name, fds...)
	o.tail = m.openTail(who.Worker)
	return o, ends, nil
}

// openTail makes what keeps a worker's last lines over the death of a master. In
// want of memory this master keeps them alone.
func (m *Master) openTail(worker uint64) *output.Tail {
	fd, err := unix.MemfdCreate("revenant-tail", unix.MFD_CLOEXEC)
	if err != nil {
		return new(output.Tail)
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, int64(output.TailSize)); err != nil {
		return new(output.Tail)
	}
	tail, err := output.OpenTail(fd)
	if err != nil {
		return new(output.Tail)
	}
	m.platform.store(tailName(worker), fd)
	return tail
}

// systemPipe is a pipe whose reader does not wait.
func systemPipe() (r, w int, err error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return -1, -1, err
	}
	_, _ = unix.FcntlInt(uintptr(p[0]), unix.F_SETPIPE_SZ, pipeSize)
	_ = unix.SetNonblock(p[0], true)
	return p[0], p[1], nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

// prints puts a worker's output where the ends say, unless it was given something
// else in that place.
func (l *launch) prints(ends [2]int) {
	for i, end := range ends {
		if l.files[i+1] == uintptr(i+1) {
			l.files[i+1] = uintptr(end)
		}
	}
}

// outputBegins closes our copies of what the worker writes to, and reads it when there
// is a worker.
func (m *Master) outputBegins(o *workerOutput, who scoreboard.Identity, ends [2]int, err error) {
	if o == nil {
		return
	}
	closeAll(ends[:])
	if err != nil {
		m.forgetOutput(who.Worker, o)
		o.close()
		return
	}
	m.listenTo(o, who)
}

// listenTo reads a worker's pipes until their writers have closed them or end is
// called.
func (m *Master) listenTo(o *workerOutput, who scoreboard.Identity) {
	for i, f := range o.read {
		p := &outputPipe{file: f, ring: m.output, tail: o.tail, left: &o.left,
			source: output.Source{Worker: who.Worker, Slot: who.Slot, Generation: who.Generation, Stream: streams[i]}}
		o.pipes = append(o.pipes, p)
		o.closed.Go(p.read) // ends as listenTo says
	}
}

// end reads what the worker left in its pipes and closes them. It is called when
// the worker has ended, from the goroutine that waited for it.
func (o *workerOutput) end() {
	if o == nil {
		return
	}
	o.interrupt()
	o.closed.Wait()
}

func (o *workerOutput) interrupt() {
	for _, f := range o.read {
		_ = f.SetReadDeadline(time.Unix(1, 0))
	}
}

// leaveOutput reads no more of what workers print, all of which is in the ring
// then: the rest is the next master's, who finds it in the pipes.
func (m *Master) leaveOutput() {
	var all []*workerOutput
	for _, c := range m.children {
		all = append(all, c.output)
	}
	for _, o := range m.orphans {
		all = append(all, o.output)
	}
	all = slices.DeleteFunc(all, func(o *workerOutput) bool { return o == nil })
	for _, o := range all {
		o.left.Store(true)
		o.interrupt()
	}
	for _, o := range all {
		o.closed.Wait()
	}
	go relieve(all) // ends with the process
}

// relieve reads on where a pipe fills after all: those who read the log or follow
// it too slowly keep this process for a while, and workers wait for no reader.
func relieve(left []*workerOutput) {
	for range time.Tick(10 * time.Millisecond) {
		for _, o := range left {
			if o.left.Load() && slices.ContainsFunc(o.pipes, (*outputPipe).fills) {
				o.left.Store(false)
				for _, p := range o.pipes {
					_ = p.file.SetReadDeadline(time.Time{})
					o.closed.Go(p.read)
				}
			}
		}
	}
}

func (o *workerOutput) close() {
	for _, f := range o.read {
		_ = f.Close()
	}
}

// lastLines is what the worker printed last, harmless to show; none of a worker
// that prints where we do. After end it is complete.
func (o *workerOutput) lastLines() []string {
	if o == nil {
		return nil
	}
	return o.tail.Lines()
}

// outputPipe is one stream of a worker.
type outputPipe struct {
	file   *os.File
	split  output.Splitter
	source output.Source
	ring   *output.Ring
	tail   *output.Tail
	left   *atomic.Bool
}

func (p *outputPipe) read() {
	defer func() {
		p.split.End(p.add)
		if !p.left.Load() {
			_ = p.file.Close()
			p.split = output.Splitter{} // whoever remembers the worker for a while keeps no buffers
		}
	}()
	for {
		space := p.split.Space()
		n, err := p.file.Read(space)
		if n > 0 {
			p.split.Took(n, p.add)
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && p.left.Load():
			p.readLine()
			return
		case errors.Is(err, os.ErrDeadlineExceeded):
			p.readRest()
			return
		case err != nil:
			return
		case n == len(space):
			runtime.Gosched() // a chatty worker does not keep the loop waiting
		}
	}
}

// readRest takes what is in the pipe. A process that has left the worker's group
// may still write: more than a pipe holds is not waited for.
func (p *outputPipe) readRest() {
	p.take(func(taken int) []byte {
		if taken >= pipeSize {
			return nil
		}
		return p.split.Space()
	})
}

// readLine takes the rest of a line that has begun, as far as it is there, and
// leaves the next one whole.
func (p *outputPipe) readLine() {
	p.take(func(taken int) []byte {
		if !p.split.Within() || taken >= output.MaxLine {
			return nil
		}
		return p.split.Space()[:1]
	})
}

// fills tells whether the half of the pipe is taken.
func (p *outputPipe) fills() (yes bool) {
	raw, err := p.file.SyscallConn()
	if err != nil {
		return false
	}
	_ = raw.Control(func(fd uintptr) {
		held, err := unix.IoctlGetInt(int(fd), unix.TIOCINQ)
		size, sizeErr := unix.FcntlInt(fd, unix.F_GETPIPE_SZ, 0)
		yes = err == nil && sizeErr == nil && held >= size/2
	})
	return yes
}

// take reads what is in the pipe, while there is space for it.
func (p *outputPipe) take(space func(taken int) []byte) {
	raw, err := p.file.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		for taken := 0; ; {
			into := space(taken)
			if len(into) == 0 {
				return
			}
			n, err := unix.Read(int(fd), into)
			if err == unix.EINTR {
				continue
			}
			if n <= 0 {
				return
			}
			p.split.Took(n, p.add)
			taken += n
		}
	})
}

func (p *outputPipe) add(text []byte, size int) {
	p.tail.Add(text)
	p.ring.Add(output.Line{Source: p.source, Time: time.Now(), Text: text, Size: size})
}

// forgetOutput takes all that is of a dead worker's output back from the keeper.
func (m *Master) forgetOutput(worker uint64, o *workerOutput) {
	if o != nil {
		m.platform.remove(o.name)
		m.platform.remove(tailName(worker))
		o.tail.Close()
	}
}

// adoptOutputs goes on to read what orphans print, where the dead master stopped.
// It returns the pipes by worker.
func (m *Master) adoptOutputs(stored []notify.NamedFile) map[uint64]*workerOutput {
	adopted := m.adoptTails(stored)
	for _, f := range stored {
		who, ok := readOutputName(f.Name)
		if !ok {
			continue
		}
		_ = unix.SetNonblock(f.FD, true)
		o := adopted[who.Worker]
		if o == nil {
			o = &workerOutput{tail: new(output.Tail)}
			adopted[who.Worker] = o
		}
		o.name = f.Name
		o.read = append(o.read, f.File())
		if len(o.read) < len(streams) {
			continue
		}
		m.listenTo(o, who)
		// Ends with the orphan, or with those that have its output still; or with this
		// process.
		go func() {
			o.closed.Wait()
			if !o.left.Load() {
				m.platform.remove(o.name)
			}
		}()
	}
	return adopted
}

// adoptTails finds what orphans printed last.
func (m *Master) adoptTails(stored []notify.NamedFile) map[uint64]*workerOutput {
	adopted := make(map[uint64]*workerOutput)
	for _, f := range stored {
		worker, ok := readTailName(f.Name)
		if !ok {
			continue
		}
		tail, err := output.OpenTail(f.FD)
		_ = unix.Close(f.FD)
		if err != nil {
			m.platform.remove(f.Name)
			continue
		}
		adopted[worker] = &workerOutput{tail: tail}
	}
	return adopted
}
