package supervisor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"revenant/supervisor/event"
	"revenant/supervisor/notify"
)

// Succession is what a master has more that was started by the one before it. Its
// workers take no connection until all of them have answered a request; then the
// one before leaves. Until that has left it counts no events and adopts no orphan:
// there is one story, and one at a time tells it.
type Succession struct {
	// Predecessor hears how it goes. It may be gone.
	Predecessor *notify.Client
	// Later tells what earlier masters still store, and ends when none lives.
	Later *notify.Question
}

// Refuse tells the master before why this one does not even begin.
func (s *Succession) Refuse(generation int, why error) {
	text := strings.ReplaceAll(why.Error(), "\n", "; ")
	_ = s.Predecessor.Send(refusalKey+"="+oneLine(text), fmt.Sprintf("%s=%d", notify.GenerationVariable, generation))
}

// ErrUnfit ends a master whose workers crash again and again while its program is
// on probation: its keeper returns to the program before.
var ErrUnfit = errors.New("the new program is no good")

// RefusedError ends a successor that could not take over.
type RefusedError struct{ Why string }

func (e *RefusedError) Error() string { return e.Why }

// unfitAfter is how often the worker of each slot crashes, in a row, before a
// program on probation is given up.
const unfitAfter = 3

// InCharge is closed when this master speaks for the instance.
func (m *Master) InCharge() <-chan struct{} { return m.inCharge }

// awaitAlone follows what earlier masters store, and takes over from them.
func (m *Master) awaitAlone(stored []notify.NamedFile) {
	for {
		msg, err := m.cfg.Succession.Later.Next(context.Background())
		if err != nil {
			break
		}
		stored = follow(stored, msg)
		msg.Close()
	}
	_ = m.cfg.Succession.Later.Close()
	m.send(func() { m.takeOver(stored) })
}

// follow does what a message about stored descriptors says.
func follow(stored []notify.NamedFile, msg notify.Message) []notify.NamedFile {
	escaped, _ := msg.Value("FDNAME")
	name := notify.UnescapeName(escaped)
	stored = slices.DeleteFunc(stored, func(f notify.NamedFile) bool {
		if f.Name == name && ofWorker(name) {
			f.File().Close()
		}
		return f.Name == name
	})
	if msg.Says(notify.StoreFD) {
		for _, f := range msg.Files {
			if fd, err := notify.Detach(f); err == nil {
				stored = append(stored, notify.NamedFile{Name: name, FD: fd})
			}
		}
	}
	return stored
}

// ofWorker tells whether a descriptor belongs to a worker, and to nothing else.
func ofWorker(name string) bool {
	_, output := readOutputName(name)
	_, tail := readTailName(name)
	return output || tail || strings.HasPrefix(name, "board-")
}

// takeOver goes on where the masters before have ended.
func (m *Master) takeOver(stored []notify.NamedFile) {
	m.alone = true
	m.oom.count = max(m.oom.count, m.state.oomKillsOr(0))
	m.state.setNewestEvent(m.events.Release(m.state.newestEvent()))
	// Ours are no orphans' yet.
	stored = slices.DeleteFunc(stored, func(f notify.NamedFile) bool { return !ofWorker(f.Name) })
	m.adoptBoards(stored, m.adoptOutputs(stored))
	if m.committed {
		m.introduceOrphans()
	}
	m.speak()
	m.publish(event.Event{Kind: event.InstanceUpgraded, Message: fmt.Sprintf("generation %d, version %s, has taken over", m.cfg.Generation, m.cfg.Version)})
	m.cfg.Fault.At("alone")
}

// speak lets the control socket be this master's, once it serves and is alone.
func (m *Master) speak() {
	if !m.committed || !m.alone {
		return
	}
	close(m.inCharge)
	if m.cfg.Applied != nil && m.operation == nil { // else the operation's end does
		m.cfg.Applied()
	}
}

// candidate tells whether this master has yet to prove that it may take over.
func (m *Master) candidate() bool { return m.cfg.Succession != nil && !m.committed }

// audition looks whether every worker has answered, or one will not.
func (m *Master) audition() {
	answered := 0
	for _, s := range m.seats {
		switch {
		case s.slot.fails > 0:
			m.decline(fmt.Errorf("generation %d: %s", m.cfg.Generation, m.lastCauses()))
			return
		case !s.slot.serves():
		case s.worker.proof == proven:
			answered++
		case s.worker.proof == unproven:
			m.hearWorker(s.worker)
		}
	}
	switch {
	case m.yielded:
	case answered == len(m.seats):
		m.takeCharge()
	case time.Since(m.began) >= m.cfg.Policy.StartTimeout:
		m.decline(fmt.Errorf("generation %d: %d of %d workers were ready and answered within the start timeout of %s",
			m.cfg.Generation, answered, len(m.seats), event.Humane(m.cfg.Policy.StartTimeout)))
	}
}

// hearWorker has a worker answer a request, before it takes any of clients.
func (m *Master) hearWorker(c *child) {
	c.proof = asked
	m.probe(c, m.began.Add(m.cfg.Policy.StartTimeout), func(err error) {
		if c.proof = proven; err != nil {
			c.proof = disproven
			m.decline(fmt.Errorf("generation %d: %w", m.cfg.Generation, err))
			return
		}
		m.report(fmt.Sprintf("slot %d: worker %d of generation %d is ready and answers (%.0f ms)", c.n, c.id, m.cfg.Generation, ms(time.Since(c.started))))
	})
}

// report tells the master before how it goes.
func (m *Master) report(text string) {
	m.say("STATUS=" + oneLine(text))
}

func (m *Master) say(text string) {
	_ = m.cfg.Succession.Predecessor.Send(text, fmt.Sprintf("%s=%d", notify.GenerationVariable, m.cfg.Generation))
}

// oneLine makes text fit into an assignment.
func oneLine(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	return text[:min(len(text), 2048)]
}

// decline gives up. The workers took no connections; the keeper ends them.
func (m *Master) decline(err error) {
	if m.yielded || m.phase != running {
		return
	}
	m.outcome = &RefusedError{err.Error()}
	m.giveWay(err.Error())
}

// giveWay ends a successor that does not take over. It is not the end of the
// instance, whose sockets and workers it leaves alone.
func (m *Master) giveWay(why string) {
	m.yielded = true
	for _, c := range m.children { // the keeper may not know them: a program can write over its environment
		m.platform.kill(c.pid, c.stop)
	}
	m.say(refusalKey + "=" + oneLine(why))
}

// takeCharge makes this generation the one that serves. The workers take
// connections first, so that some do at each moment.
func (m *Master) takeCharge() {
	for _, c := range m.children {
		c.letAccept()
	}
	m.cfg.Fault.At("before-ready")
	if err := m.cfg.Flip.ready(); err != nil {
		m.publish(event.Event{Kind: event.Warning, Message: fmt.Sprintf("the master before is gone already: %v", err)})
	}
	m.cfg.Fault.At("after-ready")
	m.inChargeSince = time.Now()
	m.lastUpgrade = &UpgradeStatus{Outcome: "done", Time: m.inChargeSince, Message: fmt.Sprintf("generation %d runs version %s", m.cfg.Generation, m.cfg.Version)}
	m.committed = true
	m.committing(len(m.seats))
	m.cfg.Fault.At("committed")
}

// onProbation gives a program up whose workers crash again and again.
func (m *Master) onProbation() {
	if m.cfg.Succession == nil || !m.committed || time.Since(m.inChargeSince) > m.cfg.Probation {
		return
	}
	for _, s := range m.seats {
		if s.slot.fails < unfitAfter {
			return
		}
	}
	why := "its workers crash again and again: " + m.lastCauses()
	m.publish(event.Event{Kind: event.Warning, Message: "the new program is given up: " + why})
	m.platform.tell(notify.UnfitVariable + "=" + oneLine(why))
	m.yielded, m.outcome = true, fmt.Errorf("%w: %s", ErrUnfit, why)
}
