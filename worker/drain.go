package worker

import (
	"fmt"
	"time"

	"revenant/worker/scoreboard"
)

// unreadPatience is how long a connection without a first byte is waited for, however short the quiet period:
// its client may have connected a moment ago and be about to write.
const unreadPatience = time.Second

// beginDrain stops accepting and makes answers say "Connection: close". It returns at once.
func (s *server) beginDrain() {
	s.drainedSince.Store(time.Now().UnixNano())
	close(s.draining)
	for _, a := range s.acceptors {
		a.stop()
	}
}

// drain waits until every connection is gone. When enough says why it must not wait any longer, it closes
// what is left and says how much that was.
func (s *server) drain(quiet time.Duration, enough <-chan string) error {
	emptied := make(chan struct{})
	// Ends when the acceptors do, which emptyingLimit bounds; waited for here.
	go func() { s.serving.Wait(); close(emptied) }()
	timer := time.NewTimer(quiet)
	defer timer.Stop()
	accepting := true
	for {
		next := s.retire(quiet)
		if !accepting && s.open() == 0 {
			return s.http.Close()
		}
		timer.Reset(time.Until(next))
		select {
		case <-emptied:
			accepting, emptied = false, nil
		case <-s.changed:
		case <-timer.C:
		case why := <-enough:
			return s.cut(why)
		}
	}
}

// retire closes the connections that have rested for the quiet period and says when to look again.
func (s *server) retire(quiet time.Duration) time.Time {
	now := time.Now()
	next := now.Add(max(quiet, unreadPatience))
	for _, c := range s.each() {
		due, resting := c.due(quiet)
		switch {
		case !resting:
		case !due.After(now):
			c.retire()
		case due.Before(next):
			next = due
		}
	}
	return next
}

// due says when a resting connection has rested long enough.
func (c *conn) due(quiet time.Duration) (time.Time, bool) {
	since, resting := c.restingSince(c.server.drainedSince.Load())
	if scoreboard.State(c.place.Load()) == scoreboard.Unread {
		quiet = max(quiet, unreadPatience)
	}
	return time.Unix(0, since).Add(quiet), resting
}

// cut closes whatever is left, hijacked connections too.
func (s *server) cut(why string) error {
	left := s.each()
	s.http.Close()
	for _, c := range left {
		c.net.Close()
	}
	if len(left) == 0 {
		return nil
	}
	return fmt.Errorf("cannot finish %d open connections: %s", len(left), why)
}
