package stage

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// Event is a line of `revenant events -o json`.
type Event struct {
	ID         uint64
	Time       time.Time
	Kind       string
	Generation int
	Slot       int
	Worker     uint64
	PID        int
	Cause      string
	Planned    bool
	InFlight   int `json:"in_flight"`
	Accepting  int
	Idle       int
	StartMS    float64 `json:"start_ms"`
	Message    string
}

// Kinds of events that the scripts act on.
const (
	WorkerStarted  = "worker.started"
	WorkerReady    = "worker.ready"
	WorkerStopping = "worker.stopping"
	WorkerExited   = "worker.exited"
	MasterReady    = "master.ready"
)

// Watch follows the events of an instance and knows from them who is ready.
type Watch struct {
	Instance *Instance

	end  context.CancelFunc
	done chan struct{}

	mu      sync.Mutex
	ready   map[uint64]Worker
	events  []Event
	changed chan struct{} // closed and replaced with each event
	err     error
}

// Watch begins to follow. Close ends it.
func (i *Instance) Watch(ctx context.Context) (*Watch, error) {
	began := time.Now()
	ctx, end := context.WithCancel(ctx)
	cmd := i.Command(ctx, "events", "-f", "-o", "json")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		end()
		return nil, fmt.Errorf("cannot follow the events of instance %s: %w", i.Name, err)
	}
	w := &Watch{Instance: i, end: end, done: make(chan struct{}), ready: map[uint64]Worker{}, changed: make(chan struct{})}
	// Ends with the command, which ends with ctx; Close waits for it.
	go func() {
		defer close(w.done)
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			var e Event
			if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
				w.fail(fmt.Errorf("cannot understand the event %q: %w", lines.Text(), err))
				continue
			}
			w.take(e, began)
		}
		w.fail(fmt.Errorf("the events of instance %s have ended: %v", i.Name, cmd.Wait()))
	}()
	if err := w.begin(ctx); err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

// begin learns who is ready now. What the events have said since is newer.
func (w *Watch) begin(ctx context.Context) error {
	status, err := w.Instance.PS(ctx)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	left := map[uint64]bool{}
	for _, e := range w.events {
		left[e.Worker] = left[e.Worker] || e.Kind == WorkerExited || e.Kind == WorkerStopping
	}
	for _, worker := range status.Workers {
		if worker.State == "ready" && !left[worker.Worker] {
			w.ready[worker.Worker] = worker
		}
	}
	return nil
}

func (w *Watch) take(e Event, began time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch e.Kind {
	case WorkerReady:
		w.ready[e.Worker] = Worker{Slot: e.Slot, Worker: e.Worker, PID: e.PID, State: "ready"}
	case WorkerStopping, WorkerExited:
		delete(w.ready, e.Worker)
	}
	if e.Time.Before(began) {
		return // the instance repeats what was before us
	}
	w.events = append(w.events, e)
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *Watch) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
	close(w.changed)
	w.changed = make(chan struct{})
}

// Close stops following.
func (w *Watch) Close() {
	w.end()
	<-w.done
}

// Ready are the workers that take requests, by slot.
func (w *Watch) Ready() []Worker {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.SortedFunc(maps.Values(w.ready), func(a, b Worker) int { return a.Slot - b.Slot })
}

// Events are those of a kind since a time.
func (w *Watch) Events(kind string, since time.Time) []Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	var found []Event
	for _, e := range w.events {
		if e.Kind == kind && !e.Time.Before(since) {
			found = append(found, e)
		}
	}
	return found
}

// Await waits until the answer is yes; it asks again after each event.
func (w *Watch) Await(ctx context.Context, what string, ok func() bool) error {
	for {
		w.mu.Lock()
		changed, err := w.changed, w.err
		w.mu.Unlock()
		if ok() {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited in vain until %s: %w", what, context.Cause(ctx))
		case <-changed:
		}
	}
}

// AwaitReady waits until so many workers are ready.
func (w *Watch) AwaitReady(ctx context.Context, n int) error {
	return w.Await(ctx, fmt.Sprintf("%d workers of instance %s are ready", n, w.Instance.Name), func() bool { return len(w.Ready()) == n })
}

// AwaitExit waits for the exit event of a worker.
func (w *Watch) AwaitExit(ctx context.Context, worker uint64) (Event, error) {
	var exit Event
	err := w.Await(ctx, fmt.Sprintf("worker %d of instance %s has exited", worker, w.Instance.Name), func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, e := range w.events {
			if e.Kind == WorkerExited && e.Worker == worker {
				exit = e
				return true
			}
		}
		return false
	})
	return exit, err
}
