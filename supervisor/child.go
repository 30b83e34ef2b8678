package supervisor

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor/event"
	"revenant/supervisor/tree"
	"revenant/worker/scoreboard"
)

// child is the master's view of one living worker; package worker is the
// worker itself. It sits in a seat, or drains beside it.
type child struct {
	id      uint64
	n       int // slot
	pid     int
	board   *scoreboard.Board
	output  *workerOutput
	held    int // its question, while it waits to take connections; 0 mostly
	door    int // our end of the private connection, -1 without one
	started time.Time
	ready   time.Time // zero until it said READY
	proof   proof
	limits  Limits // its own

	deadline time.Time     // of its drain; zero while it serves
	asked    unix.Signal   // what we, or an operator through us, sent it to make it end; 0 for nothing
	chaos    string        // the mode of a death that a client asked for and we granted
	permit   time.Time     // until when it may use that; zero when it did, or needs not
	reason   string        // in what course we asked it: "reload", "max-age", "stop"
	gone     chan struct{} // closed when it has been reaped
	killed   cause         // why we sent SIGKILL, "" when we did not
	stop     unix.Signal   // asks it to drain
	unborn   bool          // it could not become the program
	detail   string        // what the cause of its end does not say
	expected expectation   // until it is ready
	life     life          // from then on
	atDoor   sync.Mutex    // one question at a time, for those who ask
}

// draining tells whether it was asked, or said itself, to leave.
func (c *child) draining() bool { return !c.deadline.IsZero() || c.killed != "" }

// exit is what the goroutine that waits for a worker sends to the loop.
type exit struct {
	id   uint64
	left []int // processes that it left behind, and that are ended now
}

func boardName(id uint64) string { return fmt.Sprintf("board-%d", id) }

// start starts a new worker for a seat.
func (m *Master) start(s *seat) (*child, error) {
	id := m.state.nextWorker()
	who := scoreboard.Identity{Worker: id, Slot: s.n, Generation: m.cfg.Generation}
	board, err := m.board(who)
	if err != nil {
		return nil, err
	}
	out, ends, err := m.openOutput(who)
	if err != nil {
		_ = board.Close()
		return nil, err
	}
	c := &child{
		id: id, n: s.n, board: board, output: out, door: -1, started: time.Now(), gone: make(chan struct{}),
		stop: m.cfg.Program.stopSignal(), limits: m.cfg.Recycle.share(),
	}
	l := m.cfg.launch(who, m.size)
	l.prints(ends)
	pid, wait, err := m.platform.start(l)
	m.outputBegins(out, who, ends, err)
	if err != nil {
		_ = board.Close()
		return nil, err
	}
	c.pid = pid
	board.SetPID(pid)
	board.SetBegan(m.platform.began(pid))
	m.platform.store(boardName(id), board.FD())
	s.starts++
	m.children[id], m.byPID[pid] = c, c
	left := m.sweep(c)
	// Ends with the worker; Run takes every exit before it returns.
	go func() {
		wait()
		out.end()
		m.exits <- exit{id, left.run(pid)}
	}()
	m.publish(m.about(c, event.WorkerStarted))
	m.expect(c, m.cfg.Program.Ready)
	return c, nil
}

// sweep is what to do when the worker is gone. Only a program that is not ours
// may leave processes behind.
func (m *Master) sweep(c *child) *sweep {
	s := &sweep{instance: m.cfg.Instance, worker: c.id}
	if m.cfg.Program.External() {
		s.keeper, s.began, s.sockets = m.cfg.KeeperPID, tree.StatOf(c.pid).Began, inodes(m.cfg.Sockets)
	}
	return s
}

// about begins an event of a worker.
func (m *Master) about(c *child, kind event.Kind) event.Event {
	return event.Event{Kind: kind, Slot: &c.n, Worker: c.id, PID: c.pid}
}

// seatOf is the seat that a worker sits in, nil when it only drains.
func (m *Master) seatOf(c *child) *seat {
	if c.n < len(m.seats) && m.seats[c.n].worker == c {
		return m.seats[c.n]
	}
	return nil
}

func (m *Master) saidReady(c *child) {
	if !c.ready.IsZero() {
		return
	}
	if s := m.succeeds(c); s != nil {
		m.nowReady(c)
		m.step(s, successorReady)
		return
	}
	if s := m.seatOf(c); s != nil {
		m.step(s, saidReady)
		if s.slot.phase == ready {
			m.nowReady(c)
		}
	}
}

func (m *Master) nowReady(c *child) {
	c.ready = time.Now()
	m.watch(c)
	e := m.about(c, event.WorkerReady)
	e.Start = ms(c.ready.Sub(c.started))
	m.publish(e)
}

// saidStopping notes that a worker drains, whoever asked it to.
func (m *Master) saidStopping(c *child) {
	if c.draining() {
		return
	}
	t := leaves
	if m.crowded() {
		t = leavesCrowd
	}
	m.leaves(c, "it said so")
	if s := m.seatOf(c); s != nil {
		m.step(s, t)
	}
	if s := m.succeeds(c); s != nil {
		m.fail(s, fmt.Sprintf("worker %d leaves by itself", c.id))
	}
}

// leaves starts the clock of a worker's drain.
func (m *Master) leaves(c *child, why string) {
	c.deadline = time.Now().Add(m.cfg.Policy.DrainTimeout)
	e := m.about(c, event.WorkerStopping)
	e.Message = why
	m.publish(e)
}

// retire asks a worker to finish what it has and go.
func (m *Master) retire(c *child, reason string) {
	c.isAsked(c.stop)
	if c.draining() {
		return
	}
	c.reason = reason
	m.leaves(c, reason)
	m.platform.kill(c.pid, c.stop)
}

// isAsked notes what a worker is sent to make it end, for the next master too.
func (c *child) isAsked(sig unix.Signal) {
	c.asked = sig
	c.board.SetAsked(sig)
}

// kill ends a worker and its process group now.
func (m *Master) kill(c *child, why cause) {
	if c.killed != "" {
		return
	}
	c.killed, c.deadline, c.permit = why, time.Time{}, time.Time{}
	m.platform.kill(-c.pid, unix.SIGKILL)
}

// exited reaps a worker, accounts for its end and lets its slot go on.
func (m *Master) exited(x exit) {
	c := m.children[x.id]
	delete(m.children, c.id)
	m.repairSockets(fmt.Sprintf("after the end of worker %d", c.id))
	delete(m.byPID, c.pid)
	c.expected.over()
	why, end := m.judge(c, m.platform.reap(c.pid))
	last := c.board.Snapshot()
	if end == exitCrashed && m.hurt(c) {
		end, c.detail = exitKilled, strings.TrimPrefix(c.detail+"; its listener had just been shut down", "; ")
	}
	m.state.addTotals(last)
	m.platform.remove(boardName(c.id))
	defer m.forgetOutput(c.id, c.output) // the successor does not wait for it
	defer c.board.Close()
	c.letAccept()
	c.closeDoor()
	close(c.gone)

	e := m.about(c, event.WorkerExited)
	e.Exit = &event.Exit{
		Cause: string(why), Reason: c.reason, Planned: end == exitPlanned, Uptime: ms(time.Since(c.started)),
		InFlight: int(last.InFlight()), Accepting: int(last.Accepting), Idle: int(last.Idle),
	}
	e.Message = c.detail
	if m.phase != running && c.killed != "" {
		m.cut += e.InFlight
	}
	if c.chaos != "" {
		e.Message = strings.TrimSuffix("chaos: "+c.chaos+"; "+c.detail, "; ")
	}
	e.LastLines = c.output.lastLines()
	m.publish(e)
	m.bury(Report{WorkerStatus: WorkerStatus{Requests: last.Answered()}, Started: c.started}, e, time.Now())
	m.lastExit(e, time.Now(), c.detail)
	if len(x.left) > 0 {
		e := m.about(c, event.Warning)
		e.Message = fmt.Sprintf("worker %d left processes behind that are in no group of its own, pids %v: killed (a program must stay in the foreground)", c.id, x.left)
		m.publish(e)
	}
	if s := m.seatOf(c); s != nil {
		m.step(s, end)
	}
	m.ended(c, end, string(why))
}

// giveUp ends the instance with an error: nothing below it serves, so nothing is
// drained.
func (m *Master) giveUp(err error) {
	m.outcome = err
	m.platform.tell(stoppingNotice...)
	m.closeSockets()
	m.phase, m.stopping = draining, err.Error()
	m.cancel(&StoppingError{m.stopping})
	for _, s := range m.seats {
		s.slot, s.worker, s.successor = slot{phase: empty}, nil, nil
	}
	for _, c := range m.children {
		m.kill(c, causeRequested)
	}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// signalName is the operator's word for a signal: "KILL", not "SIGKILL".
func signalName(s unix.Signal) string {
	if name := unix.SignalName(s); len(name) > 3 {
		return name[3:]
	}
	return fmt.Sprintf("%d", int(s))
}
