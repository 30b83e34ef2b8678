package ledger

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const patience = 10 * time.Second

// toy serves each connection with a function that is as hostile as it likes. It
// returns the target to dial.
func toy(t testing.TB, network string, serve func(conn net.Conn, request *bufio.Reader)) string {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(t.TempDir(), "toy.sock")
	}
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	// Ends when the listener is closed.
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			// Ends with its connection; the deadline bounds it.
			go func() {
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(patience))
				serve(conn, bufio.NewReader(conn))
			}()
		}
	}()
	if network == "unix" {
		return "unix:" + ln.Addr().String()
	}
	return "tcp://" + ln.Addr().String()
}

// readRequest reads one request with its body and returns its id.
func readRequest(r *bufio.Reader) (id string, ok bool) {
	request, err := http.ReadRequest(r)
	if err != nil {
		return "", false
	}
	io.Copy(io.Discard, request.Body)
	return request.Header.Get("X-Request-Id"), true
}

// saying answers every request with the same bytes and then closes.
func saying(text string) func(net.Conn, *bufio.Reader) {
	return func(conn net.Conn, r *bufio.Reader) {
		if _, ok := readRequest(r); ok {
			io.WriteString(conn, text)
		}
	}
}

const hello = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"

func reset(conn net.Conn, r *bufio.Reader) {
	readRequest(r)
	conn.(*net.TCPConn).SetLinger(0)
}

func TestEachClassIsToldFromTheOthers(t *testing.T) {
	for _, test := range []struct {
		name  string
		serve func(net.Conn, *bufio.Reader)
		want  Class
	}{
		{"length", saying(hello), Answered},
		{"chunks", saying("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nTrailer: x\r\n\r\n"), Answered},
		{"until the end", saying("HTTP/1.0 200 OK\r\n\r\nhello"), Answered},
		{"after 100 and 103", saying("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + hello), Answered},
		{"bare newlines", saying("HTTP/1.1 200 OK\nContent-Length: 5\n\nhello"), Answered},
		{"reset after the answer", func(conn net.Conn, r *bufio.Reader) {
			readRequest(r)
			io.WriteString(conn, hello)
			r.Peek(1) // until the client has it and closes
		}, Answered},

		{"reset", reset, Reset},
		{"reset in the answer", func(conn net.Conn, r *bufio.Reader) {
			readRequest(r)
			io.WriteString(conn, hello[:len(hello)-1])
			waitAcknowledged(conn)
			conn.(*net.TCPConn).SetLinger(0)
		}, Reset},

		{"closed at once", func(conn net.Conn, r *bufio.Reader) { readRequest(r) }, Empty},

		{"cut in the status line", saying("HTTP/1.1 2"), Cut},
		{"cut in the head", saying("HTTP/1.1 200 OK\r\nContent-Le"), Cut},
		{"cut before the body", saying("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"), Cut},
		{"cut in the body", saying("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell"), Cut},
		{"cut in a chunk", saying("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel"), Cut},
		{"cut between chunks", saying("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"), Cut},
		{"cut before the last line", saying("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n"), Cut},

		{"502", saying("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 5\r\n\r\nhello"), Status},
		{"204", saying("HTTP/1.1 204 No Content\r\n\r\n"), Status},
		{"redirect", saying("HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n"), Status},

		{"other body", saying("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nsorry"), WrongBody},
		{"no body", saying("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), WrongBody},
		{"no HTTP", saying("SSH-2.0-OpenSSH_9.2p1\r\n"), WrongBody},
		{"endless header", saying("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<16)), WrongBody},
		{"bad length", saying("HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\nhello"), WrongBody},
		{"bad chunk", saying("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfive\r\nhello\r\n0\r\n\r\n"), WrongBody},
		{"somebody else's answer", saying("HTTP/1.1 200 OK\r\nX-Request-Id: other\r\nContent-Length: 5\r\n\r\nhello"), WrongBody},

		{"two answers at once", saying("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello" + hello), Duplicate},
		{"two answers, one late", func(conn net.Conn, r *bufio.Reader) {
			readRequest(r)
			io.WriteString(conn, hello)
			waitAcknowledged(conn)
			io.WriteString(conn, hello)
		}, Duplicate},

		{"silence", func(conn net.Conn, r *bufio.Reader) { io.Copy(io.Discard, r) }, Timeout},
		{"silence in the body", func(conn net.Conn, r *bufio.Reader) {
			readRequest(r)
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe")
			io.Copy(io.Discard, r)
		}, Timeout},
	} {
		t.Run(test.name, func(t *testing.T) {
			const n = 3
			report, err := Load{
				Target: toy(t, "tcp", test.serve), Requests: n, Timeout: 200 * time.Millisecond,
				Right: func(_ Request, a Response) bool { return string(a.Body) == "hello" },
			}.Run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if report.Counts[test.want] != n || report.Sent() != n {
				t.Errorf("%d %v, failures %v, want %d %v", report.Counts[Answered], Answered, report.Failures, n, test.want)
			}
		})
	}
}

// waitAcknowledged returns when the peer has everything that was written: a
// reset then overtakes nothing.
func waitAcknowledged(conn net.Conn) {
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		unsent := 0
		raw.Control(func(fd uintptr) { unsent, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
		if err != nil || unsent == 0 {
			return
		}
	}
}

func TestRefusedIsNoConnection(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	for _, target := range []string{"tcp://" + ln.Addr().String(), "unix:" + filepath.Join(t.TempDir(), "nobody.sock")} {
		report, err := Load{Target: target, Requests: 3}.Run(t.Context())
		if err != nil || report.Counts[Refused] != 3 {
			t.Errorf("%s: %v, %v, want 3 refused", target, report.Kinds(), err)
		}
	}
}

func TestConnectTimeoutIsNoAnswerToTheHandshake(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", name.(*unix.SockaddrInet4).Port)
	filler, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		t.Fatal(err)
	}
	defer filler.Close() // a queue of length 0 holds one, and nobody accepts
	report, err := Load{Target: "tcp://" + address, Requests: 3, Clients: 3, ConnectTimeout: 100 * time.Millisecond}.Run(t.Context())
	if err != nil || report.Counts[ConnectTimeout] != 3 {
		t.Errorf("%v, %v, want 3 connect-timeout", report.Kinds(), err)
	}
}

func TestOwnFaultMakesTheRunVoid(t *testing.T) {
	for name, load := range map[string]Load{
		"no such target":   {Target: "http://127.0.0.1", Requests: 3},
		"no such address":  {Target: "tcp://127.0.0.1:99999", Requests: 3},
		"neither":          {Target: "tcp://127.0.0.1:1"},
		"both":             {Target: "tcp://127.0.0.1:1", Requests: 3, Duration: time.Second},
		"nothing was sent": {Target: "tcp://127.0.0.1:1", Duration: time.Nanosecond, Rate: 0.001, Stop: closed()},
	} {
		if report, err := load.Run(t.Context()); !errors.Is(err, ErrVoid) {
			t.Errorf("%s: %v, %v, want ErrVoid", name, report, err)
		}
	}
}

func closed() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

func TestRunThatIsCutShortIsVoid(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var served atomic.Int64
	target := toy(t, "tcp", func(conn net.Conn, r *bufio.Reader) {
		readRequest(r)
		if served.Add(1) == 5 {
			cancel()
		}
		io.WriteString(conn, hello)
	})
	report, err := Load{Target: target, Requests: 1000}.Run(ctx)
	if !errors.Is(err, ErrVoid) || report.Sent() < 5 || report.Sent() >= 1000 {
		t.Errorf("%v, %v, want ErrVoid after 5", report, err)
	}
}

func server(t testing.TB, network string) (target, journal string) {
	t.Helper()
	journal = filepath.Join(t.TempDir(), "journal")
	j, err := OpenJournal(journal)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	s := httptest.NewUnstartedServer(j)
	if network == "unix" {
		s.Listener.Close()
		if s.Listener, err = net.Listen("unix", filepath.Join(t.TempDir(), "s.sock")); err != nil {
			t.Fatal(err)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	if network == "unix" {
		return "unix:" + s.Listener.Addr().String(), journal
	}
	return "tcp://" + s.Listener.Addr().String(), journal
}

func TestEveryRequestIsDoneExactlyOnce(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		for _, keepAlive := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, keep-alive %v", network, keepAlive), func(t *testing.T) {
				const n = 500
				target, journal := server(t, network)
				report, err := Load{Target: target, Requests: n, Clients: 4, KeepAlive: keepAlive, Post: 16 << 10}.Run(t.Context())
				if err != nil || report.Counts[Answered] != n || report.Failed() != 0 {
					t.Fatalf("%v, %v, want %d answered", &report, err, n)
				}
				entries, err := ReadJournal(journal)
				if err != nil || len(entries) != n {
					t.Fatalf("%d entries in the journal, %v, want %d", len(entries), err, n)
				}
				for id, work := range entries {
					if (work != Work{Begun: 1, Done: 1}) {
						t.Errorf("request %s: %+v, want once", id, work)
					}
				}
			})
		}
	}
}

// Keep-alive is real, a closed idle connection costs nobody a request, and
// neither does "Connection: close".
func TestIdleConnectionThatWasClosedIsNotUsed(t *testing.T) {
	var conns, served atomic.Int64
	target := toy(t, "tcp", func(conn net.Conn, r *bufio.Reader) {
		conns.Add(1)
		for range 3 {
			if _, ok := readRequest(r); !ok {
				return
			}
			served.Add(1)
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
		}
		// Closes without a word, once the client is told to wait for that.
	})
	client := &Client{Target: target, KeepAlive: true, Timeout: patience}
	defer client.Close()
	for i := range 9 {
		if i > 0 && i%3 == 0 {
			client.conn.SetReadDeadline(time.Now().Add(patience))
			if _, err := client.reader.Peek(1); err != io.EOF {
				t.Fatalf("the toy has not closed: %v", err)
			}
		}
		if o := client.Do(Request{Path: "/", ID: fmt.Sprint(i)}); o.Class != Answered {
			t.Fatalf("request %d: %v, %v", i, o.Class, o.Err)
		}
	}
	if conns.Load() != 3 || served.Load() != 9 {
		t.Errorf("%d requests on %d connections, want 9 on 3", served.Load(), conns.Load())
	}
}

// The twin: Go's own client sends a GET again when a kept connection dies, and
// nobody hears of it. Ours says that the request is lost.
func TestLostRequestIsNeverSentAgain(t *testing.T) {
	var served atomic.Int64
	target := toy(t, "tcp", func(conn net.Conn, r *bufio.Reader) {
		if _, ok := readRequest(r); !ok {
			return
		}
		served.Add(1)
		io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
		if _, ok := readRequest(r); ok {
			served.Add(1) // and is not answered
		}
	})
	client := &Client{Target: target, KeepAlive: true, Timeout: patience}
	defer client.Close()
	first, second := client.Do(Request{Path: "/"}), client.Do(Request{Path: "/"})
	if first.Class != Answered || second.Class != Empty || served.Load() != 2 {
		t.Errorf("%v, %v, %d reached the server, want answered, empty, 2", first.Class, second.Class, served.Load())
	}

	served.Store(0)
	for range 2 {
		response, err := http.Get("http://" + strings.TrimPrefix(target, "tcp://"))
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, response.Body)
		response.Body.Close()
	}
	http.DefaultClient.CloseIdleConnections()
	if served.Load() != 3 {
		t.Errorf("net/http: %d reached the server for 2 answers, want 3: one in silence", served.Load())
	}
}

func TestAnswerGivenTwiceIsADuplicate(t *testing.T) {
	target := toy(t, "tcp", func(conn net.Conn, r *bufio.Reader) {
		first, _ := readRequest(r)
		for {
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nX-Request-Id: %s\r\nContent-Length: 5\r\n\r\nhello", first)
			if _, ok := readRequest(r); !ok {
				return
			}
		}
	})
	report, err := Load{Target: target, Requests: 4, KeepAlive: true}.Run(t.Context())
	if err != nil || report.Counts[Answered] != 2 || report.Counts[Duplicate] != 2 {
		t.Errorf("%v, %v, want 2 answered and 2 duplicate", &report, err)
	}
}

func TestDurationCountsWhatWasStarted(t *testing.T) {
	target, journal := server(t, "tcp")
	report, err := Load{Target: target, Duration: 100 * time.Millisecond, Clients: 2, KeepAlive: true}.Run(t.Context())
	entries, journalErr := ReadJournal(journal)
	if err := errors.Join(err, journalErr); err != nil || report.Sent() != len(entries) || report.Failed() != 0 {
		t.Errorf("%v, %v, want %d sent as in the journal", &report, err, len(entries))
	}
	if elapsed := report.End.Sub(report.Begin); elapsed < 100*time.Millisecond {
		t.Errorf("ended after %v, want 100ms at least", elapsed)
	}
}

func TestStopEndsADurationWithoutMakingItVoid(t *testing.T) {
	target, _ := server(t, "tcp")
	stop := make(chan struct{})
	time.AfterFunc(50*time.Millisecond, func() { close(stop) })
	for _, rate := range []float64{0, 10} {
		report, err := Load{Target: target, Duration: time.Hour, Rate: rate, Stop: stop}.Run(t.Context())
		if rate == 0 && (err != nil || report.Counts[Answered] == 0) {
			t.Errorf("%v, %v, want some answered", &report, err)
		}
		if rate > 0 && err != nil && !errors.Is(err, ErrVoid) {
			t.Error(err)
		}
	}
}

func TestAnsweredIsToldOfRightAnswersWhileTheLoadRuns(t *testing.T) {
	target, _ := server(t, "tcp")
	right := func(r Request, _ Response) bool { return !strings.HasSuffix(r.ID, "0") }
	stop, answered := make(chan struct{}), new(atomic.Int64)
	// Ends when there are enough answers, or with the test.
	go func() {
		for t.Context().Err() == nil {
			if answered.Load() >= 20 {
				close(stop)
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	report, err := Load{Target: target, Duration: patience, KeepAlive: true, Stop: stop, Answered: answered, Right: right}.Run(t.Context())
	if n := answered.Load(); err != nil || n < 20 || int(n) != report.Counts[Answered] || report.Counts[WrongBody] == 0 {
		t.Errorf("told of %d answers; %v, %v, want as many, 20 at least, and no wrong one", n, &report, err)
	}
}

// An open loop remembers that requests were due while the server stalled; a
// closed loop forgets, and its percentiles look fine.
func TestOpenLoopCountsTheStall(t *testing.T) {
	const stall = 300 * time.Millisecond
	stallOnce := func() func(net.Conn, *bufio.Reader) {
		var served atomic.Int64
		return func(conn net.Conn, r *bufio.Reader) {
			readRequest(r)
			if served.Add(1) == 10 {
				<-time.After(stall)
			}
			io.WriteString(conn, hello)
		}
	}
	load := Load{Requests: 100, Clients: 1}
	load.Target = toy(t, "tcp", stallOnce())
	closedLoop, err := load.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	load.Target, load.Rate = toy(t, "tcp", stallOnce()), 200
	openLoop, err := load.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if p := closedLoop.Percentile(90); p > stall/4 {
		t.Errorf("closed loop: p90 %v, want it to hide the stall", p)
	}
	if p := openLoop.Percentile(70); p < stall/4 {
		t.Errorf("open loop: p70 %v, want it to show the stall of %v", p, stall)
	}
	for _, report := range []*Report{&closedLoop, &openLoop} {
		if gap, _ := report.LongestGap(); gap < stall || gap > 3*stall {
			t.Errorf("longest gap %v, want about %v", gap, stall)
		}
	}
}
