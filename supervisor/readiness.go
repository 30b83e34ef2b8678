package supervisor

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"revenant/supervisor/event"
	"revenant/supervisor/listen"
)

// Readiness says how the master learns that a worker is ready to serve. The zero
// value picks: by READY=1 when the program says HELLO or READY, else when it waits
// for connections.
type Readiness struct {
	Kind  ReadinessKind
	Path  string        // of ReadyHTTP
	Delay time.Duration // of ReadyDelay, since the start
}

// ReadinessKind is one way to learn it.
type ReadinessKind string

// The ways. ReadyHTTP asks through the first listener, where a sibling may answer
// for a worker that is not ready yet.
const (
	ReadyAuto   ReadinessKind = ""
	ReadyNotify ReadinessKind = "notify"
	ReadyListen ReadinessKind = "listen"
	ReadyHTTP   ReadinessKind = "http"
	ReadyDelay  ReadinessKind = "delay"
)

// expectation is what a starting worker is waited for. Owned by the loop.
type expectation struct {
	rule    Readiness
	greeted bool               // it is built with package worker, and says when it is ready
	cancel  context.CancelFunc // ends the looks from outside; nil when there are none
}

// says tells whether READY=1 counts.
func (x *expectation) says() bool { return x.rule.Kind == ReadyAuto || x.rule.Kind == ReadyNotify }

// String is what the worker is waited for, in the words of ps.
func (x *expectation) String() string {
	switch x.rule.Kind {
	case ReadyAuto:
		if x.cancel == nil || x.greeted {
			return string(ReadyNotify)
		}
		return "notify or listen"
	case ReadyHTTP:
		return "http:" + x.rule.Path
	case ReadyDelay:
		return "delay:" + x.rule.Delay.String()
	}
	return string(x.rule.Kind)
}

// expectedOf is what a worker that is late was waited for, and why that cannot come
// if it can be seen.
func (m *Master) expectedOf(c *child) string {
	text := c.expected.String()
	if m.cfg.Program.External() && m.platform.see != nil && m.platform.see(c.pid, false, m.view()).listenless {
		text += ", and has closed the listener (a program must keep the descriptors that it is given)"
	}
	return text
}

// over ends the looks.
func (x *expectation) over() {
	if x.cancel != nil {
		x.cancel()
	}
}

// expect begins to wait until a new worker is ready.
func (m *Master) expect(c *child, rule Readiness) {
	c.expected.over()
	c.expected = expectation{rule: rule, greeted: c.expected.greeted}
	ready := m.look(c)
	if ready == nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	c.expected.cancel = cancel
	// Ends when the worker is ready or gone; nobody waits for it.
	go func() {
		if err := lookUntil(ctx, ready); ctx.Err() == nil {
			m.send(func() { m.looksReady(c, err) })
		}
	}()
}

// look is how to see from outside whether a worker is ready, nil when only itself
// can say so.
func (m *Master) look(c *child) func(context.Context) (bool, error) {
	switch rule := c.expected.rule; {
	case rule.Kind == ReadyDelay:
		due := c.started.Add(rule.Delay)
		return func(context.Context) (bool, error) { return !time.Now().Before(due), nil }
	case rule.Kind == ReadyHTTP && len(m.cfg.Sockets) > 0:
		return asks(m.cfg.Sockets[0].Bound(), rule.Path)
	case rule.Kind == ReadyListen, rule.Kind == ReadyAuto && m.cfg.Program.External():
		sockets, pid := inodes(m.cfg.Sockets), c.pid
		return func(context.Context) (bool, error) { return m.platform.waits(pid, sockets) }
	}
	return nil
}

// Pauses between looks at a worker that starts. Looking takes at most a tenth of
// the time, however large the worker's tree is.
const (
	firstPause   = 5 * time.Millisecond
	longestPause = 100 * time.Millisecond
	lookShare    = 10
)

// lookUntil looks until the worker is ready.
func lookUntil(ctx context.Context, ready func(context.Context) (bool, error)) error {
	for pause := firstPause; ; pause = min(pause*5/4, longestPause) {
		began := time.Now()
		if yes, err := ready(ctx); yes || err != nil {
			return err
		}
		wait := time.NewTimer(max(pause, lookShare*time.Since(began)))
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return ctx.Err()
		}
	}
}

// looksReady acts on what the looks found.
func (m *Master) looksReady(c *child, err error) {
	switch {
	case m.children[c.id] != c || c.expected.rule.Kind == ReadyAuto && c.expected.greeted:
	case err != nil:
		e := m.about(c, event.Warning)
		e.Message = fmt.Sprintf("cannot see whether worker %d waits for connections: %v; it is taken for ready when it has lived for %v (use --ready notify, http:/PATH or delay:TIME)", c.id, err, unseen)
		m.publish(e)
		m.expect(c, Readiness{Kind: ReadyDelay, Delay: unseen})
	default:
		m.becomesReady(c)
	}
}

// unseen is how long a worker must live that we may not look at.
const unseen = time.Second

func (m *Master) becomesReady(c *child) {
	c.expected.over()
	m.saidReady(c)
}

// asks looks by a request through a listener. Any answer below 500 will do.
func asks(address listen.Address, path string) func(context.Context) (bool, error) {
	network, target := address.Network(), address.Dial()
	client := http.Client{
		Timeout: time.Second,
		Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, target)
		}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return func(ctx context.Context) (bool, error) {
		r, err := probeRequest(ctx, http.MethodGet, path)
		if err != nil {
			return false, err
		}
		answer, err := client.Do(r)
		if err != nil {
			return false, nil // not yet
		}
		_ = answer.Body.Close()
		return answer.StatusCode < http.StatusInternalServerError, nil
	}
}
