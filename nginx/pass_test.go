package nginx

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestConnectionsToWorkersAreKeptAndClosedWhenIdle(t *testing.T) {
	t.Parallel()
	a, b, ports := twoInstances(t)
	f := startFront(t, "production.conf", ports, change(t, "production.conf", "worker_processes auto;", "worker_processes 1;"))
	for range 200 {
		if status, _ := f.get(t, "/"); status != 200 {
			t.Fatalf("status %d", status)
		}
	}
	if n := a.connections() + b.connections(); n > 4 {
		t.Errorf("%d connections for 200 requests one after another, want one for each instance", n)
	}
	var after []time.Duration
	eventually(t, 10*time.Second, "idle connections are closed", func() bool {
		after = nil
		for _, i := range []*backend{a, b} {
			i.mu.Lock()
			for _, d := range i.closed {
				after = append(after, d)
			}
			open := len(i.conns)
			i.mu.Unlock()
			if open > 0 {
				return false
			}
		}
		return true
	})
	for _, d := range after {
		if d < 3500*time.Millisecond || d >= 5*time.Second {
			t.Errorf("closed after %v idle, want 4 s, and less than the 5 s of a draining worker", d)
		}
	}
}

// The twin: the tutorial's front connects anew each time.
func TestTutorialConnectsForEveryRequest(t *testing.T) {
	t.Parallel()
	a, b, ports := twoInstances(t)
	f := startFront(t, "tutorial.conf", ports)
	for range 50 {
		f.get(t, "/")
	}
	if n := a.connections() + b.connections(); n != 50 {
		t.Errorf("%d connections for 50 requests, want 50", n)
	}
}

func TestWebSocketPasses(t *testing.T) {
	t.Parallel()
	_, _, ports := twoInstances(t)
	f := startFront(t, "production.conf", ports)
	conn := must(net.Dial("tcp", f.url[len("http://"):]))
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprint(conn, "GET /socket HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	r := bufio.NewReader(conn)
	resp := must(http.ReadResponse(r, nil))
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("status %d, want 101", resp.StatusCode)
	}
	fmt.Fprint(conn, "hello, both ways")
	echo := make([]byte, len("hello, both ways"))
	if _, err := io.ReadFull(r, echo); err != nil || string(echo) != "hello, both ways" {
		t.Errorf("echo %q, %v", echo, err)
	}
}

func TestOtherUpgradesDoNotPass(t *testing.T) {
	t.Parallel()
	a, _, ports := twoInstances(t)
	f := startFront(t, "production.conf", [3]int{a.port, a.port, ports[2]})
	req := must(http.NewRequest("GET", f.url+"/", nil))
	req.Header.Set("Connection", "Upgrade, HTTP2-Settings")
	req.Header.Set("Upgrade", "h2c")
	req.Header.Set("HTTP2-Settings", "AAMAAABkAARAAAAAAAIAAAAA")
	if status, _ := answer(t, inside, req); status != 200 {
		t.Errorf("status %d, want 200", status)
	}
	if got := a.headers.Get("Connection"); got != "" {
		t.Errorf("the worker saw Connection: %q, want none", got)
	}
}

func TestWorkersSeeWhoAsked(t *testing.T) {
	t.Parallel()
	a, _, ports := twoInstances(t)
	f := startFront(t, "production.conf", [3]int{a.port, a.port, ports[2]})
	req := must(http.NewRequest("GET", f.url+"/", nil))
	for _, h := range []string{"X-Forwarded-For", "X-Real-IP", "Forwarded", "X-Forwarded-Proto", "X-Request-ID"} {
		req.Header.Set(h, "forged")
	}
	answer(t, client("127.0.0.7"), req)
	for header, want := range map[string]string{
		"X-Forwarded-For":   "127.0.0.7",
		"X-Real-IP":         "127.0.0.7",
		"X-Forwarded-Proto": "http",
		"Forwarded":         "",
		"Host":              fmt.Sprintf("127.0.0.1:%d", f.ports.Front),
	} {
		if got := a.headers.Get(header); got != want {
			t.Errorf("%s: %q, want %q", header, got, want)
		}
	}
	if id := a.headers.Get("X-Request-ID"); len(id) != 32 {
		t.Errorf("X-Request-ID: %q, want one of nginx's own", id)
	}
}

func TestNamesItAnswersTo(t *testing.T) {
	t.Parallel()
	_, _, ports := twoInstances(t)
	f := startFront(t, "production.conf", ports)
	for host, want := range map[string]int{
		"localhost":      200,
		"localhost:3333": 200,
		"127.0.0.1":      200,
		"127.0.0.1:3333": 200,
		"[::1]:3333":     200,
		"LOCALHOST":      200,
		"example.com":    421,
		"10.0.0.1":       421,
		"localhost.evil": 421,
	} {
		req := must(http.NewRequest("GET", f.url+"/", nil))
		req.Host = host
		if status, _ := answer(t, inside, req); status != want {
			t.Errorf("Host %s: %d, want %d", host, status, want)
		}
	}
	if status, _ := answer(t, inside, must(http.NewRequest("GET", strings.Replace(f.url, "127.0.0.1", "localhost", 1), nil))); status != 200 {
		t.Errorf("http://localhost: %d, want 200", status)
	}
}

func TestVersionIsNotTold(t *testing.T) {
	t.Parallel()
	f := startFront(t, "production.conf", [3]int{closedPort(t), closedPort(t), closedPort(t)})
	resp := must(inside.Get(f.url + "/"))
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != 502 || resp.Header.Get("Server") != "nginx" || strings.Contains(string(body), "nginx/") {
		t.Errorf("%d, Server: %q, body %q; want 502 without a version", resp.StatusCode, resp.Header.Get("Server"), body)
	}
}

func TestStatusPageIsOnLoopbackOnly(t *testing.T) {
	t.Parallel()
	_, _, ports := twoInstances(t)
	f := startFront(t, "production.conf", ports)
	page := func(address string) (string, error) {
		resp, err := inside.Get(fmt.Sprintf("http://%s:%d/nginx_status", address, f.ports.Status))
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return string(body), err
	}
	if body, err := page("127.0.0.1"); err != nil || !strings.HasPrefix(body, "Active connections:") {
		t.Errorf("status page: %q, %v", body, err)
	}
	// Another address of the same machine, which an open listener would answer on.
	addrs := append(must(net.InterfaceAddrs()), &net.IPNet{IP: net.IPv4(127, 0, 0, 2)})
	for _, a := range addrs {
		ip := a.(*net.IPNet).IP.To4()
		if ip == nil || ip.Equal(net.IPv4(127, 0, 0, 1)) {
			continue
		}
		conn, err := net.DialTimeout("tcp", fmt.Sprintf("%s:%d", ip, f.ports.Status), 2*time.Second)
		if err == nil {
			conn.Close()
			t.Errorf("the status page listens on %s", ip)
		}
		conn, err = net.DialTimeout("tcp", fmt.Sprintf("%s:%d", ip, f.ports.Front), 2*time.Second)
		if err != nil {
			t.Errorf("the front does not listen on %s, so this test shows nothing: %v", ip, err)
			continue
		}
		conn.Close()
	}
	if status, body := f.get(t, "/nginx_status"); strings.HasPrefix(body, "Active connections:") {
		t.Errorf("the public server answers /nginx_status with %d %q", status, body)
	}
}

func TestEveryRequestIsOneLineOfJSON(t *testing.T) {
	t.Parallel()
	_, _, ports := twoInstances(t)
	f := startFront(t, "production.conf", ports)
	f.get(t, "/")
	req := must(http.NewRequest("GET", f.url+"/quoted", nil))
	req.Header.Set("User-Agent", "a \"quote\", a \\ and a \t tab")
	answer(t, inside, req)
	f.entries(t, func(e entry) bool { return e.URI == "/quoted" })
	if e := f.entries(t, func(e entry) bool { return e.URI == "/" }); len(e) != 1 || e[0].UpstreamStatus != "200" || e[0].UpstreamAddr == "" {
		t.Errorf("log %+v, want one line with the server and its answer", e)
	}
}

func TestAffinityByAddressKeepsAClientOnItsInstance(t *testing.T) {
	t.Parallel()
	a, b, ports := twoInstances(t)
	f := startFront(t, "production.conf", ports, use(t, "upstream-ip-hash.conf"))
	seen := map[string]bool{}
	for _, from := range []string{"127.0.0.1", "127.0.1.1", "127.0.2.1", "127.1.1.1", "127.1.2.1", "127.2.1.1"} {
		seen[sticky(t, f, client(from), nil)] = true
	}
	if len(seen) != 2 {
		t.Errorf("all clients on %v, want both instances used", seen)
	}
	first := sticky(t, f, inside, nil)
	map[string]*backend{"a": a, "b": b}[first].srv.Close()
	if now := sticky(t, f, inside, nil); now == first {
		t.Errorf("answered by %s, which is gone", now)
	}
}

func TestAffinityByCookieKeepsASessionOnItsInstance(t *testing.T) {
	t.Parallel()
	_, _, ports := twoInstances(t)
	f := startFront(t, "production.conf", ports, use(t, "upstream-hash.conf"))
	seen := map[string]int{}
	for i := range 32 {
		cookie := &http.Cookie{Name: "session", Value: fmt.Sprint("s", i)}
		name := sticky(t, f, client("127.1.1.1"), cookie)
		seen[name]++
		if other := sticky(t, f, client("127.2.2.2"), cookie); other != name {
			t.Errorf("session %d is on %s and, from another address, on %s", i, name, other)
		}
	}
	if seen["a"] < 6 || seen["b"] < 6 {
		t.Errorf("sessions by instance %v, want both used", seen)
	}
	sticky(t, f, client("127.3.3.3"), nil)
}

// sticky asks several times and returns the one instance that answered them all.
func sticky(t *testing.T, f *front, c *http.Client, cookie *http.Cookie) string {
	t.Helper()
	var mu sync.Mutex
	names := map[string]bool{}
	var all sync.WaitGroup
	for range 6 {
		all.Go(func() {
			req := must(http.NewRequest("GET", f.url+"/", nil))
			if cookie != nil {
				req.AddCookie(cookie)
			}
			_, name := answer(t, c, req)
			mu.Lock()
			names[name] = true
			mu.Unlock()
		})
	}
	all.Wait()
	if len(names) != 1 {
		t.Errorf("a client was answered by %v, want one instance", names)
	}
	for name := range names {
		return name
	}
	return ""
}

// Everything nginx writes is inside the prefix, and that is all an ordinary user needs.
func TestRunsFromACheckoutAsAnOrdinaryUser(t *testing.T) {
	t.Parallel()
	_, _, ports := twoInstances(t)
	f := startFront(t, "production.conf", ports)
	f.get(t, "/")
	f.entries(t, func(e entry) bool { return e.URI == "/" })
	for _, name := range []string{"nginx.pid", "access.log", "error.log", "body_temp", "proxy_temp", "fastcgi_temp", "scgi_temp", "uwsgi_temp"} {
		if _, err := os.Stat(filepath.Join(f.dir, name)); err != nil {
			t.Errorf("not in the prefix: %v", err)
		}
	}
}
