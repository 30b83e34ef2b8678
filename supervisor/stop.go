package supervisor

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor/event"
	"revenant/supervisor/notify"
)

// The stop without resets begins with the pre-stop delay, if there is one: the
// instance says that it is not ready, so that balancers look elsewhere, and still
// takes what comes. Then it has three steps (DESIGN 4). First no new connection
// gets into the queue, and the workers, which still serve, empty it. Then every
// copy of the listening sockets is closed, so that a late client is refused at
// once, and the workers are asked to drain. At the deadline what is left is cut.

const (
	// emptyQuiet is how long the queue must have been empty: the last ACK of a
	// handshake may be under way when the filter is set.
	emptyQuiet = 25 * time.Millisecond
	// emptyLimit bounds the first step, when nobody accepts.
	emptyLimit = time.Second
)

var stoppingNotice = []string{notify.Stopping, "STATUS=stopping"}

// signal acts on what the keeper forwards.
func (m *Master) signal(s os.Signal) {
	switch s {
	case unix.SIGTERM, unix.SIGINT, unix.SIGQUIT:
		m.signals++
		if m.signals > 1 {
			m.stopNow(s.(unix.Signal))
			return
		}
		m.stop("SIG" + signalName(s.(unix.Signal)))
	case unix.SIGHUP:
		m.complain(m.reload("SIGHUP"))
	case unix.SIGUSR2:
		m.complain(m.upgradeTo("", false, "SIGUSR2"))
	case unix.SIGTTIN:
		m.complain(m.scale(len(m.seats)+1, "SIGTTIN"))
	case unix.SIGTTOU:
		m.complain(m.scale(len(m.seats)-1, "SIGTTOU"))
	default:
		m.publish(event.Event{Kind: event.SignalIgnored, Message: "SIG" + signalName(s.(unix.Signal)) + " has no meaning here; see revenant run --help"})
	}
}

// complain tells of a wish by signal that was refused.
func (m *Master) complain(_ *Operation, err error) {
	if err != nil {
		m.publish(event.Event{Kind: event.Warning, Message: err.Error()})
	}
}

// stop begins the orderly end. A second call changes nothing.
func (m *Master) stop(why string) {
	if m.phase != running || m.yielded {
		return
	}
	if m.candidate() && !m.alone {
		m.giveWay(fmt.Sprintf("generation %d was told to stop: %s", m.cfg.Generation, why))
		return
	}
	m.phase, m.stopping = leaving, why
	m.publish(event.Event{Kind: event.InstanceStopping, Message: why})
	m.cancel(&StoppingError{why})
	delay := m.cfg.PreStop
	if m.countReady() == 0 {
		delay = 0
	}
	m.platform.tell(append(stoppingNotice, notify.ExtendTimeout(delay+m.cfg.Policy.DrainTimeout))...)
	if delay > 0 {
		m.leaveAt = time.Now().Add(delay)
		return
	}
	m.closeDown()
}

// closeDown takes no new connection from now on.
func (m *Master) closeDown() {
	m.phase = emptying
	m.unprobe()
	limit := emptyLimit
	if m.countReady() == 0 {
		limit = 0
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	m.hurry = cancel
	// Ends within emptyLimit, sooner when hurried; Run waits for it. The sockets
	// stay open meanwhile.
	go func() {
		m.emptyQueues(ctx)
		m.emptied <- struct{}{}
	}()
}

func (m *Master) emptyQueues(ctx context.Context) {
	for _, s := range m.cfg.Sockets {
		if err := s.StopNew(); err != nil {
			m.publish(event.Event{Kind: event.Warning, Message: err.Error()})
		}
	}
	for _, s := range m.cfg.Sockets {
		_ = s.WaitEmpty(ctx, emptyQuiet)
	}
}

// drainAll is the second step.
func (m *Master) drainAll() {
	if m.phase != emptying {
		return
	}
	m.hurry()
	m.phase = draining
	m.closeSockets()
	m.resize(0)
}

func (m *Master) closeSockets() {
	for _, s := range m.cfg.Sockets {
		m.platform.remove(s.Name().String())
		_ = s.Unlink()
		_ = s.Close()
	}
	m.cfg.Sockets = nil
}

// stopNow ends everything at once.
func (m *Master) stopNow(s unix.Signal) {
	m.outcome = &KilledError{s}
	m.hurry()
	if m.phase == leaving {
		m.phase = draining
		m.closeSockets()
	}
	m.resize(0)
	for _, c := range m.children {
		m.kill(c, causeRequested)
	}
}

func (m *Master) countReady() int {
	n := 0
	for _, s := range m.seats {
		if s.slot.serves() {
			n++
		}
	}
	return n
}
