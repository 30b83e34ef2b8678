package supervisor

import (
	"cmp"
	"context"
	"time"

	"revenant/supervisor/event"
)

// Report is all that there is to say of one worker, living or dead.
type Report struct {
	WorkerStatus
	Started time.Time `json:"started,omitzero"`
	// LastLines is what it printed last, oldest first, harmless to show; of a dead
	// one complete. None of a worker that prints where we do.
	LastLines []string `json:"last_lines,omitempty"`
	// Exit is how it ended, nil while it lives.
	Exit *event.Exit `json:"exit,omitempty"`
	// Ended is when, and Detail what the cause does not say.
	Ended  *time.Time `json:"ended,omitempty"`
	Detail string     `json:"detail,omitempty"`
}

// obituaries is how many of the newest dead are remembered, by a master: the next
// one does not know them.
const obituaries = 64

// bury remembers a worker that has ended, with what its event says.
func (m *Master) bury(r Report, e event.Event, ended time.Time) {
	r.Slot, r.Worker, r.PID, r.State, r.Generation = *e.Slot, e.Worker, e.PID, "dead", cmp.Or(e.Generation, m.cfg.Generation)
	r.Uptime, r.InFlight = e.Uptime, int64(e.InFlight)
	r.LastLines, r.Exit, r.Ended, r.Detail = e.LastLines, e.Exit, &ended, e.Message
	m.dead = append(m.dead, r)
	if len(m.dead) > obituaries {
		m.dead = append(m.dead[:0], m.dead[len(m.dead)-obituaries:]...)
	}
}

// lastExit shows an end beside its slot, with what is to be said of it there.
func (m *Master) lastExit(e event.Event, at time.Time, detail string) {
	if *e.Slot < len(m.seats) {
		m.seats[*e.Slot].lastExit = &LastExit{Worker: e.Worker, Generation: cmp.Or(e.Generation, m.cfg.Generation), Cause: e.Cause, Reason: e.Reason,
			Time: at, Planned: e.Planned, InFlight: e.InFlight, Detail: detail}
	}
}

// Show reports one worker. The error is an *UnknownWorkerError for one that
// neither lives nor is remembered.
func (m *Master) Show(ctx context.Context, worker uint64) (r Report, err error) {
	if asked := m.ask(ctx, func() { r, err = m.reportOf(worker) }); asked != nil {
		return r, asked
	}
	if err == nil && r.Exit == nil {
		r.measure()
	}
	return r, err
}

func (m *Master) reportOf(worker uint64) (Report, error) {
	if c := m.children[worker]; c != nil {
		r := Report{Started: c.started, LastLines: c.output.lastLines(), Detail: c.detail}
		for _, w := range m.status(time.Now()).Workers {
			if w.Worker == worker {
				r.WorkerStatus = w
			}
		}
		return r, nil
	}
	if o := m.orphans[worker]; o != nil {
		return Report{WorkerStatus: m.orphanStatus(o, time.Now()), Started: o.started(), LastLines: o.output.lastLines()}, nil
	}
	for i := len(m.dead) - 1; i >= 0; i-- {
		if m.dead[i].Worker == worker {
			return m.dead[i], nil
		}
	}
	return Report{}, &UnknownWorkerError{worker}
}
