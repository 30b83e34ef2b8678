package supervisor

import (
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor/event"
	"revenant/supervisor/notify"
	"revenant/worker/scoreboard"
)

// orphan is a worker whose master died. It goes on serving; the keeper is its
// parent now, asks it to drain once our generation is committed, and reaps it.
// We see its board and its end, not its exit status.
type orphan struct {
	board  *scoreboard.Board
	output *workerOutput
}

// adoptBoards opens the boards that the keeper kept. A page is only a hint: the
// worker could have written another pid into it, so one that is not the
// keeper's child is taken as gone.
func (m *Master) adoptBoards(stored []notify.NamedFile, outputs map[uint64]*workerOutput) {
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
		m.orphans[board.Identity().Worker] = o
		pidfd, err := unix.PidfdOpen(board.PID(), 0)
		if err != nil || m.platform.parent(board.PID()) != m.cfg.KeeperPID {
			if err == nil {
				_ = unix.Close(pidfd)
			}
			m.buried(o)
			continue
		}
		// Ends with the orphan, or with this process: the keeper outlives neither.
		go func() {
			awaitPidfd(pidfd, readable)
			o.output.end()
			m.send(func() { m.buried(o) })
		}()
	}
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

// buried accounts for an orphan's end.
func (m *Master) buried(o *orphan) {
	last := o.board.Snapshot()
	delete(m.orphans, last.Worker)
	m.state.addTotals(last)
	m.platform.remove(boardName(last.Worker))
	_ = o.board.Close()
	of, reason := "orphan of a dead master", ""
	if m.cfg.Succession != nil {
		of, reason = "worker of an earlier generation", opUpgrade
	}
	why, planned := causeRequested, m.committed
	switch {
	case !m.committed:
		why = "unknown (its master had died)"
	case last.InFlight() > 0 || last.Accepting > 0 || last.Hijacked > 0: // asked by the keeper to leave, and ended before it could
		why, planned = "unknown (its end is in the keeper's log)", false
	}
	m.publish(event.Event{Kind: event.WorkerExited, Generation: last.Generation, Slot: &last.Slot, Worker: last.Worker, PID: last.PID,
		Message: of, Time: time.Now(),
		Exit: &event.Exit{Cause: string(why), Reason: reason, Planned: planned, InFlight: int(last.InFlight()), Accepting: int(last.Accepting), Idle: int(last.Idle)}})
}
