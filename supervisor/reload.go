package supervisor

import (
	"context"
	"errors"
	"fmt"

	"revenant/supervisor/event"
)

// Reload reads the settings again and replaces every worker, successor first. It
// returns when that has begun. who is named to others: "uid 0, pid 4711".
func (m *Master) Reload(ctx context.Context, who string) (*Operation, error) {
	return m.operate(ctx, func() (*Operation, error) { return m.reload(who) })
}

// Restart replaces a worker, or all with worker 0, successor first. It returns
// when that has begun.
func (m *Master) Restart(ctx context.Context, worker uint64, who string) (*Operation, error) {
	return m.operate(ctx, func() (*Operation, error) { return m.restart(worker, who) })
}

// Scale changes the number of workers, to n or with relative by n. It returns
// when that has begun.
func (m *Master) Scale(ctx context.Context, n int, relative bool, who string) (*Operation, error) {
	return m.operate(ctx, func() (*Operation, error) {
		if relative {
			n += len(m.seats)
		}
		return m.scale(n, who)
	})
}

func (m *Master) operate(ctx context.Context, begin func() (*Operation, error)) (op *Operation, err error) {
	if asked := m.ask(ctx, func() { op, err = begin() }); asked != nil {
		return nil, asked
	}
	return op, err
}

// errNothingToReread is what a master without a Reread says.
var errNothingToReread = errors.New("there are no settings to read again")

func (m *Master) reload(who string) (*Operation, error) {
	op, err := m.begin(opReload, who)
	if err != nil {
		return nil, fmt.Errorf("cannot reload: %w", err)
	}
	if m.cfg.Reread == nil {
		m.finish(op, errNothingToReread)
		return op, nil
	}
	op.step = "reading the settings again"
	// Ends with the reading; a result that comes after the operation's end is dropped.
	go func() {
		s, changes, err := m.cfg.Reread()
		m.send(func() { m.reread(op, s, changes, err) })
	}()
	return op, nil
}

// reread goes on with what was read, unless a stop was quicker.
func (m *Master) reread(op *Operation, s Settings, changes []string, err error) {
	switch {
	case op != m.operation:
		return
	case err != nil:
		m.finish(op, fmt.Errorf("refused, nothing was changed: %w", err))
		return
	}
	if len(changes) == 0 {
		changes = []string{"no setting differs"}
	}
	for _, line := range changes {
		m.progress(op, event.Event{Message: line})
	}
	m.apply(op, s.withDefaults())
}

// apply makes settings effective and has every worker replaced. More workers come
// first and fewer last. On failure the new workers that serve stay, the others
// are what they were, and so are the settings for whoever is started next.
func (m *Master) apply(op *Operation, s Settings) {
	old, former, before, target := m.cfg.Settings, m.vigil.acquaintance, m.size, m.size
	if s.Workers != old.Workers {
		target = s.Workers
	}
	m.cfg.Settings = s
	m.vigil.newProgram()
	r := &roll{op: op, reason: opReload, limit: target}
	r.end = func(err error) {
		if err != nil {
			m.cfg.Settings, target = old, before
			m.keepOld(r, op, former)
		} else {
			m.inForce(before, target)
		}
		if m.phase == running {
			m.resize(target)
		}
	}
	m.startRoll(r)
	if target > before {
		m.resize(target)
	}
	m.size = target // each new worker gets its share of it
}

// inForce makes settings those that a later master goes on with.
func (m *Master) inForce(before, target int) {
	if target != before {
		m.state.setSize(0) // what the settings say
		m.publish(event.Event{Kind: event.WorkersChanged, Count: target})
	}
	m.platform.tell(m.terms())
	if m.cfg.Applied != nil {
		m.cfg.Applied()
	}
}

// keepOld says what a failed reload leaves behind. What is known of the former
// program is true of all workers only when none was replaced.
func (m *Master) keepOld(r *roll, op *Operation, former acquaintance) {
	n := 0
	for _, done := range r.finished {
		if done {
			n++
		}
	}
	text := "the former settings are in force again; no worker was replaced"
	if n > 0 {
		text = fmt.Sprintf("the former settings are in force again for workers that start from now on; %d new ones serve with the settings that were refused (revenant restart all brings them back)", n)
	}
	if n == 0 {
		m.vigil.acquaintance = former
	}
	m.progress(op, event.Event{Message: text})
}

func (m *Master) restart(worker uint64, who string) (*Operation, error) {
	r := &roll{reason: opRestart}
	if worker != 0 {
		c := m.children[worker]
		if c == nil {
			return nil, &UnknownWorkerError{worker}
		}
		if m.seatOf(c) == nil {
			return nil, fmt.Errorf("cannot restart worker %d: it is not in a slot any more, or not yet (see revenant ps)", worker)
		}
		r.first, r.limit = c.n, c.n+1
	}
	op, err := m.begin(opRestart, who)
	if err != nil {
		return nil, fmt.Errorf("cannot restart: %w", err)
	}
	r.op = op
	m.startRoll(r)
	return op, nil
}

// maxWorkers bounds a slip of the finger; it is the same as for --workers.
const maxWorkers = 512

// scale changes the number of workers. It has ended when the new ones serve; when
// one of them cannot, the number is what it was before. While one is under way,
// another goes on from where that stands.
func (m *Master) scale(n int, who string) (*Operation, error) {
	if n < 1 || n > maxWorkers {
		return nil, fmt.Errorf("cannot run %d workers: from 1 to %d are possible", n, maxWorkers)
	}
	op := m.operation
	if op == nil || op.kind != opScale {
		var err error
		if op, err = m.begin(opScale, who); err != nil {
			return nil, fmt.Errorf("cannot change the number of workers to %d: %w", n, err)
		}
		before := len(m.seats)
		m.startRoll(&roll{op: op, reason: opScale, first: before, end: func(err error) {
			if err != nil && m.phase == running {
				m.setNumber(op, min(before, len(m.seats)))
			}
		}})
	}
	m.setNumber(op, n)
	return op, nil
}

func (m *Master) setNumber(op *Operation, n int) {
	if n == len(m.seats) {
		return
	}
	m.state.setSize(n)
	m.publish(event.Event{Kind: event.WorkersChanged, Count: n})
	m.progress(op, event.Event{Message: fmt.Sprintf("workers: %d → %d", len(m.seats), n)})
	m.resize(n)
}
