package stage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// Process is a child of the script.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // valid after done
}

// StartProcess starts a child in a process group of its own, so that Ctrl-C
// reaches the script alone and the script decides who ends when. Should the
// script be killed, the child is told to end: the signal comes when the thread
// that started it ends, so call this from a goroutine locked to its thread.
func StartProcess(cmd *exec.Cmd) (*Process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = !cmd.SysProcAttr.Setsid // a session has a group of its own
	cmd.SysProcAttr.Pdeathsig = syscall.SIGTERM
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &Process{cmd: cmd, done: make(chan struct{})}
	// Ends with the child; whoever cares waits for Done.
	go func() {
		defer close(p.done)
		p.err = cmd.Wait()
	}()
	return p, nil
}

// PID is that of the child.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the child has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err is how it ended, after Done.
func (p *Process) Err() error { return p.err }

// Await asks until the answer is yes, the child ends, or ctx does.
func (p *Process) Await(ctx context.Context, ready func() bool) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ready() {
		select {
		case <-p.done:
			return fmt.Errorf("it ended: %w", errors.Join(p.err, errEnded))
		case <-ctx.Done():
			return fmt.Errorf("it does not become ready: %w", ctx.Err())
		case <-tick.C:
		}
	}
	return nil
}

var errEnded = errors.New("before it was ready")

// Stop asks the child to end, and kills its group when that takes longer than
// patience, which is an error.
func (p *Process) Stop(patience time.Duration) error {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		return nil
	case <-time.After(patience):
	}
	syscall.Kill(-p.PID(), syscall.SIGKILL)
	<-p.done
	return fmt.Errorf("%s (pid %d) did not end within %v of SIGTERM", p.cmd.Path, p.PID(), patience)
}

// tail passes on what it is given and remembers the end of it.
type tail struct {
	next io.Writer

	mu   sync.Mutex
	last []byte
}

const tailSize = 4 << 10

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	t.last = append(t.last, b...)
	t.last = t.last[max(0, len(t.last)-tailSize):]
	t.mu.Unlock()
	if t.next == nil {
		return len(b), nil
	}
	return t.next.Write(b)
}

func (t *tail) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.last))
}

// Prefixed writes whole lines, each with a name before it, for several children
// that share a terminal.
func Prefixed(name string, to *os.File) io.Writer { return &prefixed{name: name, to: to} }

type prefixed struct {
	name string
	to   *os.File
	mu   sync.Mutex
	rest []byte
}

func (p *prefixed) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rest = append(p.rest, b...)
	for {
		line, rest, ok := bytes.Cut(p.rest, []byte("\n"))
		if !ok {
			return len(b), nil
		}
		fmt.Fprintf(p.to, "%-5s | %s\n", p.name, line)
		p.rest = rest
	}
}
