package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"revenant/worker/scoreboard"
)

// Status is the instance at one moment, in the words of `revenant ps -o json`.
type Status struct {
	Instance   string `json:"instance"`
	Name       string `json:"name"`
	Version    string `json:"version"`
	Generation int    `json:"generation"`
	State      string `json:"state"` // starting, ready, degraded, recovering, stopping
	Ready      int    `json:"ready"`
	Desired    int    `json:"desired"`
	KeeperPID  int    `json:"keeper_pid,omitempty"`
	MasterPID  int    `json:"master_pid"`
	// Orphans are workers of a dead master. Until ours are ready (recovering)
	// they serve; then they drain.
	Orphans   int            `json:"orphans,omitempty"`
	Since     time.Time      `json:"since"` // start of this master
	Listeners []string       `json:"listeners"`
	Requests  uint64         `json:"requests"` // answered, over all workers that ever were
	Workers   []WorkerStatus `json:"workers"`
	// Upgrade is how the last one went, as far as this master knows; nil mostly.
	Upgrade *UpgradeStatus `json:"upgrade,omitempty"`
	// Operation is what somebody is changing just now; nil mostly.
	Operation *OperationStatus `json:"operation,omitempty"`
}

// Healthy tells whether the instance can serve: at least one worker is ready, be
// it one of a master that died a moment ago, and it is not on its way out.
func (s Status) Healthy() bool {
	return s.State != "stopping" && (s.Ready > 0 || s.State == "recovering")
}

// WorkerStatus is a slot with its worker, or a worker that drains beside its
// slot. CPU and memory are 0 where /proc does not tell.
type WorkerStatus struct {
	Slot       int        `json:"slot"`
	Worker     uint64     `json:"worker,omitempty"`
	State      string     `json:"state"` // starting, ready, draining, backoff, killing
	PID        int        `json:"pid,omitempty"`
	Generation int        `json:"generation"`
	Uptime     float64    `json:"uptime_ms,omitempty"`
	Restarts   int        `json:"restarts"`
	CPU        float64    `json:"cpu_seconds"`
	RSS        int        `json:"rss_bytes"`
	InFlight   int64      `json:"in_flight"`
	Requests   uint64     `json:"requests"`
	WaitsFor   string     `json:"waits_for,omitempty"` // of one that starts: what makes it ready
	Failures   int        `json:"failures,omitempty"`  // in a row
	LastExit   *LastExit  `json:"last_exit,omitempty"`
	NextStart  *time.Time `json:"next_start,omitempty"`
	Deadline   *time.Time `json:"deadline,omitempty"`  // of a drain
	Former     bool       `json:"former,omitempty"`    // no longer in its slot
	Successor  bool       `json:"successor,omitempty"` // not in its slot yet: it is to take the place of the worker there
}

// LastExit is how a former worker of a slot ended.
type LastExit struct {
	Worker     uint64    `json:"worker,omitempty"`
	Generation int       `json:"generation,omitempty"`
	Cause      string    `json:"cause"`
	Reason     string    `json:"reason,omitempty"` // in what course it was asked to leave
	Time       time.Time `json:"time"`
	Planned    bool      `json:"planned"`
	InFlight   int       `json:"in_flight"`
	Detail     string    `json:"detail,omitempty"` // what the cause alone does not say
}

func (e *LastExit) String() string {
	if e.Detail == "" {
		return e.Cause
	}
	return e.Cause + ": " + e.Detail
}

// ErrStopped is what a master that is over says to every wish.
var ErrStopped = errors.New("the instance has stopped")

// ErrSucceeded is what a master says that has left the instance to another one.
var ErrSucceeded = errors.New("this master was succeeded just now (try again)")

// ask runs do in the loop and waits until it has run.
func (m *Master) ask(ctx context.Context, do func()) error {
	ran := make(chan struct{})
	select {
	case m.commands <- func() { do(); close(ran) }:
		<-ran // the loop runs what it took
		return nil
	case <-m.done:
		if m.yielded && m.outcome == nil {
			return ErrSucceeded
		}
		return ErrStopped
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Status tells how the instance is. It may be called from any goroutine.
func (m *Master) Status(ctx context.Context) (Status, error) {
	var s Status
	if err := m.ask(ctx, func() { s = m.status(time.Now()) }); err != nil {
		return Status{}, err
	}
	for i := range s.Workers {
		s.Workers[i].measure()
	}
	return s, nil
}

func (m *Master) status(now time.Time) Status {
	s := Status{
		Instance: m.cfg.Instance, Name: m.cfg.Name, Version: m.cfg.Version, Generation: m.cfg.Generation,
		Ready: m.countReady(), Desired: len(m.seats), KeeperPID: m.cfg.KeeperPID, MasterPID: os.Getpid(), Orphans: len(m.orphans), Since: m.began,
		Listeners: []string{}, Workers: make([]WorkerStatus, 0, len(m.seats)),
	}
	s.State, s.Operation, s.Upgrade = m.stateWord(s.Ready), m.operationStatus(), m.lastUpgrade
	for _, socket := range m.cfg.Sockets {
		s.Listeners = append(s.Listeners, socket.Bound().String())
	}
	for _, n := range m.state.totals() {
		s.Requests += n
	}
	seated := make(map[uint64]bool, len(m.seats))
	for _, seat := range m.seats {
		w := seat.status(m.cfg.Generation)
		if seat.worker != nil {
			seated[seat.worker.id] = true
			w.fill(seat.worker, now)
		}
		s.Workers = append(s.Workers, w)
		if c := seat.successor; c != nil {
			seated[c.id] = true
			w := WorkerStatus{Slot: seat.n, State: seat.slot.phase.successor(), Generation: m.cfg.Generation, Successor: true}
			w.fill(c, now)
			s.Workers = append(s.Workers, w)
		}
	}
	s.Workers = append(s.Workers, m.formerWorkers(seated, now)...)
	for _, w := range s.Workers {
		s.Requests += w.Requests
	}
	return s
}

func (m *Master) stateWord(serving int) string {
	switch {
	case m.phase != running:
		return "stopping"
	case serving == len(m.seats):
		return "ready"
	case !m.committed && len(m.orphans) > 0:
		return "recovering"
	case !m.committed && serving == 0:
		return "starting"
	}
	return "degraded"
}

func (s *seat) status(generation int) WorkerStatus {
	w := WorkerStatus{Slot: s.n, State: s.slot.phase.worker(), Generation: generation, Restarts: max(0, s.starts-1), LastExit: s.lastExit}
	if !s.slot.serves() {
		w.Failures = s.slot.fails
	}
	if s.slot.phase == backoff {
		next := s.slot.next
		w.NextStart = &next
	}
	return w
}

func (w *WorkerStatus) fill(c *child, now time.Time) {
	w.Worker, w.PID = c.id, c.pid
	w.Uptime = ms(now.Sub(c.started))
	if c.ready.IsZero() {
		w.WaitsFor = c.expected.String()
	}
	if c.life.hung != "" {
		w.State = "hung"
	}
	w.numbers(c.board.Snapshot())
}

func (w *WorkerStatus) numbers(b scoreboard.Snapshot) {
	w.InFlight, w.Requests = b.InFlight(), b.Answered()
}

// formerWorkers are those that drain: ours beside their slots, and orphans of
// older generations. They are listed, never hidden.
func (m *Master) formerWorkers(seated map[uint64]bool, now time.Time) []WorkerStatus {
	var former []WorkerStatus
	for _, c := range m.children {
		if seated[c.id] {
			continue
		}
		w := WorkerStatus{Slot: c.n, State: "draining", Generation: m.cfg.Generation, Former: true}
		w.fill(c, now)
		if deadline := c.deadline; !deadline.IsZero() {
			w.Deadline = &deadline
		}
		former = append(former, w)
	}
	for _, o := range m.orphans {
		former = append(former, m.orphanStatus(o, now))
	}
	slices.SortFunc(former, func(a, b WorkerStatus) int { return int(a.Worker) - int(b.Worker) })
	return former
}

// measure reads a worker's CPU time and memory from /proc, outside the loop.
func (w *WorkerStatus) measure() {
	if w.PID == 0 {
		return
	}
	p, err := procfs.NewProc(w.PID)
	if err != nil {
		return
	}
	if stat, err := p.Stat(); err == nil {
		w.CPU, w.RSS = stat.CPUTime(), stat.ResidentMemory()
	}
}

// Stop begins the orderly end of the instance. It does not wait for it.
func (m *Master) Stop(ctx context.Context) error {
	return m.ask(ctx, func() { m.stop("asked by an operator") })
}

// Kill sends a signal to a worker because an operator wants it: its end is
// planned, and its slot is filled again. TERM drains it, successor first.
func (m *Master) Kill(ctx context.Context, worker uint64, sig unix.Signal) error {
	var err error
	if asked := m.ask(ctx, func() { err = m.killWorker(worker, sig) }); asked != nil {
		return asked
	}
	return err
}

// UnknownWorkerError says that no worker of that id lives.
type UnknownWorkerError struct{ Worker uint64 }

func (e *UnknownWorkerError) Error() string {
	return fmt.Sprintf("there is no worker %d (see revenant ps)", e.Worker)
}

func (m *Master) killWorker(id uint64, sig unix.Signal) error {
	c := m.children[id]
	if c == nil {
		return &UnknownWorkerError{id}
	}
	s := m.seatOf(c)
	switch {
	case sig == unix.SIGSTOP || sig == unix.SIGCONT:
		m.platform.kill(c.pid, sig)
	case sig != unix.SIGTERM:
		c.isAsked(sig)
		m.platform.kill(c.pid, sig)
	case m.succeeds(c) != nil:
		m.fail(m.succeeds(c), fmt.Sprintf("worker %d was ended by an operator", c.id))
	case s == nil || s.slot.phase == killing: // on its way out already
	case m.crowded():
		return fmt.Errorf("cannot end worker %d: %d workers are still draining (wait, or --signal KILL)", id, m.drainers())
	default:
		m.retire(c, "kill")
		m.step(s, exitPlanned) // its seat is free from now on
	}
	return nil
}
