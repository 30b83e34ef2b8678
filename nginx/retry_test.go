package nginx

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// mortal answers 200 after it has killed the workers of so many requests with the same id.
func mortal(t testing.TB, deaths int) (port int, seen func(id string) int) {
	t.Helper()
	b := startBackend(t, "mortal")
	var mu sync.Mutex
	asked := map[string]int{}
	b.srv.Handler.(*http.ServeMux).HandleFunc("/mortal", func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked[r.URL.Query().Get("id")]++
		n := asked[r.URL.Query().Get("id")]
		mu.Unlock()
		if n <= deaths {
			b.die(r)
		}
		fmt.Fprint(w, n)
		if size, _ := io.Copy(io.Discard, r.Body); size > 0 {
			fmt.Fprint(w, ", ", size)
		}
	})
	return b.port, func(id string) int { mu.Lock(); defer mu.Unlock(); return asked[id] }
}

func TestGetWhoseWorkerDiesIsAnsweredByASibling(t *testing.T) {
	t.Parallel()
	port, seen := mortal(t, 1)
	// One instance is left: the sibling is a worker of the same.
	f := startFront(t, "production.conf", [3]int{port, closedPort(t), closedPort(t)})
	if status, body := f.get(t, "/mortal?id=1"); status != 200 || body != "2" {
		t.Fatalf("answer %d %q, want that of the second worker", status, body)
	}
	if n := seen("1"); n != 2 {
		t.Errorf("asked %d times, want 2", n)
	}
	e := f.entries(t, func(e entry) bool { return strings.HasPrefix(e.URI, "/mortal") })[0]
	if !strings.Contains(e.UpstreamStatus, ",") || !strings.HasSuffix(e.UpstreamStatus, " 200") {
		t.Errorf("upstream_status %q, want a failed try, a comma and 200", e.UpstreamStatus)
	}
}

// listed puts one instance into servers.conf so many times, without a standby.
func listed(t testing.TB, port, times int) func(dir string) {
	return func(dir string) {
		line := fmt.Sprintf("server 127.0.0.1:%d max_fails=0;\n", port)
		for name, text := range map[string]string{"servers": strings.Repeat(line, times), "standby": ""} {
			if err := os.WriteFile(filepath.Join(dir, "site", name+".conf"), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestSingleInstanceListedTwiceIsRetried(t *testing.T) {
	t.Parallel()
	port, _ := mortal(t, 2)
	f := startFront(t, "production.conf", [3]int{}, listed(t, port, 2))
	if status, body := f.get(t, "/mortal?id=1"); status != 200 || body != "3" {
		t.Errorf("answer %d %q, want that of the third worker", status, body)
	}
}

// The twin: listed once it is asked once, and once more on a new connection.
func TestSingleInstanceListedOnceIsNot(t *testing.T) {
	t.Parallel()
	port, _ := mortal(t, 2)
	f := startFront(t, "production.conf", [3]int{}, listed(t, port, 1))
	if status, _ := f.get(t, "/mortal?id=1"); status != 502 {
		t.Errorf("status %d, want 502: listing an instance twice would do nothing", status)
	}
}

func TestGetIsTriedOnceMoreOnNewConnections(t *testing.T) {
	t.Parallel()
	a, _ := mortal(t, 3)
	b, _ := mortal(t, 3)
	f := startFront(t, "production.conf", [3]int{a, b, closedPort(t)})
	if status, body := f.get(t, "/mortal?id=1"); status != 200 || body != "4" {
		t.Errorf("answer %d %q, want 200 after every entry failed", status, body)
	}
	e := f.entries(t, func(e entry) bool { return strings.HasPrefix(e.URI, "/mortal") })[0]
	if !strings.Contains(e.UpstreamStatus, " : ") {
		t.Errorf("upstream_status %q, want a colon before the new connections", e.UpstreamStatus)
	}
}

func TestPutKeepsItsBodyThroughAllTries(t *testing.T) {
	t.Parallel()
	a, _ := mortal(t, 3)
	b, _ := mortal(t, 3)
	f := startFront(t, "production.conf", [3]int{a, b, closedPort(t)})
	const size = 300_000 // more than nginx keeps in memory
	req := must(http.NewRequest("PUT", f.url+"/mortal?id=1", strings.NewReader(strings.Repeat("x", size))))
	if status, body := answer(t, inside, req); status != 200 || body != fmt.Sprint("4, ", size) {
		t.Errorf("answer %d %q, want 200 for all %d bytes", status, body, size)
	}
}

func TestSentPostIsNeverSentAgain(t *testing.T) {
	t.Parallel()
	a, b, ports := twoInstances(t)
	f := startFront(t, "production.conf", ports)
	for i := range 20 {
		id := fmt.Sprint(i)
		status, _ := answer(t, inside, must(http.NewRequest("POST", f.url+"/post?die&id="+id, strings.NewReader("order"))))
		if status != 502 {
			t.Errorf("status %d for a POST whose worker died, want 502", status)
		}
		if n := a.posted(id) + b.posted(id); n != 1 {
			t.Errorf("POST %s ran %d times, want once", id, n)
		}
	}
}

// The twin: with non_idempotent the same POST runs in every instance, in every entry.
func TestNonIdempotentWouldSendAPostAgain(t *testing.T) {
	t.Parallel()
	a, b, ports := twoInstances(t)
	f := startFront(t, "production.conf", ports,
		change(t, "site/retry.conf", "error invalid_header;", "error invalid_header non_idempotent;"))
	answer(t, inside, must(http.NewRequest("POST", f.url+"/post?die&id=1", strings.NewReader("order"))))
	if n := a.posted("1") + b.posted("1"); n < 2 {
		t.Errorf("POST ran %d times, want several: the test cannot see a second one", n)
	}
}

func TestRefusedPostGoesToTheNextInstance(t *testing.T) {
	t.Parallel()
	b := startBackend(t, "b")
	f := startFront(t, "production.conf", [3]int{closedPort(t), b.port, closedPort(t)})
	for i := range 20 {
		id := fmt.Sprint(i)
		status, body := answer(t, inside, must(http.NewRequest("POST", f.url+"/post?id="+id, strings.NewReader("order"))))
		if status != 200 || body != "b" || b.posted(id) != 1 {
			t.Errorf("POST %s: %d %q, ran %d times; want 200 from b, once", id, status, body, b.posted(id))
		}
	}
}

func TestStandbyAnswersOnlyWhenThePrimariesRefuse(t *testing.T) {
	t.Parallel()
	a, b, standby := startBackend(t, "a"), startBackend(t, "b"), startBackend(t, "standby")
	f := startFront(t, "production.conf", [3]int{a.port, b.port, standby.port})
	ask := func(want string) {
		t.Helper()
		for range 20 {
			status, body := f.get(t, "/")
			if status != 200 || !strings.Contains(want, body) {
				t.Fatalf("answer %d %q, want one of %s", status, body, want)
			}
		}
	}
	ask("a b")
	a.srv.Close()
	ask("b")
	b.srv.Close()
	ask("standby")
	if n := standby.connections(); n == 0 {
		t.Error("the standby was never asked")
	}
	ln := must(net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", a.port)))
	serveBackend(t, "a", ln)
	ask("a")
}

// silentPort neither accepts nor refuses, like the address of a container that is gone: a listener
// whose queue is full.
func silentPort(t testing.TB) int {
	t.Helper()
	fd := must(syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0))
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	port := must(syscall.Getsockname(fd)).(*syscall.SockaddrInet4).Port
	for range 8 {
		conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), 200*time.Millisecond)
		if err != nil {
			return port
		}
		t.Cleanup(func() { conn.Close() })
	}
	t.Fatal("the queue does not fill")
	return 0
}

// composeRetry uses the rules of the compose file, with the longest silence cut to be seen in a test.
func composeRetry(t testing.TB) func(dir string) {
	return func(dir string) {
		rules := must(os.ReadFile("../docker/site/retry.conf"))
		if err := os.WriteFile(filepath.Join(dir, "site/retry.conf"), rules, 0o644); err != nil {
			t.Fatal(err)
		}
		change(t, "site/retry.conf", "55s", "1500ms")(dir)
		change(t, "proxy.conf", "proxy_read_timeout 60s", "proxy_read_timeout 2s")(dir)
	}
}

func TestSilentInstanceIsPassedOverInAContainerNetwork(t *testing.T) {
	t.Parallel()
	b := startBackend(t, "b")
	f := startFront(t, "production.conf", [3]int{silentPort(t), b.port, closedPort(t)}, composeRetry(t))
	for i := range 6 {
		id := fmt.Sprint(i)
		status, body := answer(t, inside, must(http.NewRequest("POST", f.url+"/post?id="+id, strings.NewReader("order"))))
		if status != 200 || body != "b" || b.posted(id) != 1 {
			t.Errorf("POST: %d %q, ran %d times; want 200 from b, once", status, body, b.posted(id))
		}
		if status, body := f.get(t, "/"); status != 200 || body != "b" {
			t.Errorf("GET: %d %q, want 200 from b", status, body)
		}
	}
}

// The twin: the rules for one host take silence for a slow answer.
func TestSilentInstanceCosts504OnOneHost(t *testing.T) {
	t.Parallel()
	b := startBackend(t, "b")
	f := startFront(t, "production.conf", [3]int{silentPort(t), b.port, closedPort(t)})
	for range 2 {
		if status, _ := f.get(t, "/"); status == 504 {
			return
		}
	}
	t.Error("no 504: the other rules would do nothing")
}

func TestSlowRequestRunsOnceInAContainerNetwork(t *testing.T) {
	t.Parallel()
	a, b, ports := twoInstances(t)
	f := startFront(t, "production.conf", ports, composeRetry(t))
	if status, _ := f.get(t, "/hold"); status != 504 {
		t.Errorf("status %d, want 504", status)
	}
	if n := len(a.held) + len(b.held); n != 1 {
		t.Errorf("a slow request ran %d times, want once", n)
	}
}

// A POST that meets a connection whose worker has just died is a 502, so it gets a new one.
func TestPostGetsANewConnection(t *testing.T) {
	t.Parallel()
	a, b, ports := twoInstances(t)
	f := startFront(t, "production.conf", ports)
	for _, method := range []string{"POST", "PATCH"} {
		before := a.connections() + b.connections()
		for range 10 {
			answer(t, inside, must(http.NewRequest(method, f.url+"/", strings.NewReader("x"))))
		}
		if n := a.connections() + b.connections() - before; n != 10 {
			t.Errorf("%d connections for 10 %ss, want 10", n, method)
		}
	}
}

// kill3 lets the worker of an instance die with at least three requests in flight.
func kill3(t *testing.T, f *front, b *backend) {
	t.Helper()
	var inFlight sync.WaitGroup
	for range 12 { // three for each worker
		inFlight.Go(func() {
			resp, err := inside.Do(must(http.NewRequest("POST", f.url+"/hold", nil)))
			if err == nil {
				resp.Body.Close()
			}
		})
	}
	eventually(t, 5*time.Second, "requests are in flight", func() bool { return len(b.held) >= 6 })
	b.mu.Lock()
	for c, worker := range b.conns {
		if worker == 0 {
			c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}
	}
	b.mu.Unlock()
	eventually(t, 5*time.Second, "nginx saw three failures", func() bool {
		return len(f.entries(t, func(e entry) bool { return e.URI == "/hold" && e.Status == 502 })) >= 3
	})
	t.Cleanup(inFlight.Wait)
}

func TestInstanceKeepsItsTrafficAfterAKillWithThreeInFlight(t *testing.T) {
	t.Parallel()
	a, b, ports := twoInstances(t)
	f := startFront(t, "production.conf", ports)
	kill3(t, f, a)
	defer close(a.release)
	defer close(b.release)
	died := time.Now()
	for tries := 1; ; tries++ {
		_, body := f.get(t, "/")
		if body == "a" {
			t.Logf("asked again after %v, request %d", time.Since(died), tries)
			return
		}
		if tries == 10 || time.Since(died) > time.Second {
			t.Fatalf("no traffic for the instance after %d requests, %v", tries, time.Since(died))
		}
	}
}

// The twin, and what the tutorial costs: its whole instance is left out for ten seconds.
func TestTutorialLeavesAWellInstanceOutForTenSeconds(t *testing.T) {
	t.Parallel()
	a, b, ports := twoInstances(t)
	f := startFront(t, "tutorial.conf", ports, change(t, "tutorial.conf", "access_log access.log;", "include log.conf;"),
		change(t, "tutorial.conf", "error_log  error.log;", ""))
	kill3(t, f, a)
	close(a.release)
	close(b.release)
	died := time.Now()
	eventually(t, 15*time.Second, "the instance is asked again", func() bool {
		_, body := f.get(t, "/")
		return body == "a"
	})
	if out := time.Since(died); out < 8*time.Second {
		t.Errorf("left out for %v, want about 10 s", out)
	} else {
		t.Logf("left out for %v", out)
	}
}

// After a death in both instances the tutorial's front knows nobody any more, though all are well.
func TestTutorialAnswers502ThoughAllAreWell(t *testing.T) {
	t.Parallel()
	a, b, ports := twoInstances(t)
	f := startFront(t, "tutorial.conf", ports)
	for range 3 {
		if status, _ := f.get(t, "/die"); status != 502 {
			t.Fatalf("status %d, want 502 from a request that kills every worker that gets it", status)
		}
	}
	if status, _ := f.get(t, "/"); status != 502 {
		t.Errorf("status %d, want 502: three failures each and both instances count as dead", status)
	}
	direct, body := answer(t, inside, must(http.NewRequest("GET", fmt.Sprintf("http://127.0.0.1:%d/", a.port), nil)))
	if direct != 200 || body != "a" || b.connections() == 0 {
		t.Errorf("the instance itself answers %d %q, want 200", direct, body)
	}
}
