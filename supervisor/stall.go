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

// waiting are the connections in each listener's queue, of those that have any.
// The depth, which costs one system call, decides whether the kernel is asked for
// all of them.
func (m *Master) waiting() map[string][]string {
	found := map[string][]string{}
	for _, s := range m.cfg.Sockets {
		if n, err := s.QueueDepth(); err == nil && n > 0 {
			found[s.Name().String()] = queued(s)
		}
	}
	return found
}

// queued names the connections that wait on a listener; none when that is not to
// be seen.
func queued(s *listen.Socket) (names []string) {
	if s.Bound().Network() == "unix" {
		inode, err := s.Inode()
		if err != nil {
			return nil
		}
		listener, _ := sockdiag.UnixListener(inode)
		for _, client := range listener.Waiting {
			names = append(names, fmt.Sprint(client))
		}
		return names
	}
	connections, _ := sockdiag.Connections(s.Bound().Port())
	for _, c := range connections {
		if c.Inode == 0 {
			names = append(names, fmt.Sprint(c.Local, c.Remote))
		}
	}
	return names
}

// stuck says which queue stood still for an interval: all that waited when it began
// waited still at a look, so nobody took one. "" when all move.
func (m *Master) stuck(waiting map[string][]string, looked, now time.Time) string {
	said := ""
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
			said = fmt.Sprintf("%d connections wait on %s and nobody took one for %v", len(waiting[name]), name, m.cfg.Liveness)
		}
	}
	return said
}

func (q *queue) moved(waiting []string) bool {
	return len(q.first) == 0 || slices.ContainsFunc(q.first, func(c string) bool { return !slices.Contains(waiting, c) })
}
