package supervisor

import (
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor/event"
	"revenant/supervisor/notify"
	"revenant/supervisor/tree"
	"revenant/worker/scoreboard"
)

// orphan is a worker whose master died. It goes on serving; the keeper is its
// parent now, asks it to drain once our generation is committed, and reaps it. We
// see its board and its end; how it ended, the keeper is asked.
type orphan struct {
	board  *scoreboard.Board
	output *workerOutput
}

// adoptBoards opens the boards that the keeper kept, of those too that ended while
// no master lived.
func (m *Master) adoptBoards(stored []notify.NamedFile, outputs map[uint64]*workerOutput) {
	defer func() {
		for worker, o := range outputs { // of one that is accounted for
			m.platform.remove(tailName(worker))
			o.tail.Close()
		}
	}()
	for _, f := range stored {
		if !strings.HasPrefix(f.Name, "board-") {
			continue
		}
		board, err := scoreboard.Open(f.FD)
		if err != nil {
			m.platform.remove(f.Name)
			continue
		}
		o := &orphan{board, outputs[board.Identity().Worker]}
		delete(outputs, board.Identity().Worker)
		pidfd, lives := m.watchOrphan(board)
		if lives {
			m.orphans[board.Identity().Worker] = o
		}
		// Ends with the orphan, or with this process: the keeper outlives neither.
		go func() {
			if lives {
				awaitPidfd(pidfd, readable)
			}
			o.output.end()
			end, err := m.platform.ended(o.board.PID(), o.board.Began())
			m.send(func() { m.buried(o, end, err) })
		}()
	}
}

// watchOrphan is by what the end of an orphan is seen. A page is only a hint: the
// worker could have written another pid into it, so one that is not the keeper's
// child is taken as gone, as is one that began at another time.
func (m *Master) watchOrphan(board *scoreboard.Board) (pidfd int, lives bool) {
	pidfd, err := unix.PidfdOpen(board.PID(), 0)
	if err != nil {
		return -1, false
	}
	began := board.Began()
	if m.platform.parent(board.PID()) != m.cfg.KeeperPID || began != 0 && began != m.platform.began(board.PID()) {
		_ = unix.Close(pidfd)
		return -1, false
	}
	return pidfd, true
}

// started is when the orphan did, the zero time when that is not known.
func (o *orphan) started() time.Time { return tree.Start(o.board.Began()) }

func (m *Master) orphanStatus(o *orphan, now time.Time) WorkerStatus {
	b := o.board.Snapshot()
	w := WorkerStatus{Slot: b.Slot, Worker: b.Worker, PID: b.PID, Generation: b.Generation, State: "draining", Former: true}
	if !m.committed {
		w.State = "orphaned"
	}
	if began := o.started(); !began.IsZero() {
		w.Uptime = ms(now.Sub(began))
	}
	w.numbers(b)
	return w
}

// introduceOrphans tells the keeper who its children are that it cannot know by
// their environment.
func (m *Master) introduceOrphans() {
	for id, o := range m.orphans {
		who := o.board.Identity()
		m.platform.tell(fmt.Sprintf("%s=%d %d %d %d", notify.OrphanKey, o.board.PID(), who.Generation, id, who.Slot))
	}
}

func readable(fd int) bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	return n > 0 || err != nil && err != unix.EINTR
}

// send lets the loop run something, unless it is over.
func (m *Master) send(do func()) {
	select {
	case m.commands <- do:
	case <-m.done:
	}
}

// buried accounts for an orphan's end, of which the keeper told us or could not.
func (m *Master) buried(o *orphan, end notify.Ended, untold error) {
	last := o.board.Snapshot()
	delete(m.orphans, last.Worker)
	m.state.addTotals(last)
	m.platform.remove(boardName(last.Worker))
	defer o.board.Close()
	defer m.forgetOutput(last.Worker, o.output)

	exit := &event.Exit{
		Cause: string(causeUnknown), InFlight: int(last.InFlight()), Accepting: int(last.Accepting), Idle: int(last.Idle), LastLines: o.output.lastLines(),
	}
	r := Report{WorkerStatus: WorkerStatus{Requests: last.Answered()}, Started: o.started()}
	message, detail, at := m.formerWorker(), "", time.Now()
	if untold != nil {
		detail = "nobody saw how it ended: its master had gone, and the keeper does not know (" + untold.Error() + ")"
		message += "; " + detail
	} else {
		why := m.judgeOrphan(o, end)
		exit.Cause, exit.Planned, at = string(why), why == causeRequested, end.Time
		if !r.Started.IsZero() {
			exit.Uptime = ms(max(0, end.Time.Sub(r.Started)))
		}
	}
	if m.phase != running && exit.Cause == string(causeDrainTimeout) {
		m.cut += exit.InFlight
	}
	if exit.Planned && end.Asked != 0 && m.cfg.Succession != nil {
		exit.Reason = opUpgrade
	}
	e := event.Event{Kind: event.WorkerExited, Generation: last.Generation, Slot: &last.Slot, Worker: last.Worker, PID: last.PID, Message: message, Exit: exit}
	m.publish(e)
	m.bury(r, e, at)
	m.lastExit(e, at, detail)
}

// formerWorker is what a worker is to us that we did not start.
func (m *Master) formerWorker() string {
	if m.cfg.Succession != nil {
		return "worker of an earlier generation"
	}
	return "orphan of a dead master"
}
