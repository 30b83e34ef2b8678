package worker

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"

	"revenant/worker/scoreboard"
)

// server is one Run: an http.Server and every connection it was ever given.
type server struct {
	handler http.Handler
	board   *scoreboard.Board // nil without a supervisor
	log     *slog.Logger
	http    http.Server

	acceptors []*acceptor
	serving   sync.WaitGroup // acceptors that have not stopped

	drainedSince atomic.Int64 // unix nanoseconds when the drain began, 0 before
	draining     chan struct{}
	changed      chan struct{} // holds one poke for the drain

	mu    sync.Mutex
	conns conn // head of a ring of all connections
	count int
}

func newServer(ctx context.Context, handler http.Handler, board *scoreboard.Board, o options) *server {
	s := &server{
		handler:  handler,
		board:    board,
		log:      o.log,
		draining: make(chan struct{}),
		changed:  make(chan struct{}, 1),
	}
	s.conns.prev, s.conns.next = &s.conns, &s.conns
	s.http = http.Server{
		ReadHeaderTimeout: defaultHeaderWait,
		IdleTimeout:       defaultIdle,
		MaxHeaderBytes:    defaultHeaderBytes,
		ErrorLog:          slog.NewLogLogger(o.log.Handler(), slog.LevelWarn),
		Protocols:         new(http.Protocols),
	}
	s.http.Protocols.SetHTTP1(true)
	for _, change := range o.server {
		change(&s.http)
	}
	if s.handler == nil {
		s.handler = http.DefaultServeMux
	}
	s.http.Handler = s
	s.hook(ctx)
	return s
}

// hook puts our hooks before those that WithServer set.
func (s *server) hook(ctx context.Context) {
	// The end of ctx begins the drain; requests in flight are to be finished, not cancelled.
	ctx = context.WithoutCancel(ctx)
	if s.http.BaseContext == nil {
		s.http.BaseContext = func(net.Listener) context.Context { return ctx }
	}
	connContext, connState := s.http.ConnContext, s.http.ConnState
	s.http.ConnContext = func(ctx context.Context, nc net.Conn) context.Context {
		ctx = context.WithValue(ctx, connKey{}, tracked(nc))
		if connContext != nil {
			ctx = connContext(ctx, nc)
		}
		return ctx
	}
	s.http.ConnState = func(nc net.Conn, state http.ConnState) {
		s.connState(tracked(nc), state)
		if connState != nil {
			connState(nc, state)
		}
	}
}

// connState hears from net/http. New and Closed are ours to know: accept and Close say them.
func (s *server) connState(c *conn, state http.ConnState) {
	switch state {
	case http.StateActive:
		c.move(scoreboard.Active) // a pipelined request: its bytes came with the one before
	case http.StateIdle:
		c.rest()
	case http.StateHijacked:
		c.move(scoreboard.Hijacked)
	}
}

func (s *server) isDraining() bool { return s.drainedSince.Load() != 0 }

// poke makes the drain look again. Nobody listens before it begins.
func (s *server) poke() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

func (s *server) enter(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.prev, c.next = s.conns.prev, &s.conns
	c.prev.next, c.next.prev = c, c
	s.count++
}

// leave forgets a connection and starts what was to follow its close.
func (s *server) leave(c *conn) {
	s.mu.Lock()
	if c.next == nil {
		s.mu.Unlock()
		return
	}
	c.prev.next, c.next.prev = c.next, c.prev
	c.prev, c.next = nil, nil
	s.count--
	after, last := c.onClose, s.count == 0
	c.onClose = nil
	s.mu.Unlock()
	for _, f := range after {
		go f() // ends when f does; nobody waits: it is the application's
	}
	if last && s.isDraining() {
		s.poke()
	}
}

// each returns all connections of this moment.
func (s *server) each() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*conn, 0, s.count)
	for c := s.conns.next; c != &s.conns; c = c.next {
		all = append(all, c)
	}
	return all
}

// open is how many connections there are.
func (s *server) open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}
