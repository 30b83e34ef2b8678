package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor/event"
	"revenant/supervisor/sockdiag"
	"revenant/supervisor/supervisortest"
)

// A program that knows nothing of us, of one thread: what it does with a request
// depends on the path. It serves one connection after the other, as many do.
const singleThreaded = `
import os, select, socket, threading, time
listener, held, sick = socket.socket(fileno=3), [], ""
def compute(seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until: pass
while True:
    select.select([listener], [], [])
    try: client, _ = listener.accept()
    except BlockingIOError: continue
    client.setblocking(True)
    path = client.recv(9999).split()[1].decode()
    if path == "/spin":
        while True: pass
    if path == "/lock":
        lock = threading.Lock(); lock.acquire(); lock.acquire()
    if path == "/wait": time.sleep(3600)
    if path == "/compute": compute(0.05)
    if path in ("/mute", "/bad"): sick = path
    if path == "/never": client.close(); continue
    if sick == "/mute" and path == "/health":
        held.append(client)
        continue
    status = "503 Sick" if sick == "/bad" and path == "/health" else "200 OK"
    client.sendall(f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 7\r\n\r\n{os.getpid():6}\n".encode())
    client.close()
    if path == "/later": compute(6)
`

// standstillInterval is --liveness of these tests.
const standstillInterval = 2 * time.Second

func runSingleThreaded(t *testing.T, flags ...string) *supervisortest.Instance {
	t.Helper()
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("SKIPPED, NOT TESTED: programs of one thread that stand still: python3 is not installed (Debian: apt-get install python3)")
	}
	flags = append([]string{"--workers=2", "--liveness=" + standstillInterval.String()}, flags...)
	return supervisortest.Start(t, append(flags, "--", "python3", "-c", singleThreaded)...)
}

// sends makes a connection that asks for a path and is held until the test ends.
func sends(t *testing.T, i *supervisortest.Instance, path string) net.Conn {
	t.Helper()
	network, address := "tcp", i.Address()
	if strings.HasPrefix(address, "/") {
		network = "unix"
	}
	c, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", path); err != nil {
		t.Fatal(err)
	}
	return c
}

// foundInTime is foundHung, and within twice the interval.
func foundInTime(t *testing.T, i *supervisortest.Instance, events <-chan event.Event, why string) {
	t.Helper()
	began := time.Now()
	gone := foundHung(t, i, events, 0, why)
	// It ended when it had been found, so the end of its dump is in this.
	if took := gone.Time.Sub(began); took > 2*standstillInterval {
		t.Errorf("found after %v", took)
	}
}

func TestProgramThatSpinsOrIsDeadlockedIsFoundThoughItSaysNothing(t *testing.T) {
	for path, why := range map[string]string{"/spin": "it spins", "/lock": "all its threads wait for each other"} {
		t.Run(path[1:], func(t *testing.T) {
			i := runSingleThreaded(t)
			events := i.Follow()
			sends(t, i, path)
			foundInTime(t, i, events, why)
			get(t, i.URL())
		})
	}
}

// On a unix socket the kernel counts no bytes: what shows that somebody waits is a
// request that nobody reads.
func TestProgramThatSpinsOnAUnixSocketIsFound(t *testing.T) {
	i := runSingleThreaded(t, "--listen=unix:"+filepath.Join(t.TempDir(), "s"))
	events := i.Follow()
	c := sends(t, i, "/spin")
	awaitTrue(t, "that is read", func() bool {
		theirs, err := sockdiag.Unix(peerOf(t, c))
		return err == nil && theirs.Path != "" && theirs.Unread == 0
	})
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	foundInTime(t, i, events, "it spins")
}

// peerOf is the inode of the other end of a unix connection, 0 until it is accepted.
func peerOf(t *testing.T, c net.Conn) uint64 {
	t.Helper()
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var stat unix.Stat_t
	_ = raw.Control(func(fd uintptr) { err = unix.Fstat(int(fd), &stat) })
	ours, asked := sockdiag.Unix(stat.Ino)
	if err := errors.Join(err, asked); err != nil {
		t.Fatal(err)
	}
	return ours.Peer
}

// The twins: who waits for somebody else, computes for nobody, or is asked more
// than he can do, does what he should.
func TestProgramThatWorksIsNotTakenForHung(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			instance := func() *supervisortest.Instance {
				if network == "unix" {
					return runSingleThreaded(t, "--listen=unix:"+filepath.Join(t.TempDir(), "s"))
				}
				return runSingleThreaded(t)
			}
			waits, computes, busy := instance(), instance(), instance()
			sends(t, waits, "/wait")
			_, _ = io.ReadAll(sends(t, computes, "/later"))
			later := time.Now().Add(5 * standstillInterval / 2)
			stop := keepBusy(t, busy, later)
			awaitTrue(t, "two intervals and a half pass", func() bool { time.Sleep(50 * time.Millisecond); return time.Now().After(later) })
			if n := stop(); n < 20 {
				t.Errorf("it was not busy: %d answers", n)
			}
			for _, i := range []*supervisortest.Instance{waits, computes, busy} {
				noneHung(t, i)
			}
		})
	}
}

// Whatever they sleep for: everybody has a client, and nobody takes the next.
func TestProgramsThatSleepForTheirClientsWhileConnectionsWaitAreFound(t *testing.T) {
	i := runSingleThreaded(t)
	events := i.Follow()
	sends(t, i, "/wait")
	sends(t, i, "/wait")
	sends(t, i, "/")
	foundInTime(t, i, events, "1 connections wait on tcp://127.0.0.1:0 and nobody took one for 2s, and it used no CPU meanwhile")
}

// The twin: a queue does not move, and it is one that the program does not serve.
func TestIdleProgramIsNotTakenForHungByAQueueThatItDoesNotServe(t *testing.T) {
	unserved := filepath.Join(t.TempDir(), "unserved")
	i := runSingleThreaded(t, "--listen=tcp://127.0.0.1:0", "--listen=unix:"+unserved)
	sends(t, i, "/wait")
	c, err := net.Dial("unix", unserved)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	later := time.Now().Add(5 * standstillInterval / 2)
	awaitTrue(t, "two intervals and a half pass", func() bool { time.Sleep(50 * time.Millisecond); return time.Now().After(later) })
	noneHung(t, i)
}

// keepBusy has more clients than workers ask for something that takes time, until a
// time. What is returned waits for them and tells how many answers there were.
func keepBusy(t *testing.T, i *supervisortest.Instance, until time.Time) (answers func() int64) {
	t.Helper()
	var n atomic.Int64
	var clients sync.WaitGroup
	for range 6 {
		clients.Go(func() {
			for time.Now().Before(until) {
				if line, _ := bufio.NewReader(sends(t, i, "/compute")).ReadString('\n'); strings.Contains(line, "200") {
					n.Add(1)
				}
			}
		})
	}
	return func() int64 { clients.Wait(); return n.Load() }
}

func TestProgramThatDoesNotAnswerTheLivenessProbeIsFound(t *testing.T) {
	// How soon is chance: the kernel chooses who gets a probe.
	for path, why := range map[string]string{
		"/mute": "it did not answer GET /health for 2s",
		"/bad":  "it answered GET /health with status 503 Service Unavailable for 2s",
		"/wait": "it neither waited for a connection nor served one for 2s",
	} {
		for _, listener := range []string{"tcp://127.0.0.1:0", "unix:" + filepath.Join(t.TempDir(), "s")} {
			t.Run(path[1:]+" "+listener[:4], func(t *testing.T) {
				i := runSingleThreaded(t, "--listen="+listener, "--liveness-probe=http:/health")
				events := i.Follow()
				sends(t, i, path)
				foundHung(t, i, events, 0, why)
			})
		}
	}
}

// The twin: those that no probe happens to reach, too.
func TestProgramThatAnswersTheLivenessProbeIsLeftAlone(t *testing.T) {
	for _, listener := range []string{"tcp://127.0.0.1:0", "unix:" + filepath.Join(t.TempDir(), "s")} {
		i := runSingleThreaded(t, "--listen="+listener, "--liveness-probe=http:/health")
		later := time.Now().Add(5 * standstillInterval / 2)
		awaitTrue(t, "two intervals and a half pass", func() bool { time.Sleep(50 * time.Millisecond); return time.Now().After(later) })
		noneHung(t, i)
	}
}

// Another twin: a probe that nobody has ever answered is a wrong one, and ends nobody.
func TestLivenessProbeThatNobodyEverAnsweredIsSaidAndNotHeldAgainstAnyone(t *testing.T) {
	i := runSingleThreaded(t, "--liveness-probe=http:/never")
	events := i.Follow()
	said := supervisortest.AwaitEvent(t, events, "a warning", func(e event.Event) bool { return e.Kind == event.Warning })
	if !strings.HasPrefix(said.Message, "liveness probe: no worker has answered GET /never yet as it should, so none is judged by it: ") {
		t.Errorf("it says %q", said.Message)
	}
	later := time.Now().Add(3 * standstillInterval / 2)
	awaitTrue(t, "one interval and a half passes", func() bool { time.Sleep(50 * time.Millisecond); return time.Now().After(later) })
	noneHung(t, i)
}

// Package worker is asked through its door, and what it answers counts once it was
// ever good.
func TestWorkerThatAnswersTheLivenessProbeBadlyIsFoundOnceItAnsweredWell(t *testing.T) {
	mark := openDir(t)
	i := supervisortest.BeginProgram(t, variant(t, "answers-500-when-told"), []string{marker + "=" + mark}, "--workers=2", "--liveness=1s", "--liveness-probe=http:/")
	i.Await("ready", isReady)
	events := i.Follow()
	later := time.Now().Add(2 * time.Second)
	awaitTrue(t, "two intervals pass", func() bool { time.Sleep(50 * time.Millisecond); return time.Now().After(later) })
	noneHung(t, i)
	write(t, filepath.Join(mark, "sick"), nil, 0o644)
	foundHung(t, i, events, 0, "it answered GET / with status 500 Internal Server Error for 1s")
}

// The twin.
func TestWorkersThatNeverAnsweredTheLivenessProbeWellAreNotJudgedByIt(t *testing.T) {
	i := supervisortest.BeginProgram(t, variant(t, "answers-500"), nil, "--workers=2", "--liveness=1s", "--liveness-probe=http:/")
	i.Await("ready", isReady)
	later := time.Now().Add(3 * time.Second)
	awaitTrue(t, "three intervals pass", func() bool { time.Sleep(50 * time.Millisecond); return time.Now().After(later) })
	noneHung(t, i)
	if !strings.Contains(i.Log(), "no worker has answered GET / yet as it should") {
		t.Error("nobody says that the probe is of no use")
	}
}
