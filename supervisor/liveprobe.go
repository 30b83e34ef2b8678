package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor/event"
	"revenant/supervisor/sockdiag"
	"revenant/supervisor/tree"
)

// Settings.LivenessProbe asks programs that have no door. On the listener that all
// share nobody can choose who accepts, but the kernel tells who did: the request
// is sent when that is known, and from then on this worker owes an answer. One
// that is never given a probe has to be seen waiting for connections, or serving
// some (look.go).

// debt is what a worker owes to the probe. A good answer ends all of it.
type debt struct {
	probed bool      // there is a probe
	asked  time.Time // when it last accepted one
	open   int       // probes that it accepted and did not answer yet
	since  time.Time // of the first of them; zero when it owes nothing
	what   string
	bad    failures
}

// failures are probes that a worker answered badly, or cut. One alone proves
// nothing, however long no other probe has reached it: they must be seen over the
// whole interval.
type failures struct {
	first, last time.Time
	what        string
}

const (
	// acceptTime is how long a probe waits until somebody accepts it. Then its request
	// is sent all the same: whoever accepts a connection without one waits for it.
	acceptTime = time.Second
	// connectTime is how long a probe waits for a place in the queue: one that is free
	// is taken at once.
	connectTime = 100 * time.Millisecond
	// mostProbes are sent at once: several, because those that come together are
	// likely to be taken by different workers.
	mostProbes = 8
)

// sendProbes sends probes when a worker took none for a quarter of the interval, or
// answered badly. Chance decides who gets them; that all get one is likely when there
// are as many as workers.
func (m *Master) sendProbes(now time.Time) {
	pids, wanted := map[uint64]int{}, false
	for id, c := range m.children {
		c.life.debt.probed = m.cfg.LivenessProbe != ""
		if !c.life.debt.probed || !c.watched() || c.door >= 0 {
			continue
		}
		pids[id] = c.pid
		wanted = wanted || now.Sub(c.life.debt.asked) > c.life.interval/4 || !c.life.debt.bad.first.IsZero()
	}
	if n := min(mostProbes, len(pids)-m.vigil.probes); wanted && n > 0 && len(m.cfg.Sockets) > 0 {
		m.sendRound(n, pids)
	}
}

// sendRound sends n probes.
func (m *Master) sendRound(n int, pids map[uint64]int) {
	m.vigil.probes += n
	a, path := m.cfg.Sockets[0].Bound(), m.cfg.LivenessProbe
	ctx, cancel := context.WithTimeout(m.probing, 2*m.cfg.Liveness)
	// Ends after two intervals at the latest, sooner when the instance stops; nobody
	// waits for it.
	go func() {
		defer cancel()
		round := round{pids: pids}
		round.connect(ctx, n, a.Network(), a.Dial())
		failed := n - len(round.waiting)
		m.send(func() { m.vigil.probes -= failed })
		var asking sync.WaitGroup
		err := round.deal(ctx, func(conn net.Conn, who uint64) {
			asking.Go(func() { m.probeOn(ctx, conn, who, path) })
		})
		if err != nil {
			m.send(func() {
				m.blind("cannot see whose answer it gets, so nobody is judged by it: %w (in a sandbox, allow AF_NETLINK)", err)
			})
		}
		asking.Wait()
	}()
}

// probeOn asks on a connection, which it owns, and tells the loop what came of it.
func (m *Master) probeOn(ctx context.Context, conn net.Conn, who uint64, path string) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	m.send(func() { m.owesAnswer(who, path) })
	r, err := probeRequest(ctx, http.MethodGet, path)
	if err == nil {
		r.Close = true
		err = roundTrip(conn, r)
	}
	m.send(func() {
		m.vigil.probes--
		m.answered(who, path, err)
	})
}

// round is some probes that nobody has accepted yet, as far as is known.
type round struct {
	pids    map[uint64]int // workers that may
	waiting []net.Conn
}

// connect makes up to n connections, and no more when the queue is full, which is
// seen by others: who accepts one waits for its request until all are made.
func (r *round) connect(ctx context.Context, n int, network, address string) {
	limited, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	for range n {
		conn, err := new(net.Dialer).DialContext(limited, network, address)
		if err != nil {
			return
		}
		r.waiting = append(r.waiting, conn)
	}
}

// deal hands over each connection as soon as it is known who accepted it, and at
// the end those that nobody did, or nobody whom we know: 0.
func (r *round) deal(ctx context.Context, take func(conn net.Conn, who uint64)) error {
	limited, cancel := context.WithTimeout(ctx, acceptTime)
	defer cancel()
	err := lookUntil(limited, func(context.Context) (bool, error) {
		accepted := map[uint64]net.Conn{}
		for _, conn := range r.waiting {
			inode, err := farEnd(conn)
			if err != nil {
				return false, err
			}
			if inode != 0 {
				accepted[inode] = conn
			}
		}
		for inode, who := range holders(accepted, r.pids) {
			conn := accepted[inode]
			r.waiting = slices.DeleteFunc(r.waiting, func(c net.Conn) bool { return c == conn })
			take(conn, who)
		}
		return len(r.waiting) == 0, nil
	})
	for _, conn := range r.waiting {
		take(conn, 0)
	}
	if limited.Err() != nil {
		return nil
	}
	return err
}

// farEnd is the inode of the other end of a connection to ourselves, 0 while
// nobody has accepted it.
func farEnd(conn net.Conn) (uint64, error) {
	if c, is := conn.(*net.TCPConn); is {
		server, here := c.RemoteAddr().(*net.TCPAddr), c.LocalAddr().(*net.TCPAddr)
		return sockdiag.Accepted(server.AddrPort(), here.AddrPort())
	}
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var stat unix.Stat_t
	if err := raw.Control(func(fd uintptr) { err = unix.Fstat(int(fd), &stat) }); err != nil {
		return 0, err
	}
	s, err := sockdiag.Unix(stat.Ino)
	return s.Peer, err
}

// holders tells who holds which of the sockets; 0 is none of these workers.
func holders(sockets map[uint64]net.Conn, pids map[uint64]int) map[uint64]uint64 {
	who := make(map[uint64]uint64, len(sockets))
	for inode := range sockets {
		who[inode] = 0
	}
	if len(sockets) == 0 {
		return who
	}
	for id, pid := range pids {
		for _, p := range tree.Of(pid) {
			held, _ := tree.Sockets(p) // one that is not to be seen is nobody's
			for _, inode := range held {
				if _, is := who[inode]; is {
					who[inode] = id
				}
			}
		}
	}
	return who
}

// owesAnswer begins a debt.
func (m *Master) owesAnswer(worker uint64, path string) {
	if c := m.children[worker]; c != nil {
		c.life.debt.accepted(time.Now(), path)
	}
}

func (d *debt) accepted(now time.Time, path string) {
	d.asked = now
	d.open++
	if d.since.IsZero() {
		d.since, d.what = now, "it did not answer GET "+path
	}
}

// answered ends a debt, when the answer is good.
func (m *Master) answered(worker uint64, path string, err error) {
	if c := m.children[worker]; c != nil {
		m.learns(c, path, err)
		if err == nil {
			c.life.moved()
		}
		c.life.debt.ended(time.Now(), c.life.interval, m.vigil.answers, path, err)
	}
}

func (d *debt) ended(now time.Time, interval time.Duration, counts bool, path string, err error) {
	d.open--
	switch {
	case err == nil:
		d.since, d.bad = time.Time{}, failures{}
		return
	case d.open == 0:
		d.since = time.Time{}
	case !d.since.IsZero():
		d.since = now // whichever is open still, it is not older than it is
	}
	if !counts {
		return
	}
	var status *StatusError
	if d.bad.what = "it did not answer GET " + path; errors.As(err, &status) {
		d.bad.what = badAnswer(path, status)
	}
	if d.bad.first.IsZero() || now.Sub(d.bad.last) > interval/2 { // between those two it may have been well
		d.bad.first = now
	}
	d.bad.last = now
}

// lasted is for how long there was no good answer between bad ones.
func (f failures) lasted() time.Duration { return f.last.Sub(f.first) }

func badAnswer(path string, status *StatusError) string {
	return fmt.Sprintf("it answered GET %s with %v", path, status)
}

// learns notes whether the program answers the probe at all.
func (m *Master) learns(c *child, path string, err error) {
	switch {
	case err == nil:
		m.vigil.answers = m.vigil.answers || c.started.After(m.vigil.program)
	case !m.vigil.answers:
		m.blind("no worker has answered GET %s yet as it should, so none is judged by it: %w", path, err)
	}
}

// blind says once that probes are of no use now.
func (m *Master) blind(format string, about ...any) {
	if !m.vigil.blind {
		m.vigil.blind = true
		m.publish(event.Event{Kind: event.Warning, Message: "liveness probe: " + fmt.Errorf(format, about...).Error()})
	}
}
