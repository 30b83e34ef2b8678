package worker

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What net/http looks for must not hide behind our wrappers: sendfile and the half-close of a refused body.
var (
	_ io.ReaderFrom                   = (*tcpConn)(nil)
	_ interface{ CloseWrite() error } = (*tcpConn)(nil)
	_ interface{ CloseWrite() error } = (*unixConn)(nil)
	_ http.Flusher                    = (*answer)(nil)
	_ http.Hijacker                   = (*answer)(nil)
	_ io.ReaderFrom                   = (*answer)(nil)
	_ io.StringWriter                 = (*answer)(nil)
)

// run serves handler in this process and returns its address.
func run(t *testing.T, handler http.HandlerFunc, opts ...Option) net.Addr {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	opts = append([]Option{WithListen("tcp://127.0.0.1:0"), WithQuiet(0), WithLogger(slog.New(slog.DiscardHandler))}, opts...)
	listening := make(chan net.Addr, 1)
	opts = append(opts, WithServer(func(s *http.Server) {
		s.BaseContext = func(ln net.Listener) context.Context { listening <- ln.Addr(); return context.Background() }
	}))
	go func() { done <- Run(ctx, handler, opts...) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	select {
	case addr := <-listening:
		return addr
	case err := <-done:
		done <- err
		t.Fatal(err)
		return nil
	}
}

func get(t *testing.T, addr net.Addr) (*http.Response, string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	res, err := client.Get("http://" + addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body)
}

func TestHandlerCanDoWhatItCanUnderNetHTTP(t *testing.T) {
	addr := run(t, func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		err := errors.Join(
			control.SetReadDeadline(time.Now().Add(time.Minute)),
			control.SetWriteDeadline(time.Now().Add(time.Minute)),
			control.EnableFullDuplex(),
		)
		w.Header().Set("Link", "</style.css>")
		w.WriteHeader(http.StatusEarlyHints)
		io.WriteString(w, "text ")
		io.Copy(w, strings.NewReader("copied "))
		err = errors.Join(err, control.Flush())
		w.(http.Flusher).Flush()
		if err != nil {
			io.WriteString(w, err.Error())
		}
	})
	if res, body := get(t, addr); res.StatusCode != 200 || body != "text copied " {
		t.Errorf("answer %d %q", res.StatusCode, body)
	}
}

// sink notes what it was to read from.
type sink struct {
	http.ResponseWriter
	from io.Reader
}

func (s *sink) ReadFrom(r io.Reader) (int64, error) { s.from = r; return 0, nil }

func TestFilesReachNetHTTPAsFiles(t *testing.T) {
	s := &sink{}
	a := &answer{ResponseWriter: s, server: &server{}}
	limited := &io.LimitedReader{N: 1}
	io.Copy(a, limited)
	if s.from != limited || a.status != 200 {
		t.Errorf("net/http got %v with status %d, want the reader itself and 200", s.from, a.status)
	}
}

func TestDeliveredWaitsForTheClient(t *testing.T) {
	result := make(chan error, 1)
	addr := run(t, func(w http.ResponseWriter, r *http.Request) {
		connOf(r.Context()).net.(*tcpConn).SetWriteBuffer(1 << 20)
		w.Write(make([]byte, 160<<10))
		http.NewResponseController(w).Flush()
		result <- Delivered(r.Context())
	})
	if _, body := get(t, addr); len(body) != 160<<10 {
		t.Errorf("%d bytes came", len(body))
	}
	if err := <-result; err != nil {
		t.Errorf("to a client that reads: %v", err)
	}

	deaf, err := (&net.Dialer{Control: smallWindow}).Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	io.WriteString(deaf, "GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
	began := time.Now()
	if err := <-result; !errors.Is(err, ErrNotDelivered) || time.Since(began) < deliveryPatience/2 {
		t.Errorf("to a client that does not read: %v after %v", err, time.Since(began))
	}
	io.Copy(io.Discard, deaf)
}

func TestAfterCloseComesAfterTheAnswer(t *testing.T) {
	closed := make(chan int, 1)
	addr := run(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		s := connOf(r.Context()).server
		AfterClose(r.Context(), func() { closed <- s.open() })
		io.WriteString(w, "answer")
	})
	get(t, addr)
	if open := <-closed; open != 0 {
		t.Errorf("%d connections open", open)
	}
	outside := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	AfterClose(ctx, func() { close(outside) })
	cancel()
	<-outside
	if err := Delivered(ctx); err != nil {
		t.Errorf("outside of Run: %v", err)
	}
}

func TestDefaultsFitAPublicServer(t *testing.T) {
	s := newServer(t.Context(), nil, nil, defaults())
	if s.http.ReadHeaderTimeout != 10*time.Second || s.http.IdleTimeout != 75*time.Second || s.http.MaxHeaderBytes != 64<<10 {
		t.Errorf("header %v, idle %v, %d bytes", s.http.ReadHeaderTimeout, s.http.IdleTimeout, s.http.MaxHeaderBytes)
	}
	if o := defaults(); o.quiet != 5*time.Second || o.drainTimeout != 30*time.Second {
		t.Errorf("quiet %v, drain timeout %v", o.quiet, o.drainTimeout)
	}
}

func TestHooksOfTheApplicationRunToo(t *testing.T) {
	type key struct{}
	states := make(chan http.ConnState, 8)
	addr := run(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.Context().Value(key{}).(string))
	}, WithServer(func(s *http.Server) {
		s.ConnContext = func(ctx context.Context, _ net.Conn) context.Context { return context.WithValue(ctx, key{}, "mine") }
		s.ConnState = func(_ net.Conn, state http.ConnState) { states <- state }
	}))
	if _, body := get(t, addr); body != "mine" {
		t.Errorf("answer %q", body)
	}
	for _, want := range []http.ConnState{http.StateNew, http.StateActive, http.StateClosed} {
		if got := <-states; got != want {
			t.Errorf("state %v, want %v", got, want)
		}
	}
}

func TestAddressesThatCannotBeListenedOn(t *testing.T) {
	for _, address := range []string{"", "127.0.0.1:80", "tcp://127.0.0.1", "unix:", "udp://127.0.0.1:1"} {
		if _, err := bind(t.Context(), []string{address}); err == nil || !strings.HasPrefix(err.Error(), "cannot listen on ") {
			t.Errorf("%q: %v", address, err)
		}
	}
}

func smallWindow(_, _ string, raw syscall.RawConn) error {
	return raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4096) })
}
