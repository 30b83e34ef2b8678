package supervisor

import (
	"fmt"
	"time"

	"revenant/supervisor/notify"
)

// What the level above the keeper, a service manager, is told of the instance goes
// through the keeper, which alone has a pid that stays.

// feedWatchdog says, twice in each interval, that the loop runs: from the loop,
// for what is said from elsewhere would be said by a master that hangs, too.
func (m *Master) feedWatchdog() {
	step := time.NewTicker(m.cfg.Watchdog / 2)
	defer step.Stop()
	for {
		m.send(func() { m.platform.tell(notify.WatchdogAlive) })
		select {
		case <-step.C:
		case <-m.done:
			return
		}
	}
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
