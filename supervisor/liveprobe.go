package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
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

// debt is what a worker owes to the probe.
type debt struct {
	probed bool      // there is a probe
	since  time.Time // when it was asked for the first time since it last answered well; zero when it owes nothing
	what   string
}

// acceptTime is how long a probe waits until somebody accepted it before it sends
// its request all the same: there are programs that accept only who has spoken.
const acceptTime = time.Second

// sendProbes asks as many workers as it takes so that each is asked once in an
// interval, if chance is fair.
func (m *Master) sendProbes() {
	pids := map[uint64]int{}
	for id, c := range m.children {
		c.life.debt.probed = m.cfg.LivenessProbe != ""
		if c.life.debt.probed && c.watched() && c.door < 0 {
			pids[id] = c.pid
		}
	}
	if len(m.cfg.Sockets) == 0 {
		return
	}
	for range (len(pids) + looksPerInterval - 1) / looksPerInterval {
		if m.vigil.probes < len(pids) {
			m.sendProbe(pids)
		}
	}
}

func (m *Master) sendProbe(pids map[uint64]int) {
	m.vigil.probes++
	a, path := m.cfg.Sockets[0].Bound(), m.cfg.LivenessProbe
	ctx, cancel := context.WithTimeout(m.probing, 2*m.cfg.Liveness)
	// Ends after two intervals at the latest, sooner when the instance stops; nobody
	// waits for it.
	go func() {
		defer cancel()
		conn, err := new(net.Dialer).DialContext(ctx, a.Network(), a.Dial())
		if err != nil { // a full queue is seen by others
			m.send(func() { m.vigil.probes-- })
			return
		}
		defer conn.Close()
		defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
		who, answer := m.converse(ctx, conn, pids, path)
		m.send(func() {
			m.vigil.probes--
			m.answered(who, path, answer)
		})
	}()
}

// converse finds out who accepted the connection, asks, and returns what came of
// it; nobody is 0.
func (m *Master) converse(ctx context.Context, conn net.Conn, pids map[uint64]int, path string) (who uint64, answer error) {
	ctx, cancel := context.WithCancel(ctx)
	accepted := make(chan uint64, 1)
	// Ends when the answer is there; its channel has room.
	go func() {
		id, err := accepter(ctx, conn, pids)
		if err != nil {
			m.send(func() { m.cannotSeeAnswers(err) })
		}
		if id != 0 {
			m.send(func() { m.owesAnswer(id, path) })
		}
		accepted <- id
	}()
	patience := time.NewTimer(acceptTime)
	defer patience.Stop()
	known := false
	select {
	case who = <-accepted:
		known = true
	case <-patience.C:
	}
	r, err := probeRequest(ctx, http.MethodGet, path)
	if err == nil {
		r.Close = true
		err = roundTrip(conn, r)
	}
	cancel()
	if !known {
		who = <-accepted
	}
	return who, err
}

// accepter waits until one of the workers has accepted a connection, and says
// which.
func accepter(ctx context.Context, conn net.Conn, pids map[uint64]int) (who uint64, err error) {
	err = lookUntil(ctx, func(context.Context) (bool, error) {
		inode, err := farEnd(conn)
		if inode != 0 && err == nil {
			who = holder(inode, pids)
		}
		return inode != 0, err
	})
	if ctx.Err() != nil {
		err = nil
	}
	return who, err
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

// holder is the worker that holds a socket, 0 when none of these does.
func holder(inode uint64, pids map[uint64]int) uint64 {
	for id, pid := range pids {
		for _, p := range tree.Of(pid) {
			if holds, _ := tree.Holds(p, []uint64{inode}); holds {
				return id
			}
		}
	}
	return 0
}

// owesAnswer begins a debt.
func (m *Master) owesAnswer(worker uint64, path string) {
	if c := m.children[worker]; c != nil && c.life.debt.since.IsZero() {
		c.life.debt.since, c.life.debt.what = time.Now(), "it did not answer GET "+path
	}
}

// answered ends a debt, when the answer is good.
func (m *Master) answered(worker uint64, path string, err error) {
	c := m.children[worker]
	if c == nil {
		return
	}
	var status *StatusError
	switch {
	case err == nil:
		c.life.debt.since = time.Time{}
	case errors.As(err, &status):
		c.life.debt.what = fmt.Sprintf("it answered GET %s with %v", path, status)
	}
}

// cannotSeeAnswers says once that probes are of no use here.
func (m *Master) cannotSeeAnswers(err error) {
	if !m.vigil.blind {
		m.vigil.blind = true
		m.publish(event.Event{Kind: event.Warning, Message: fmt.Sprintf(
			"cannot see which worker answers the liveness probe, so none is judged by it: %v (in a sandbox, allow AF_NETLINK)", err)})
	}
}
