package nginx

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// backend is an instance with two toy workers on one listener: a connection belongs to one of them,
// and when a worker dies all of its connections are reset. Its successor is there at once.
type backend struct {
	name string
	port int
	srv  *http.Server

	mu       sync.Mutex
	conns    map[net.Conn]int // to the worker that has it
	accepted int
	kills    int
	posts    map[string]int // how often each id arrived
	closed   map[net.Conn]time.Duration
	idle     map[net.Conn]time.Time
	headers  http.Header // of the last request

	held    chan struct{} // one for each request that waits in /hold
	release chan struct{}
}

type connKey struct{}

func startBackend(t testing.TB, name string) *backend {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveBackend(t, name, ln)
}

func serveBackend(t testing.TB, name string, ln net.Listener) *backend {
	b := &backend{
		name:    name,
		port:    ln.Addr().(*net.TCPAddr).Port,
		conns:   map[net.Conn]int{},
		posts:   map[string]int{},
		closed:  map[net.Conn]time.Duration{},
		idle:    map[net.Conn]time.Time{},
		held:    make(chan struct{}, 100),
		release: make(chan struct{}),
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		b.mu.Lock()
		b.headers = r.Header.Clone()
		b.headers.Set("Host", r.Host)
		b.mu.Unlock()
		io.WriteString(w, b.name)
	})
	mux.HandleFunc("/workerKiller", func(w http.ResponseWriter, r *http.Request) {
		b.mu.Lock()
		b.kills++
		b.mu.Unlock()
		b.die(r) // before it answers: the worst a worker can do
	})
	mux.HandleFunc("/die", func(w http.ResponseWriter, r *http.Request) { b.die(r) })
	mux.HandleFunc("/hold", func(w http.ResponseWriter, r *http.Request) {
		b.held <- struct{}{}
		select {
		case <-b.release:
		case <-r.Context().Done():
		}
		io.WriteString(w, b.name)
	})
	mux.HandleFunc("/post", func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		b.mu.Lock()
		b.posts[r.URL.Query().Get("id")]++
		b.mu.Unlock()
		if r.URL.Query().Has("die") {
			b.die(r)
		}
		io.WriteString(w, b.name)
	})
	mux.HandleFunc("/socket", b.socket)
	b.srv = &http.Server{Handler: mux, ConnState: b.state, ConnContext: func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(ctx, connKey{}, c)
	}}
	// Ends with the server; the cleanup closes it.
	go b.srv.Serve(ln)
	t.Cleanup(func() { b.srv.Close() })
	return b
}

func (b *backend) state(c net.Conn, s http.ConnState) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch s {
	case http.StateNew:
		b.conns[c] = b.accepted % 2
		b.accepted++
	case http.StateIdle:
		b.idle[c] = time.Now()
	case http.StateClosed:
		delete(b.conns, c)
		if since, ok := b.idle[c]; ok {
			b.closed[c] = time.Since(since)
		}
	}
}

// die ends the worker that has the request.
func (b *backend) die(r *http.Request) {
	mine := r.Context().Value(connKey{}).(net.Conn)
	b.mu.Lock()
	worker := b.conns[mine]
	var victims []net.Conn
	for c, w := range b.conns {
		if w == worker {
			victims = append(victims, c)
		}
	}
	b.mu.Unlock()
	for _, c := range victims {
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	panic(http.ErrAbortHandler)
}

// socket answers a WebSocket handshake and then echoes.
func (b *backend) socket(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != "websocket" || r.Header.Get("Connection") != "upgrade" {
		http.Error(w, "not an upgrade", http.StatusBadRequest)
		return
	}
	conn, rw, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
	io.Copy(conn, rw)
}

func (b *backend) count(of func(*backend) int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return of(b)
}

func (b *backend) killed() int { return b.count(func(b *backend) int { return b.kills }) }
func (b *backend) connections() int {
	return b.count(func(b *backend) int { return b.accepted })
}
func (b *backend) posted(id string) int {
	return b.count(func(b *backend) int { return b.posts[id] })
}

// twoInstances are the first and the second, with a standby that is not running.
func twoInstances(t testing.TB) (a, b *backend, ports [3]int) {
	t.Helper()
	a, b = startBackend(t, "a"), startBackend(t, "b")
	return a, b, [3]int{a.port, b.port, closedPort(t)}
}
