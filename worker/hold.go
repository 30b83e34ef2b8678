package worker

import (
	"context"
	"os"

	"revenant/supervisor/notify"
)

// A master that is to take over from another one has its workers wait: each is ready, answers it through the
// door, and takes no connection before the master says so. So no client meets a program that is refused.

// holdKey stands in the greeting of such a master.
const holdKey = "X_REVENANT_HOLD"

// await returns when the worker may take connections: when the master said so, or is gone, for then nobody
// ever will. It returns false when the worker is to end before that.
func (r *running) await(ctx context.Context, hold *notify.Question) bool {
	over, end := context.WithCancel(ctx)
	defer end()
	goes := make(chan struct{})
	// Ends with the question, or when over does.
	go func() {
		defer close(goes)
		_, _ = hold.Next(over)
		_ = hold.Close()
	}()
	why := ""
	select {
	case <-goes:
		if ctx.Err() == nil {
			return true
		}
		why = "over"
	case sig := <-r.signals:
		why = sig.String()
	case <-r.asked:
		why = "asked"
	case <-r.orphaned:
		why = "keeper gone"
	}
	r.leave(ctx, why)
	return false
}

func (r *running) leave(ctx context.Context, why string) {
	r.options.log.Log(ctx, r.level(), "leaving before the first connection", "reason", why)
	if err := r.client.Send(notify.Stopping); err != nil {
		r.options.log.Debug("cannot say that this worker leaves", "err", err)
	}
}

// toldToLeave ends a worker whose master did not greet back, when it was told to drain before it took
// anything: its master gave up, and it was never to serve.
func (r *running) toldToLeave(ctx context.Context) bool {
	if !level().identity.Supervised {
		return false
	}
	select {
	case sig := <-r.signals:
		r.leave(ctx, sig.String())
		return true
	default:
		return false
	}
}

// welcome is what a worker got from its master. Each may be nil.
type welcome struct {
	greeting greeting
	orphaned <-chan struct{}
	door     <-chan *os.File
}
