package worker

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// connKey finds the connection in a request's context.
type connKey struct{}

func connOf(ctx context.Context) *conn {
	c, _ := ctx.Value(connKey{}).(*conn)
	return c
}

// deliveryPatience bounds Delivered: a client that does not read must not keep a worker alive.
const deliveryPatience = time.Second

// ErrNotDelivered says that the client has not acknowledged everything in time.
var ErrNotDelivered = errors.New("the client has not acknowledged the whole answer")

// Delivered waits, for a second at most, until the client's kernel acknowledged every byte written on this
// request's connection. A handler that has flushed its answer can then end the process without taking the
// answer back. ctx is the request's; that it was cancelled does not matter, for a client that has closed its
// side for writing can still read.
func Delivered(ctx context.Context) error {
	c := connOf(ctx)
	if c == nil {
		return nil // not served by Run: nothing is known and nothing can be waited for
	}
	if c.pending(unix.SIOCOUTQ) == 0 {
		return nil
	}
	// No event tells of an acknowledgement, so the kernel is asked every millisecond.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), deliveryPatience)
	defer cancel()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ErrNotDelivered
		case <-ticker.C:
			if c.pending(unix.SIOCOUTQ) == 0 {
				return nil
			}
		}
	}
}

// AfterClose runs f in a goroutine of its own when this request's connection is closed, which net/http does
// after an answer that said "Connection: close". The request is then answered, counted, and no longer in
// flight. Outside of Run it runs f when the request is over.
func AfterClose(ctx context.Context, f func()) {
	c := connOf(ctx)
	if c == nil {
		context.AfterFunc(ctx, f)
		return
	}
	c.server.mu.Lock()
	open := c.next != nil
	if open {
		c.onClose = append(c.onClose, f)
	}
	c.server.mu.Unlock()
	if !open {
		go f() // ends when f does; nobody waits: it is the application's
	}
}

// Draining returns a channel that is closed when the worker begins to drain, for handlers that hold a
// connection for long: the drain waits for them. ctx is the request's. Outside of Run it is never closed.
func Draining(ctx context.Context) <-chan struct{} {
	if c := connOf(ctx); c != nil {
		return c.server.draining
	}
	return nil
}
