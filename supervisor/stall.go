package supervisor

import (
	"fmt"
	"slices"
	"time"

	"revenant/supervisor/listen"
	"revenant/supervisor/sockdiag"
)

// queue is what waits in a listener's queue, and since when nobody took any of it.
type queue struct {
	since time.Time // zero while it moves
	first []string  // the connections that waited then
}

// crowd is a listener in whose queue somebody waits.
type crowd struct {
	name   string
	bound  listen.Address
	socket uint64 // its inode
}

// crowds are those listeners. To see the depth costs one system call; who waits is
// asked of the kernel beside the loop, for it takes long when there are many
// connections.
func (m *Master) crowds() (found []crowd) {
	for _, s := range m.cfg.Sockets {
		if n, err := s.QueueDepth(); err == nil && n > 0 {
			inode, _ := s.Inode()
			found = append(found, crowd{s.Name().String(), s.Bound(), inode})
		}
	}
	return found
}

// waiting names the connections that wait there; none when that is not to be seen.
func (c crowd) waiting() (names []string) {
	if c.bound.Network() == "unix" {
		listener, _ := sockdiag.UnixListener(c.socket)
		for _, client := range listener.Waiting {
			names = append(names, fmt.Sprint(client))
		}
		return names
	}
	connections, _ := sockdiag.Connections(c.bound.Port())
	for _, c := range connections {
		if c.Inode == 0 {
			names = append(names, fmt.Sprint(c.Local, c.Remote))
		}
	}
	return names
}

// stuck says which queues stood still for an interval, by listener: all that waited
// when it began waited still at a look, so nobody took one.
func (m *Master) stuck(waiting map[string][]string, looked, now time.Time) map[string]string {
	said := map[string]string{}
	if m.vigil.queues == nil {
		m.vigil.queues = map[string]*queue{}
	}
	for _, s := range m.cfg.Sockets {
		name := s.Name().String()
		q := m.vigil.queues[name]
		if q == nil {
			q = &queue{}
			m.vigil.queues[name] = q
		}
		if q.moved(waiting[name]) {
			*q = queue{first: waiting[name]}
			if len(q.first) > 0 {
				q.since = now
			}
		}
		if !q.since.IsZero() && looked.Sub(q.since) >= m.cfg.Liveness {
			said[name] = fmt.Sprintf("%d connections wait on %s and nobody took one for %v", len(waiting[name]), name, m.cfg.Liveness)
		}
	}
	return said
}

// neglects says what a worker leaves undone that slept all the time: connections
// wait at a listener that it serves. Whether it sleeps for a client's sake is no
// excuse: nobody has finished anything for an interval, and nobody is served.
func (c *child) neglects(s seen, stuck map[string]string, shows, several bool) string {
	switch {
	case c.life.owes != "": // it speaks for itself
		return ""
	case several && (!shows || !s.waits && (s.work == nil || s.work.busy)): // which of them it serves is not to be seen
		return ""
	}
	for name, what := range stuck {
		if !s.elsewhere[name] {
			return what + ", and it used no CPU meanwhile"
		}
	}
	return ""
}

func (q *queue) moved(waiting []string) bool {
	return len(q.first) == 0 || slices.ContainsFunc(q.first, func(c string) bool { return !slices.Contains(waiting, c) })
}
