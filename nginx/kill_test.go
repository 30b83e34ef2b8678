package nginx

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// spellings are request targets and headers that someone may try in order to reach /workerKiller.
var spellings = []string{
	"/workerKiller",
	"/workerKiller?mode=kill",
	"/workerKiller/",
	"/workerKiller//",
	"/workerKiller/.",
	"/workerKiller/..;/",
	"/workerKiller/..;/workerKiller",
	"/workerKiller;x",
	"/workerKiller;x=y?mode=kill",
	"/workerKiller%20",
	"/workerKiller%09",
	"/workerKiller%0a",
	"/workerKiller%2f",
	"/workerKiller%2F..%2FworkerKiller",
	"/workerKiller%3fmode=kill",
	"/workerKiller%23",
	"/workerKiller%3b",
	"/workerKiller.",
	"/workerKiller.json",
	"/workerKiller%5c",
	"/workerKiller\\",
	"/workerkiller",
	"/WORKERKILLER",
	"/WorkerKiller",
	"/%77orkerKiller",
	"/worker%4Biller",
	"/worker%4biller",
	"/%77%6f%72%6b%65%72%4b%69%6c%6c%65%72",
	"//workerKiller",
	"///workerKiller",
	"/%2fworkerKiller",
	"/%2FworkerKiller",
	"/./workerKiller",
	"/.//workerKiller",
	"/x/../workerKiller",
	"/x/%2e%2e/workerKiller",
	"/x/..%2fworkerKiller",
	"/x/..;/workerKiller",
	"/;/workerKiller",
	"/\\workerKiller",
	"/workerKiller%00",
	"/%252fworkerKiller",
	"http://localhost/workerKiller",
	"http://127.0.0.1/workerKiller",
	"/workerKiller HTTP/1.0",
	"/workerKiller HTTP/1.1\r\nX-Forwarded-For: 127.0.0.1\r\nX-Real-IP: 127.0.0.1\r\nX-Unused:",
	"/ HTTP/1.1\r\nX-Original-URL: /workerKiller\r\nX-Rewrite-URL: /workerKiller\r\nX-Unused:",
}

// raw sends a request line as it is, which an HTTP client would clean, and returns the status.
func (f *front) raw(t testing.TB, from, method, target string) int {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 5 * time.Second}
	conn, err := dialer.Dial("tcp", f.url[len("http://"):])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", method, target)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

func TestKillPathIsClosedInAllItsSpellings(t *testing.T) {
	t.Parallel()
	a, b, ports := twoInstances(t)
	f := startFront(t, "production.conf", ports)
	for _, method := range []string{"GET", "POST", "HEAD"} {
		for _, target := range spellings {
			status := f.raw(t, "127.0.0.2", method, target)
			harmless := strings.HasPrefix(target, "/ ") && status == http.StatusOK
			if !harmless && status != 403 && status != 404 && status != 400 {
				t.Errorf("%s %q answered %d from outside", method, target, status)
			}
		}
	}
	if n := a.killed() + b.killed(); n != 0 {
		t.Errorf("%d workers killed from outside the allow-list, want none", n)
	}
}

// The twin: without kill.conf some of these reach the handler.
func TestSpellingsReachTheHandlerWithoutTheLock(t *testing.T) {
	t.Parallel()
	a, b, ports := twoInstances(t)
	f := startFront(t, "production.conf", ports, change(t, "production.conf", "include kill.conf;", ""))
	reached := 0
	for _, target := range spellings {
		before := a.killed() + b.killed()
		f.raw(t, "127.0.0.2", "GET", target)
		if a.killed()+b.killed() > before {
			reached++
		}
	}
	if reached < 5 {
		t.Errorf("%d spellings reach an open handler, want several: the table tries nothing", reached)
	}
}

func TestOneKillRequestIsOneDeath(t *testing.T) {
	t.Parallel()
	a, b, ports := twoInstances(t)
	f := startFront(t, "production.conf", ports)
	for i := 1; i <= 20; i++ {
		f.raw(t, "127.0.0.1", "GET", "/workerKiller?mode=kill")
		if n := a.killed() + b.killed(); n != i {
			t.Fatalf("%d workers killed by %d requests", n, i)
		}
		for range 2 { // three requests a round, so that the kills do not fall on one instance alone
			if status, body := f.get(t, "/"); status != 200 {
				t.Fatalf("after a kill: %d %s", status, body)
			}
		}
	}
	if a.killed() == 0 || b.killed() == 0 {
		t.Errorf("killed %d in a and %d in b, want both to be asked", a.killed(), b.killed())
	}
}

// The twin: a GET is tried again where its worker died, so the default front kills one in each instance.
func TestTutorialKillsOneInEveryInstance(t *testing.T) {
	t.Parallel()
	a, b, ports := twoInstances(t)
	f := startFront(t, "tutorial.conf", ports)
	if status := f.raw(t, "127.0.0.1", "GET", "/workerKiller"); status != 502 {
		t.Errorf("status %d, want 502", status)
	}
	if a.killed() != 1 || b.killed() != 1 {
		t.Errorf("killed %d in a and %d in b, want one in each", a.killed(), b.killed())
	}
}
