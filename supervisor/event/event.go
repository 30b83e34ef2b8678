// Package event says what happened in an instance: once, typed, in order. The
// master publishes; the log, the control socket and the tests are fed from
// here and from nowhere else, so that they cannot tell different stories.
//
// Order: events have consecutive IDs, over all masters of an instance (Continue),
// and every subscriber sees them in that order. Back-pressure: publishing never waits.
// A subscriber that falls behind loses events and is told how many (a Lost
// event takes their place); the ring keeps the newest for late readers.
package event

import (
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// Kind names what happened. The names are part of the interface: they appear
// in `revenant events`, in the log and in scripts, and do not change.
type Kind string

// The kinds, from the life of the instance down to that of a worker.
const (
	MasterStarted      Kind = "master.started"
	MasterReady        Kind = "master.ready"
	InstanceReady      Kind = "instance.ready"
	InstanceDegraded   Kind = "instance.degraded"
	InstanceStopping   Kind = "instance.stopping"
	InstanceUpgraded   Kind = "instance.upgraded"
	InstanceRolledBack Kind = "instance.rolledback"
	InstanceStopped    Kind = "instance.stopped"
	OperationStarted   Kind = "operation.started"
	OperationStep      Kind = "operation.step"
	OperationDone      Kind = "operation.done"
	OperationFailed    Kind = "operation.failed"
	ListenerHarmed     Kind = "listener.harmed"
	WorkersChanged     Kind = "workers.changed"
	WorkerStarted      Kind = "worker.started"
	WorkerReady        Kind = "worker.ready"
	WorkerHung         Kind = "worker.hung"
	WorkerStopping     Kind = "worker.stopping"
	WorkerExited       Kind = "worker.exited"
	WorkerBackoff      Kind = "worker.backoff"
	ChaosGranted       Kind = "chaos.granted"
	ChaosRefused       Kind = "chaos.refused"
	SignalIgnored      Kind = "signal.ignored"
	Warning            Kind = "warning"
	Lost               Kind = "events.lost"
)

// Event is one thing that happened. Fields that do not apply are zero and are
// left out of the JSON; Slot is a pointer because slot 0 is a slot.
type Event struct {
	ID         uint64    `json:"id"`
	Time       time.Time `json:"time"`
	Kind       Kind      `json:"kind"`
	Generation int       `json:"generation,omitempty"`
	Slot       *int      `json:"slot,omitempty"`
	Worker     uint64    `json:"worker,omitempty"`
	PID        int       `json:"pid,omitempty"`
	Message    string    `json:"message,omitempty"`
	// Operation is the number of what an operator changes (reload, restart, ...),
	// unique within a generation, on its own events.
	Operation uint64 `json:"operation,omitempty"`
	// Former is the worker whose place Worker takes.
	Former uint64 `json:"former,omitempty"`
	// Start tells, in milliseconds, how long a worker took from fork to ready.
	Start float64 `json:"start_ms,omitempty"`
	// Exit is set on WorkerExited.
	*Exit
	// NextStart is when a slot in backoff is tried again.
	NextStart *time.Time `json:"next_start,omitempty"`
	// Count is how many events were lost, how many workers are wanted or ready, or
	// how many requests a stop has cut.
	Count int `json:"count,omitempty"`
}

// Exit describes a worker's end.
type Exit struct {
	// Cause is established, never guessed; see package supervisor.
	Cause string `json:"cause"`
	// Reason says in what course a worker was asked to leave: "reload", "max-age",
	// "stop" and others; "" when it was not.
	Reason string `json:"reason,omitempty"`
	// Planned exits were asked for and never count as crashes.
	Planned bool `json:"planned"`
	// InFlight counts the connections that held a request, or had been taken
	// from the queue and not been read yet, when the worker ended.
	InFlight int `json:"in_flight"`
	// Accepting is 1 when the worker was inside accept(2): it may have taken one
	// more connection than it had time to count.
	Accepting int `json:"accepting"`
	// Idle counts kept connections without a request.
	Idle int `json:"idle"`
	// Uptime is the age in milliseconds.
	Uptime float64 `json:"uptime_ms"`
	// LastLines is what the worker printed last, oldest first, harmless to show.
	LastLines []string `json:"last_lines,omitempty"`
}

// Level grades an event for the log: Info is what one operator would tell
// another, Warn healed by itself, Error needs a person.
func (e Event) Level() slog.Level {
	switch e.Kind {
	case WorkerExited:
		if e.Exit != nil && !e.Planned {
			return slog.LevelWarn
		}
	case InstanceRolledBack:
		return slog.LevelError
	case WorkerBackoff, WorkerHung, InstanceDegraded, ListenerHarmed, Lost, Warning, ChaosRefused, SignalIgnored, OperationFailed:
		return slog.LevelWarn
	case WorkerStarted, WorkerStopping, MasterReady:
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

// Attrs are the event's facts as log fields, with the same keys as its JSON.
func (e Event) Attrs() []slog.Attr {
	attrs := make([]slog.Attr, 0, 12)
	if e.Generation != 0 {
		attrs = append(attrs, slog.Int("generation", e.Generation))
	}
	if e.Slot != nil {
		attrs = append(attrs, slog.Int("slot", *e.Slot))
	}
	if e.Worker != 0 {
		attrs = append(attrs, slog.Uint64("worker", e.Worker))
	}
	if e.Former != 0 {
		attrs = append(attrs, slog.Uint64("former", e.Former))
	}
	if e.PID != 0 {
		attrs = append(attrs, slog.Int("pid", e.PID))
	}
	if e.Start != 0 {
		attrs = append(attrs, slog.Float64("start_ms", e.Start))
	}
	if e.Exit != nil {
		attrs = append(attrs, slog.String("cause", e.Cause))
		if e.Reason != "" {
			attrs = append(attrs, slog.String("reason", e.Reason))
		}
		attrs = append(attrs, slog.Bool("planned", e.Planned), slog.Int("in_flight", e.InFlight))
		if e.Uptime != 0 { // that of one whose end nobody saw is not known
			attrs = append(attrs, slog.String("uptime", Humane(time.Duration(e.Uptime*1e6))))
		}
	}
	if e.NextStart != nil {
		attrs = append(attrs, slog.String("next_start_in", Humane(e.NextStart.Sub(e.Time))))
	}
	if e.Count != 0 {
		attrs = append(attrs, slog.Int("count", e.Count))
	}
	if e.Operation != 0 {
		attrs = append(attrs, slog.Uint64("operation", e.Operation))
	}
	if e.Message != "" && e.Kind != Warning {
		attrs = append(attrs, slog.String("why", e.Message))
	}
	return attrs
}

// Text is the event's log message: its kind in words ("worker exited"), or what
// a warning says.
func (e Event) Text() string {
	if e.Kind == Warning {
		return e.Message
	}
	return strings.ReplaceAll(string(e.Kind), ".", " ")
}

// Humane prints a duration as an operator would say it: two units at the most,
// no fractions beyond what matters ("3m2s", "1.4s", "12ms", "3d4h").
func Humane(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%dh", int(d.Hours())/24, int(d.Hours())%24)
}
