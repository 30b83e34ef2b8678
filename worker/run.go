package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor/notify"
)

// drainAsked is closed, and made anew, by Drain.
var (
	drainMu    sync.Mutex
	drainAsked = make(chan struct{})
)

// Drain makes every running Run drain, as if SIGTERM had come.
func Drain() {
	drainMu.Lock()
	defer drainMu.Unlock()
	close(drainAsked)
	drainAsked = make(chan struct{})
}

func drainRequests() <-chan struct{} {
	drainMu.Lock()
	defer drainMu.Unlock()
	return drainAsked
}

// Run serves handler until SIGTERM, SIGINT, [Drain], the end of ctx or of the supervisor, then drains and
// returns nil. The error says why it could not serve, or how much a drain that had to end early cut off.
//
// A supervised worker serves on the sockets it was handed and no others. Run takes them: a second Run in the
// same process listens on its own.
func Run(ctx context.Context, handler http.Handler, opts ...Option) error {
	o := defaults()
	for _, set := range opts {
		set(&o)
	}
	asked := drainRequests()
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT)
	defer signal.Stop(signals)

	listeners, own, client, err := sockets(ctx, o)
	if err != nil {
		return err
	}
	var met welcome
	if level().identity.Supervised {
		met = hello(client, o.log)
	}
	s := newServer(ctx, handler, met.greeting.board, o)
	defer s.openDoor(met.door)()
	r := running{server: s, client: client, options: o, signals: signals, asked: asked, orphaned: met.orphaned}
	if met.greeting.board == nil && r.toldToLeave(ctx) {
		closeAll(listeners)
		return nil
	}
	hold := met.greeting.hold
	if hold != nil {
		r.sayReady()
		if !r.await(ctx, hold) {
			closeAll(listeners)
			return nil
		}
	}
	if r.failed, err = s.serve(listeners, own); err != nil {
		closeAll(listeners)
		return err
	}
	if hold == nil {
		r.sayReady()
	}
	return r.untilDrained(ctx)
}

func (r *running) sayReady() {
	if err := r.client.Send(notify.Ready); err != nil {
		r.options.log.Warn("cannot say that this worker is ready", "err", err)
	}
}

// sockets are those of the level above, or our own.
func sockets(ctx context.Context, o options) (listeners []net.Listener, own bool, client *notify.Client, err error) {
	above := level()
	if above.err != nil {
		return nil, false, nil, above.err
	}
	files := claim(above.files)
	if len(files) == 0 {
		listeners, err = bind(ctx, o.listen)
		for _, ln := range listeners {
			o.log.Info("serving", "address", written(ln.Addr()))
		}
		return listeners, true, above.client, err
	}
	if above.identity.Supervised {
		// Standard output and error are pipes to a master. It may die; a worker then goes on.
		signal.Ignore(unix.SIGPIPE)
	}
	listeners, err = inherit(files)
	return listeners, false, above.client, err
}

var claimed sync.Once

// claim gives the inherited descriptors to the first who asks: afterwards their numbers belong to others.
func claim(files []notify.NamedFile) (mine []notify.NamedFile) {
	claimed.Do(func() { mine = files })
	return mine
}

// serve starts to accept on every listener and returns when all of them do. What makes one fail is sent.
func (s *server) serve(listeners []net.Listener, own bool) (<-chan error, error) {
	var started sync.WaitGroup
	failed := make(chan error, len(listeners))
	for _, ln := range listeners {
		a, err := newAcceptor(ln, own, s, started.Done)
		if err != nil {
			return nil, err
		}
		s.acceptors = append(s.acceptors, a)
	}
	for _, a := range s.acceptors {
		started.Add(1)
		// Ends when the acceptor stops or fails; drain waits for it.
		s.serving.Go(func() {
			if err := s.http.Serve(a); !errors.Is(err, errStopped) && !errors.Is(err, http.ErrServerClosed) {
				failed <- err
			}
		})
	}
	started.Wait()
	return failed, nil
}

// running is a Run that is ready, and all that can end it.
type running struct {
	server   *server
	client   *notify.Client
	options  options
	signals  <-chan os.Signal
	asked    <-chan struct{}
	orphaned <-chan struct{}
	failed   <-chan error
}

// untilDrained waits for a reason to drain and drains.
func (r *running) untilDrained(ctx context.Context) error {
	var failure error
	why := ""
	select {
	case sig := <-r.signals:
		why = sig.String()
	case <-r.asked:
		why = "asked"
	case <-ctx.Done():
		why = context.Cause(ctx).Error()
	case <-r.orphaned:
		why = "keeper gone"
	case failure = <-r.failed:
		why = failure.Error()
	}
	r.options.log.Log(ctx, r.level(), "draining", "reason", why)
	r.server.beginDrain()
	if err := r.client.Send(notify.Stopping); err != nil {
		r.options.log.Debug("cannot say that this worker drains", "err", err)
	}
	if err := r.drain(); err != nil {
		return fmt.Errorf("cannot drain: %w", errors.Join(err, failure))
	}
	return failure
}

// level of what a master would log in our place.
func (r *running) level() slog.Level {
	if level().identity.Supervised {
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

// drain bounds the drain of a worker that nobody else would end.
func (r *running) drain() error {
	done := make(chan struct{})
	defer close(done)
	enough := make(chan string, 1)
	// Ends with the drain.
	go r.limit(enough, done)
	return r.server.drain(r.options.quiet, enough)
}

// limit says when a drain took too long: after the drain timeout or at a second signal. While there is a
// keeper that is its business, and a second SIGTERM only one more request to drain.
func (r *running) limit(enough chan<- string, done <-chan struct{}) {
	signals := r.signals
	if level().identity.Supervised {
		signals = nil
		select {
		case <-r.orphaned:
		case <-done:
			return
		}
	}
	timeout := time.NewTimer(r.options.drainTimeout)
	defer timeout.Stop()
	select {
	case sig := <-signals:
		enough <- "a second signal came: " + sig.String()
	case <-timeout.C:
		enough <- "the drain timeout of " + r.options.drainTimeout.String() + " passed"
	case <-done:
	}
}
