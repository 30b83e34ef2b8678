// Package ledger is a load client that counts honestly. How many requests there
// will be is fixed beforehand, or by when they were started; each ends in
// exactly one class; none is ever sent again in silence, as net/http's client
// does with a GET on a stale connection. If the classes do not sum up to what
// was started, the run is void, and says so.
package ledger

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// ErrVoid is what a run returns that proves nothing: it was cut short, or the
// client itself ran out of something.
var ErrVoid = errors.New("the run is void")

// Load is what to send. Target and one of Requests and Duration are needed.
type Load struct {
	Target   string // tcp://HOST:PORT or unix:/PATH
	Path     string // "/" by default
	Header   string // further lines, each with its CR LF
	Requests int    // so many, all together
	Duration time.Duration

	// Clients send side by side: 1 by default. Each waits for its answer before
	// it goes on (a closed loop), unless Rate says when requests are due. Then
	// latency counts from that time, so that a stall is not forgotten, and there
	// should be enough clients that one is free.
	Clients   int
	Rate      float64 // requests per second, all together; 0: closed loop
	KeepAlive bool

	// Post makes every second request a POST of so many bytes, or with PostOnly
	// every one.
	Post     int
	PostOnly bool

	ConnectTimeout time.Duration // 2 s by default
	Timeout        time.Duration // 10 s by default

	// Right says whether the body answers the request. By default it must not
	// be empty, and hold the checksum of what was posted.
	Right func(Request, Response) bool
	// Stop ends a Duration early: what was started then is what counts.
	Stop <-chan struct{}
	// Answered, if there is one, is told of each right answer as it comes, for those
	// who end a load when there were enough.
	Answered *atomic.Int64
}

// Run sends it all and waits for every answer. The error is ErrVoid, with the
// cause, when the report proves nothing.
func (l Load) Run(ctx context.Context) (Report, error) {
	l = l.withDefaults()
	if (l.Requests > 0) == (l.Duration > 0) {
		return Report{}, fmt.Errorf("%w: either a number of requests or a duration is needed", ErrVoid)
	}
	var name [4]byte
	rand.Read(name[:])
	r := &run{load: l, name: hex.EncodeToString(name[:]), begin: time.Now()}
	tallies := make([]tally, l.Clients)
	var clients sync.WaitGroup
	for i := range tallies {
		// Ends with the run or with ctx; the Wait below waits for it.
		clients.Go(func() { r.client(ctx, &tallies[i]) })
	}
	clients.Wait()
	report := Report{Begin: r.begin, End: time.Now()}
	for i := range tallies {
		report.add(&tallies[i])
	}
	return report, r.verdict(ctx, report)
}

func (l Load) withDefaults() Load {
	l.Clients = max(l.Clients, 1)
	if l.Path == "" {
		l.Path = "/"
	}
	if l.ConnectTimeout == 0 {
		l.ConnectTimeout = 2 * time.Second
	}
	if l.Timeout == 0 {
		l.Timeout = 10 * time.Second
	}
	if l.Right == nil {
		l.Right = func(r Request, a Response) bool {
			return len(a.Body) > 0 && bytes.Contains(a.Body, []byte(r.Sum))
		}
	}
	return l
}

// run is a load under way.
type run struct {
	load  Load
	name  string
	begin time.Time

	started atomic.Int64
	stopped atomic.Bool
}

func (r *run) client(ctx context.Context, t *tally) {
	client := &Client{
		Target: r.load.Target, KeepAlive: r.load.KeepAlive,
		ConnectTimeout: r.load.ConnectTimeout, Timeout: r.load.Timeout,
	}
	defer client.Close()
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	for {
		n, due, ok := r.next(ctx, timer)
		if !ok {
			return
		}
		request := r.request(n)
		outcome := client.Do(request)
		if outcome.Class == Answered && !r.load.Right(request, outcome.Response) {
			outcome.Class = WrongBody
			outcome.Err = fmt.Errorf("the body is %.60q", outcome.Response.Body)
		}
		if due.IsZero() {
			due = outcome.Begin
		}
		if outcome.Class == Answered && r.load.Answered != nil {
			r.load.Answered.Add(1)
		}
		t.count(request.ID, outcome, due, r.begin)
		if outcome.Class == void {
			r.stopped.Store(true)
		}
	}
}

// next takes the number of a request, and waits until it is due in an open
// loop. It is the one place where a request counts as started.
func (r *run) next(ctx context.Context, timer *time.Timer) (n int64, due time.Time, ok bool) {
	if r.isOver(ctx, time.Now()) {
		return 0, due, false
	}
	n = r.started.Add(1)
	if r.load.Requests > 0 && n > int64(r.load.Requests) {
		r.started.Add(-1)
		return 0, due, false
	}
	if r.load.Rate <= 0 {
		return n, due, true
	}
	due = r.begin.Add(time.Duration(float64(n-1) / r.load.Rate * float64(time.Second)))
	if r.load.Duration > 0 && due.Sub(r.begin) >= r.load.Duration {
		r.started.Add(-1)
		return 0, due, false
	}
	timer.Reset(time.Until(due))
	select {
	case <-timer.C:
		return n, due, true
	case <-ctx.Done():
	case <-r.load.Stop:
		timer.Stop()
	}
	r.started.Add(-1)
	return 0, due, false
}

func (r *run) isOver(ctx context.Context, now time.Time) bool {
	select {
	case <-r.load.Stop:
		return true
	default:
		return ctx.Err() != nil || r.stopped.Load() || r.load.Duration > 0 && now.Sub(r.begin) >= r.load.Duration
	}
}

func (r *run) request(n int64) Request {
	request := Request{Path: r.load.Path, Header: r.load.Header, ID: fmt.Sprintf("%s-%d", r.name, n)}
	if r.load.Post > 0 && (r.load.PostOnly || n%2 == 0) {
		request.Body = bodyOf(request.ID, r.load.Post)
		sum := sha256.Sum256(request.Body)
		request.Sum = hex.EncodeToString(sum[:])
	}
	return request
}

// bodyOf is text that no two requests share.
func bodyOf(id string, size int) []byte {
	return []byte(strings.Repeat(id+"\n", size/(len(id)+1)+1))[:size]
}

// verdict holds the books against each other.
func (r *run) verdict(ctx context.Context, report Report) error {
	started := int(r.started.Load())
	switch {
	case report.Counts[void] > 0:
		return fmt.Errorf("%w: %d requests failed on our own side: %v", ErrVoid, report.Counts[void], report.firstOf(void))
	case report.Sent() != started:
		return fmt.Errorf("%w: %d requests were started and %d have ended", ErrVoid, started, report.Sent())
	case r.load.Requests > 0 && started != r.load.Requests:
		return fmt.Errorf("%w: %d of %d requests were sent: %v", ErrVoid, started, r.load.Requests, context.Cause(ctx))
	case started == 0:
		return fmt.Errorf("%w: no request was sent", ErrVoid)
	default:
		return nil
	}
}
