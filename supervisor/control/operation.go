package control

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"syscall"

	"golang.org/x/sys/unix"

	"revenant/supervisor"
	"revenant/supervisor/event"
)

// who names the peer to other operators, by word of the kernel.
func who(r *http.Request) string {
	peer, _ := r.Context().Value(peerKey{}).(*unix.Ucred)
	if peer == nil {
		return "somebody"
	}
	return fmt.Sprintf("uid %d, pid %d", peer.Uid, peer.Pid)
}

func (s *Server) reload(w http.ResponseWriter, r *http.Request) {
	s.operate(w, r, func() (*supervisor.Operation, error) { return s.master.Reload(r.Context(), who(r)) })
}

// restartWish is the body of a wish to restart: {"worker":3} or {"worker":"all"}.
type restartWish struct {
	Worker any `json:"worker"`
}

// id is the worker, 0 for all.
func (w restartWish) id() (uint64, bool) {
	switch worker := w.Worker.(type) {
	case string:
		return 0, worker == "all"
	case float64:
		return uint64(worker), worker >= 1 && worker == math.Trunc(worker)
	}
	return 0, false
}

func (s *Server) restart(w http.ResponseWriter, r *http.Request) {
	var wish restartWish
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4096)).Decode(&wish)
	worker, ok := wish.id()
	if err != nil || !ok {
		problem(w, http.StatusBadRequest, `the body is neither {"worker":3} nor {"worker":"all"}`)
		return
	}
	s.operate(w, r, func() (*supervisor.Operation, error) { return s.master.Restart(r.Context(), worker, who(r)) })
}

// upgradeWish is the body of a wish to upgrade.
type upgradeWish struct {
	Binary   string `json:"binary,omitempty"`
	Rollback bool   `json:"rollback,omitempty"`
}

func (s *Server) upgrade(w http.ResponseWriter, r *http.Request) {
	var wish upgradeWish
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 8192)).Decode(&wish); err != nil || wish.Rollback && wish.Binary != "" {
		problem(w, http.StatusBadRequest, `the body is none of {"binary":"/path"}, {"rollback":true} and {}`)
		return
	}
	s.operate(w, r, func() (*supervisor.Operation, error) {
		return s.master.Upgrade(r.Context(), wish.Binary, wish.Rollback, who(r))
	})
}

// scaleWish is the body of a wish to scale.
type scaleWish struct {
	N        *int `json:"n"`
	Relative bool `json:"relative"`
}

func (s *Server) scale(w http.ResponseWriter, r *http.Request) {
	var wish scaleWish
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4096)).Decode(&wish); err != nil || wish.N == nil {
		problem(w, http.StatusBadRequest, `the body is not {"n":4} or {"n":-1,"relative":true}`)
		return
	}
	s.operate(w, r, func() (*supervisor.Operation, error) {
		return s.master.Scale(r.Context(), *wish.N, wish.Relative, who(r))
	})
}

// operate begins an operation and streams its events, an object a line; the last
// one is its outcome. The operation goes on when the client does not.
func (s *Server) operate(w http.ResponseWriter, r *http.Request, begin func() (*supervisor.Operation, error)) {
	_, live := s.master.Events().Subscribe(math.MaxUint64, follower)
	defer live.Close()
	op, err := begin()
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	out, flush := json.NewEncoder(w), http.NewResponseController(w)
	for {
		if flush.Flush() != nil {
			return
		}
		select {
		case e := <-live.Events():
			if e.Operation == op.Number() && (out.Encode(e) != nil || over(e)) {
				return
			}
		case <-op.Done():
			s.outcome(out, op, live)
			return
		case <-r.Context().Done():
			return
		}
	}
}

func over(e event.Event) bool {
	return e.Kind == event.OperationDone || e.Kind == event.OperationFailed
}

// outcome tells the rest of an operation that has ended; also when this reader
// was so slow that events were lost to it.
func (s *Server) outcome(out *json.Encoder, op *supervisor.Operation, live *event.Subscription) {
	live.Close()
	for e := range live.Events() {
		if e.Operation == op.Number() && (out.Encode(e) != nil || over(e)) {
			return
		}
	}
	last := event.Event{Kind: event.OperationDone, Operation: op.Number()}
	if err := op.Err(); err != nil {
		last.Kind, last.Message = event.OperationFailed, err.Error()
	}
	_ = out.Encode(last)
}

// OperationError is the outcome of an operation that failed, as the master tells it.
type OperationError struct{ Text string }

func (e *OperationError) Error() string { return e.Text }

// errCutOff says that the end of an operation was not heard.
var errCutOff = errors.New("the master is gone and its end of the operation was not heard (see revenant ps and revenant events)")

// Reload has the settings read again and every worker replaced. Each event of the
// operation is handed to do. The error is an *OperationError when it failed.
func (c *Client) Reload(ctx context.Context, do func(event.Event) error) error {
	return c.operate(ctx, "/v1/reload", struct{}{}, do)
}

// Restart replaces a worker, or all of them with 0. See Reload.
func (c *Client) Restart(ctx context.Context, worker uint64, do func(event.Event) error) error {
	wish := restartWish{Worker: worker}
	if worker == 0 {
		wish.Worker = "all"
	}
	return c.operate(ctx, "/v1/restart", wish, do)
}

// Upgrade has another program take over: the one at path, with an empty path that
// in the file of the running one, or with back the one before. See Reload.
func (c *Client) Upgrade(ctx context.Context, path string, back bool, do func(event.Event) error) error {
	return c.operate(ctx, "/v1/upgrade", upgradeWish{path, back}, do)
}

// Scale changes the number of workers to n, or with relative by n. See Reload.
func (c *Client) Scale(ctx context.Context, n int, relative bool, do func(event.Event) error) error {
	return c.operate(ctx, "/v1/scale", scaleWish{&n, relative}, do)
}

func (c *Client) operate(ctx context.Context, path string, wish any, do func(event.Event) error) error {
	body, x, err := c.send(ctx, path, wish)
	switch {
	case errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET):
		return errCutOff
	case err != nil:
		return err
	}
	defer body.Close()
	x.limit(0)
	for in := json.NewDecoder(body); ; {
		var e event.Event
		if in.Decode(&e) != nil {
			return cmp.Or(ctx.Err(), errCutOff)
		}
		if err := do(e); err != nil {
			return err
		}
		switch e.Kind {
		case event.OperationDone:
			return nil
		case event.OperationFailed:
			return &OperationError{e.Message}
		}
	}
}
