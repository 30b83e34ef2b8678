package supervisor

import (
	"fmt"
	"time"

	"revenant/supervisor/command"
	"revenant/supervisor/event"
	"revenant/supervisor/notify"
)

// What workers say and ask, by the systemd notification protocol and two
// questions of our own.
const (
	helloKey  = "X_REVENANT_HELLO"
	chaosKey  = "X_REVENANT_CHAOS"
	reasonKey = "X_REVENANT_REASON"
)

// ancestry is how many parents are looked at to find the worker that a message
// came from: a worker may let a helper process speak for it.
const ancestry = 8

// watchInbox wakes the loop when there is something to read. The loop itself
// reads, so that it can also do so before it acts on an exit.
func (m *Master) watchInbox() {
	for m.platform.inbox.Wait() == nil {
		select {
		case m.inbox <- struct{}{}:
		case <-m.done:
			return
		}
	}
}

func (m *Master) readInbox() {
	for {
		msg, ok, err := m.platform.inbox.TryReceive()
		if err != nil || !ok {
			return
		}
		m.receive(msg)
	}
}

// receive acts on one message. One from nobody of ours is dropped.
func (m *Master) receive(msg notify.Message) {
	defer msg.Close()
	c := m.sender(msg.PID)
	if c == nil {
		m.hear(msg)
		return
	}
	if _, ok := msg.Value(helloKey); ok {
		c.expected.greeted = true
		m.hello(c, msg)
	}
	if mode, ok := msg.Value(chaosKey); ok {
		m.chaos(c, mode, msg)
	}
	if why, ok := msg.Value(command.FailedKey); ok {
		c.unborn, c.detail = true, why
	}
	if msg.Says(notify.Ready) && c.expected.says() {
		m.becomesReady(c)
	}
	if said, ok := msg.Value("WATCHDOG"); ok {
		m.beats(c, said)
	}
	if msg.Says(notify.Stopping) {
		m.saidStopping(c)
	}
}

// sender is the worker that a process belongs to, nil for a stranger.
func (m *Master) sender(pid int) *child {
	for range ancestry {
		if c, ok := m.byPID[pid]; ok || pid <= 1 {
			return c
		}
		pid = m.platform.parent(pid)
	}
	return nil
}

// chaos decides whether a worker may end itself because a client asked it to.
func (m *Master) chaos(c *child, mode string, msg notify.Message) {
	e := m.about(c, event.ChaosGranted)
	e.Message = mode
	if reason := m.chaosRefusal(c); reason != "" {
		e.Kind, e.Message = event.ChaosRefused, mode+": "+reason
		m.publish(e)
		_ = msg.Answer(nil, chaosKey+"=refused", reasonKey+"="+reason)
		return
	}
	if msg.Answer(nil, chaosKey+"=granted") != nil {
		return // nobody waits for it any longer: nobody will die by it
	}
	c.chaos = mode
	if _, known := chaosEnds[mode]; known {
		c.permit = time.Now().Add(permitLimit)
	}
	m.publish(e)
}

// permitLimit is how long a worker may take to die of a permit. One that has not
// by then never heard of it.
const permitLimit = 10 * time.Second

// takeBack makes a worker that did not use its permit one that serves again.
func (m *Master) takeBack(c *child) {
	c.permit = time.Time{}
	if c.draining() {
		return
	}
	e := m.about(c, event.Warning)
	e.Message = "a permit for chaos was not used and is taken back: " + c.chaos
	c.chaos = ""
	m.publish(e)
}

// drainers counts the workers that have left their seats.
func (m *Master) drainers() int {
	n := len(m.children)
	for _, s := range m.seats {
		if s.worker != nil {
			n--
		}
		if s.successor != nil {
			n--
		}
	}
	return n
}

// crowded tells that more workers drain than an instance should carry.
func (m *Master) crowded() bool { return m.drainers() >= m.crowd() }

// crowd is how many workers may drain beside those that serve.
func (m *Master) crowd() int { return 2*len(m.seats) + 2 }

// chaosRefusal says why a worker must not end now, "" when it may. A worker that
// was granted its end before does not count as one that serves.
func (m *Master) chaosRefusal(c *child) string {
	serving := 0
	for _, s := range m.seats {
		if s.slot.serves() && s.worker.chaos == "" {
			serving++
		}
	}
	switch {
	case !m.cfg.Chaos:
		return "chaos is not enabled (start with --chaos)"
	case m.phase != running:
		return "the instance is stopping"
	case c.chaos != "":
		return "this worker is already on its way out"
	case m.succeeds(c) != nil:
		return "this worker is not in its place yet"
	case m.seatOf(c) == nil || !m.seatOf(c).slot.serves():
		return "this worker is leaving already"
	case serving < 2:
		return "it is the last ready worker"
	case m.crowded():
		return fmt.Sprintf("%d workers are still draining", m.drainers())
	}
	return ""
}
