package supervisor

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor/event"
	"revenant/supervisor/notify"
)

// fakeWorld is a platform in which processes are entries in a map and time is
// synctest's. A process does what behave says, as its own goroutine.
type fakeWorld struct {
	mu      sync.Mutex
	lastPID int
	living  map[int]*fakeProcess
	dead    map[int]unix.WaitStatus
	begun   []time.Time // of every start that worked
	kept    map[string]bool
	told    []string
	oom     uint64
	memory  map[int]int64
	// of any process at least
	allMemory int64
	startErr  error

	behave func(p *fakeProcess)
	mail   fakeInbox
}

// fakeProcess is one worker. Its methods are what it can do.
type fakeProcess struct {
	world   *fakeWorld
	pid     int
	launch  launch
	signals chan unix.Signal // TERM and others; KILL ends it
	dead    chan struct{}
}

func newWorld(behave func(*fakeProcess)) *fakeWorld {
	return &fakeWorld{living: map[int]*fakeProcess{}, dead: map[int]unix.WaitStatus{}, kept: map[string]bool{}, memory: map[int]int64{}, behave: behave, lastPID: 100,
		mail: fakeInbox{arrived: make(chan struct{}, 1000), closed: make(chan struct{})}}
}

func (w *fakeWorld) platform() platform {
	return platform{
		start:    w.start,
		reap:     func(pid int) unix.WaitStatus { w.mu.Lock(); defer w.mu.Unlock(); return w.dead[pid] },
		kill:     w.kill,
		parent:   func(int) int { return 0 },
		began:    func(pid int) uint64 { return uint64(pid) },
		memory:   func(pid int) int64 { w.mu.Lock(); defer w.mu.Unlock(); return max(w.memory[pid], w.allMemory) },
		oomKills: func() uint64 { w.mu.Lock(); defer w.mu.Unlock(); return w.oom },
		store:    func(name string, _ ...int) { w.mu.Lock(); defer w.mu.Unlock(); w.kept[name] = true },
		remove:   func(name string) { w.mu.Lock(); defer w.mu.Unlock(); delete(w.kept, name) },
		tell:     func(state ...string) { w.mu.Lock(); defer w.mu.Unlock(); w.told = append(w.told, state...) },
		inbox:    &w.mail,
	}
}

func (w *fakeWorld) start(l launch) (int, func(), error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.startErr != nil {
		return 0, nil, w.startErr
	}
	w.lastPID++
	p := &fakeProcess{world: w, pid: w.lastPID, launch: l, signals: make(chan unix.Signal, 10), dead: make(chan struct{})}
	w.living[p.pid] = p
	w.begun = append(w.begun, time.Now())
	behave := w.behave
	go behave(p) // ends with the process, as behave promises
	return p.pid, func() { <-p.dead }, nil
}

func (w *fakeWorld) kill(pid int, sig unix.Signal) {
	w.mu.Lock()
	p := w.living[max(pid, -pid)]
	w.mu.Unlock()
	switch {
	case p == nil:
	case sig == unix.SIGKILL:
		p.end(unix.WaitStatus(unix.SIGKILL))
	default:
		p.signals <- sig
	}
}

// any is a living process, the one with the lowest pid.
func (w *fakeWorld) any() *fakeProcess {
	w.mu.Lock()
	defer w.mu.Unlock()
	var first *fakeProcess
	for _, p := range w.living {
		if first == nil || p.pid < first.pid {
			first = p
		}
	}
	return first
}

func (w *fakeWorld) heard() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.told)
}

func (w *fakeWorld) runOutOfMemory() { w.mu.Lock(); defer w.mu.Unlock(); w.oom++ }

// behaves is what processes do that are started from now on.
func (w *fakeWorld) behaves(how func(*fakeProcess)) { w.mu.Lock(); defer w.mu.Unlock(); w.behave = how }

func (w *fakeWorld) forksFail(err error) { w.mu.Lock(); defer w.mu.Unlock(); w.startErr = err }

func (w *fakeWorld) starts() int { w.mu.Lock(); defer w.mu.Unlock(); return len(w.begun) }

// end is the process's death; the first one counts.
func (p *fakeProcess) end(status unix.WaitStatus) {
	p.world.mu.Lock()
	defer p.world.mu.Unlock()
	if p.world.living[p.pid] == p {
		delete(p.world.living, p.pid)
		p.world.dead[p.pid] = status
		close(p.dead)
	}
}

func (p *fakeProcess) say(state ...string) {
	p.world.mail.put(notify.Message{State: state, PID: p.pid})
}

func exitStatus(code int) unix.WaitStatus { return unix.WaitStatus(code << 8) }

// serve is a good worker: ready after a while, drains at SIGTERM.
func serve(boot, drain time.Duration) func(*fakeProcess) {
	return func(p *fakeProcess) {
		if !p.during(boot) {
			return
		}
		p.say(notify.Ready)
		select {
		case <-p.signals:
			p.say(notify.Stopping)
			if p.during(drain) {
				p.end(exitStatus(0))
			}
		case <-p.dead:
		}
	}
}

// during passes time; false when the process died meanwhile.
func (p *fakeProcess) during(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-p.dead:
		return false
	}
}

// crash never serves.
func crash(after time.Duration, status unix.WaitStatus) func(*fakeProcess) {
	return func(p *fakeProcess) {
		if p.during(after) {
			p.end(status)
		}
	}
}

// deaf never says anything and hears nothing but SIGKILL.
func deaf(p *fakeProcess) { <-p.dead }

// fakeInbox is where fake workers' messages arrive.
type fakeInbox struct {
	mu      sync.Mutex
	mail    []notify.Message
	arrived chan struct{}
	closed  chan struct{}
}

func (i *fakeInbox) put(m notify.Message) {
	i.mu.Lock()
	i.mail = append(i.mail, m)
	i.mu.Unlock()
	i.arrived <- struct{}{}
}

func (i *fakeInbox) Wait() error {
	select {
	case <-i.arrived:
		return nil
	case <-i.closed:
		return net.ErrClosed
	}
}

func (i *fakeInbox) TryReceive() (notify.Message, bool, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.mail) == 0 {
		return notify.Message{}, false, nil
	}
	m := i.mail[0]
	i.mail = i.mail[1:]
	return m, true, nil
}

// fakeInstance is a master in a fake world, inside a synctest bubble.
type fakeInstance struct {
	*Master
	t       *testing.T
	world   *fakeWorld
	signals chan os.Signal
	result  chan error
}

// inBubble runs a test around a running master. When the test returns without
// having ended it, the master is stopped; nothing may be left.
func inBubble(t *testing.T, cfg Config, behave func(*fakeProcess), test func(*fakeInstance)) {
	synctest.Test(t, func(t *testing.T) {
		world := newWorld(behave)
		cfg.Lifeline = -1
		cfg.Policy.jitter = steady
		i := &fakeInstance{Master: newMaster(cfg, world.platform()), t: t, world: world, signals: make(chan os.Signal, 4), result: make(chan error, 1)}
		go func() { i.result <- i.Run(context.Background(), i.signals) }() // waited for below
		synctest.Wait()
		test(i)
		select {
		case <-i.done:
		default:
			i.signals <- unix.SIGTERM
		}
		if err := <-i.result; err != nil {
			t.Logf("Run: %v", err)
		}
		close(world.mail.closed)
		synctest.Wait()
		if len(world.living) > 0 {
			t.Errorf("%d processes outlive the master", len(world.living))
		}
		for name := range world.kept {
			if name != stateName {
				t.Errorf("descriptor %q was never taken back from the keeper", name)
			}
		}
	})
}

func (i *fakeInstance) pass(d time.Duration) {
	time.Sleep(d) // the bubble's time
	synctest.Wait()
}

func (i *fakeInstance) status() Status {
	i.t.Helper()
	s, err := i.Status(context.Background())
	if err != nil {
		i.t.Fatal(err)
	}
	return s
}

// exits are the events of workers' ends so far.
func (i *fakeInstance) exits() []event.Event {
	var exits []event.Event
	for _, e := range i.Events().Since(0) {
		if e.Kind == event.WorkerExited {
			exits = append(exits, e)
		}
	}
	return exits
}

func (i *fakeInstance) count(kind event.Kind) (n int) {
	for _, e := range i.Events().Since(0) {
		if e.Kind == kind {
			n++
		}
	}
	return n
}

var errFork = errors.New("resource temporarily unavailable")

// occupies says how much memory a process occupies.
func (w *fakeWorld) occupies(pid int, bytes int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.memory[pid] = bytes
}

// occupyAll says it for whoever was not spoken of.
func (w *fakeWorld) occupyAll(bytes int64) { w.mu.Lock(); defer w.mu.Unlock(); w.allMemory = bytes }
