package supervisor

import (
	"fmt"
	"time"

	"revenant/supervisor/notify"
)

// What the level above the keeper, a service manager, is told of the instance goes
// through the keeper, which alone has a pid that stays.

// feedWatchdog says, twice in each interval, that the instance serves: from the
// loop, for what is said from elsewhere would be said by a master that hangs, too.
func (m *Master) feedWatchdog() {
	step := time.NewTicker(m.cfg.Watchdog / 2)
	defer step.Stop()
	for {
		m.send(func() {
			if m.alive() {
				m.platform.tell(notify.WatchdogAlive)
			}
		})
		select {
		case <-step.C:
		case <-m.done:
			return
		}
	}
}

// alive tells whether the level above may leave the instance as it is: a worker is
// ready and was not found to hang, which of one of package worker means that it
// answers requests; or one is starting. While an instance begins or ends, it is
// left alone.
func (m *Master) alive() bool {
	if !m.committed || m.phase != running {
		return true
	}
	for _, s := range m.seats {
		if s.slot.phase == starting || s.slot.serves() && s.worker.life.hung == "" {
			return true
		}
	}
	return false
}

// tellStatus says how many workers serve, when that changes and somebody listens.
func (m *Master) tellStatus(serving int) {
	text := fmt.Sprintf("%d of %d workers ready", serving, len(m.seats))
	if m.cfg.Above && m.committed && text != m.told {
		m.told = text
		m.platform.tell("STATUS=" + text)
	}
}

// tellChange says that an operation which makes another instance of this one has
// begun (RELOADING=1) or is over (READY=1).
func (m *Master) tellChange(op *Operation, state string) {
	if m.cfg.Above && m.committed && m.phase == running && (op.kind == opReload || op.kind == opUpgrade) {
		m.platform.tell(state)
	}
}
