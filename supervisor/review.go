package supervisor

import (
	"fmt"
	"os"
	"strings"
	"time"

	"revenant/supervisor/event"
	"revenant/supervisor/notify"
)

// review looks at the whole after each change: is the generation good, is the
// instance hopeless, should its health be told?
func (m *Master) review() {
	if m.phase != running {
		return
	}
	m.advance()
	serving, failing, hopeless := 0, 0, 0
	for _, s := range m.seats {
		if s.slot.serves() {
			serving++
			continue
		}
		if s.slot.fails > 0 {
			failing++
		}
		if s.slot.fails >= crashLoop {
			hopeless++
		}
	}
	if m.candidate() {
		m.audition()
		return
	}
	m.onProbation()
	switch {
	case m.yielded:
		return
	case !m.state.everReady() && failing == len(m.seats):
		m.giveUp(fmt.Errorf("%w: %s", ErrNoWorkerReady, m.lastCauses()))
		return
	case m.cfg.Policy.ExitOnCrashLoop && hopeless == len(m.seats):
		m.giveUp(fmt.Errorf("%w: %s", ErrCrashLoop, m.lastCauses()))
		return
	}
	m.commit(serving)
	m.tellHealth(serving)
	m.tellStatus(serving)
}

// commit tells the keeper once that this generation serves: when all workers do,
// or those that could in the time that a start may take.
func (m *Master) commit(serving int) {
	if m.committed || serving == 0 || serving < len(m.seats) && time.Since(m.began) < m.cfg.Policy.StartTimeout {
		return
	}
	m.committed = true
	if err := m.cfg.Flip.ready(); err != nil {
		m.publish(event.Event{Kind: event.Warning, Message: fmt.Sprintf("no upgrade will be possible: %v", err)})
	}
	m.committing(serving)
}

// committing tells everybody that this generation serves.
func (m *Master) committing(serving int) {
	m.state.setReady()
	m.introduceOrphans()
	if m.cfg.Succession != nil {
		m.speak()
	}
	m.platform.tell(notify.Ready, fmt.Sprintf("STATUS=%d of %d workers ready", serving, len(m.seats)), m.terms())
	m.publish(event.Event{Kind: event.MasterReady, PID: os.Getpid(), Count: serving})
	m.publish(event.Event{Kind: event.InstanceReady, Count: serving})
}

// terms tells the keeper how workers leave, in case it has to ask them.
func (m *Master) terms() string {
	return fmt.Sprintf("%s=%d %d", notify.TermsKey, m.cfg.Policy.DrainTimeout.Microseconds(), m.cfg.Program.stopSignal())
}

func (m *Master) tellHealth(serving int) {
	bad := false
	for _, s := range m.seats {
		bad = bad || s.slot.phase == backoff && s.slot.fails > 1
	}
	switch {
	case bad && !m.degraded:
		m.degraded = true
		m.publish(event.Event{Kind: event.InstanceDegraded, Count: serving, Message: fmt.Sprintf("%d of %d workers ready", serving, len(m.seats))})
	case m.degraded && serving == len(m.seats):
		m.degraded = false
		m.publish(event.Event{Kind: event.InstanceReady, Count: serving})
	}
}

// lastCauses says for each slot how its last worker ended, of ours.
func (m *Master) lastCauses() string {
	causes := make([]string, 0, len(m.seats))
	for _, s := range m.seats {
		if s.lastExit != nil && s.lastExit.Generation == m.cfg.Generation {
			causes = append(causes, fmt.Sprintf("slot %d: %s", s.n, s.lastExit))
		}
	}
	return strings.Join(causes, "; ")
}
