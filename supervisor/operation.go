package supervisor

import (
	"context"
	"fmt"
	"time"

	"revenant/supervisor/event"
	"revenant/supervisor/notify"
)

// Kinds of operations: what somebody changes on a running instance.
const (
	opReload  = "reload"
	opRestart = "restart"
	opRecycle = "recycle"
	opScale   = "scale"
	opUpgrade = "upgrade"
)

// Operation is one change of the running instance on its way. There is one at a
// time. The loop owns it; the exported methods may be called from anywhere.
type Operation struct {
	number uint64
	kind   string
	who    string // "SIGHUP", "uid 0, pid 4711", "max-age of worker 7"
	since  time.Time
	step   string // the newest one, in words

	ctx context.Context
	end context.CancelCauseFunc
	err error // the outcome; set before ctx ends
}

// Number is what the operation's events carry; it counts up within a master.
func (op *Operation) Number() uint64 { return op.number }

// Done is closed when the operation has ended.
func (op *Operation) Done() <-chan struct{} { return op.ctx.Done() }

// Err is the outcome once Done is closed: nil, or why it failed.
func (op *Operation) Err() error { return op.err }

// BusyError says that another operation is under way.
type BusyError struct {
	Kind  string
	Who   string
	Since time.Time
}

func (e *BusyError) Error() string {
	return fmt.Sprintf("a %s is under way, begun by %s at %s, %s ago (wait until it has ended, see revenant ps)",
		e.Kind, e.Who, e.Since.Format("15:04:05.000"), event.Humane(time.Since(e.Since)))
}

// StoppingError says why an operation cannot begin, or did not come to its end.
type StoppingError struct{ Why string }

func (e *StoppingError) Error() string {
	return fmt.Sprintf("the instance is stopping (%s)", e.Why)
}

// begin starts an operation; recycling gives way to it. The error is a *BusyError while there is another
// one, a *StoppingError when the instance is about to end. Whoever begins it sees
// to it that finish is called. What works for it outside of the loop ends with
// op.ctx, whose cause says why: a stop does not wait for anybody.
func (m *Master) begin(kind, who string) (*Operation, error) {
	if m.phase != running {
		return nil, &StoppingError{m.stopping}
	}
	if op := m.operation; op != nil && op.kind == opRecycle && kind != opRecycle {
		m.cancel(fmt.Errorf("it gives way to a %s by %s", kind, who))
	}
	if op := m.operation; op != nil {
		return nil, &BusyError{op.kind, op.who, op.since}
	}
	m.begun++
	op := &Operation{number: m.begun, kind: kind, who: who, since: time.Now()}
	op.ctx, op.end = context.WithCancelCause(context.Background())
	m.operation = op
	m.tellChange(op, notify.Reloading)
	m.publish(event.Event{Kind: event.OperationStarted, Operation: op.number, Message: kind + " by " + who})
	return op, nil
}

// progress tells a step of an operation that is under way; its message is also
// what ps shows.
func (m *Master) progress(op *Operation, e event.Event) {
	if op != m.operation {
		return
	}
	op.step = e.Message
	e.Kind, e.Operation = event.OperationStep, op.number
	m.publish(e)
}

// finish ends an operation with its outcome. One that has ended already, because
// a stop cancelled it, keeps the outcome that it has.
func (m *Master) finish(op *Operation, err error) {
	if op != m.operation {
		return
	}
	m.operation = nil
	op.err = err
	e := event.Event{Kind: event.OperationDone, Operation: op.number, Message: fmt.Sprintf("%s, after %s", op.kind, event.Humane(time.Since(op.since)))}
	if err != nil {
		e.Kind, e.Message = event.OperationFailed, op.kind+": "+err.Error()
	}
	m.publish(e)
	m.tellChange(op, notify.Ready)
	op.end(err)
}

// OperationStatus is the operation under way, as ps shows it.
type OperationStatus struct {
	Number uint64    `json:"number"`
	Kind   string    `json:"kind"` // reload, restart, scale, upgrade, recycle
	Who    string    `json:"who"`
	Since  time.Time `json:"since"`
	Step   string    `json:"step,omitempty"` // the newest
}

func (m *Master) operationStatus() *OperationStatus {
	op := m.operation
	if op == nil {
		return nil
	}
	return &OperationStatus{op.number, op.kind, op.who, op.since, op.step}
}
