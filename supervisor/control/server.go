// Package control is how an operator talks to a running instance: HTTP and JSON
// on a unix socket, so that curl is enough.
//
//	GET  /v1/status                    supervisor.Status
//	GET  /v1/config                    supervisor.Setting, a list
//	GET  /v1/events?since=ID&follow=1  event.Event, one JSON object a line
//	GET  /v1/logs?worker=ID&n=N&since=TIME&grep=REGEXP&follow=1  LogLine, the same
//	GET  /v1/workers/{id}              supervisor.Report
//	POST /v1/workers/{id}/kill         {"signal":"TERM"}
//	POST /v1/stop
//	POST /v1/reload
//	POST /v1/upgrade                   {"binary":"/path"}, {"rollback":true} or {}
//	POST /v1/restart                   {"worker":3} or {"worker":"all"}
//	POST /v1/scale                     {"n":4} or {"n":-1,"relative":true}
//
// The last three are operations. There is one at a time: while there is, the
// answer is 409 and says who holds it and since when. Otherwise it is a stream of
// the operation's events, one JSON object a line, until operation.done or
// operation.failed. The operation goes on when the client goes away.
//
// The socket has mode 0600 in a directory of mode 0700, and the peer's uid is
// asked from the kernel besides: root and the instance's own user are let in.
// Nothing changes by a GET. Errors are problem documents (RFC 9457).
package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor"
	"revenant/supervisor/event"
)

// Server answers on the control socket. Serve starts it, Close ends it.
type Server struct {
	master  *supervisor.Master
	http    http.Server
	closing chan struct{} // closed when followers shall hear the rest and go
}

// Listen binds the control socket. A path that a dead master left is replaced in
// one step, so that a client meets the old socket or the new one and never none.
func Listen(path string) (net.Listener, error) {
	draft := fmt.Sprintf("%s.%d", path, os.Getpid())
	_ = os.Remove(draft)
	l, err := net.Listen("unix", draft)
	if err != nil {
		return nil, fmt.Errorf("cannot bind the control socket %s: %w", path, err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err = os.Chmod(draft, 0o600); err == nil {
		err = os.Rename(draft, path)
	}
	if err != nil {
		_ = l.Close()
		_ = os.Remove(draft)
		return nil, fmt.Errorf("cannot place the control socket %s: %w", path, err)
	}
	return l, nil
}

// New makes a server for a master.
func New(master *supervisor.Master) *Server {
	s := &Server{master: master, closing: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", s.status)
	mux.HandleFunc("GET /v1/config", s.config)
	mux.HandleFunc("GET /v1/events", s.events)
	mux.HandleFunc("GET /v1/logs", s.logs)
	mux.HandleFunc("GET /v1/workers/{id}", s.show)
	mux.HandleFunc("POST /v1/workers/{id}/kill", s.kill)
	mux.HandleFunc("POST /v1/stop", s.stop)
	mux.HandleFunc("POST /v1/reload", s.reload)
	mux.HandleFunc("POST /v1/upgrade", s.upgrade)
	mux.HandleFunc("POST /v1/restart", s.restart)
	mux.HandleFunc("POST /v1/scale", s.scale)
	s.http = http.Server{
		Handler:           known(mux),
		ReadHeaderTimeout: 5 * time.Second,
		ConnContext:       withPeer,
	}
	return s
}

// Serve answers until Close. The listener is the server's from now on.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// lastWords bounds how long Close waits for those who read slowly.
const lastWords = time.Second

// Close ends the server, and every stream once it has told all that happened.
// It is called once.
func (s *Server) Close() error {
	close(s.closing)
	ctx, cancel := context.WithTimeout(context.Background(), lastWords)
	defer cancel()
	if s.http.Shutdown(ctx) == nil {
		return nil
	}
	return s.http.Close()
}

type peerKey struct{}

// withPeer asks the kernel who is at the other end.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return ctx
	}
	var peer *unix.Ucred
	_ = raw.Control(func(fd uintptr) { peer, _ = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	return context.WithValue(ctx, peerKey{}, peer)
}

// known lets in root and the instance's own user.
func known(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		peer, _ := r.Context().Value(peerKey{}).(*unix.Ucred)
		if peer == nil || peer.Uid != 0 && int(peer.Uid) != os.Geteuid() {
			problem(w, http.StatusForbidden, "only root and the instance's own user may do this")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// Problem is an error as the socket tells it.
type Problem struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
}

func problem(w http.ResponseWriter, status int, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(Problem{Title: http.StatusText(status), Status: status, Detail: detail})
}

// fail tells a master's error.
func fail(w http.ResponseWriter, err error) {
	var unknown *supervisor.UnknownWorkerError
	switch {
	case errors.As(err, &unknown):
		problem(w, http.StatusNotFound, err.Error())
	case errors.Is(err, supervisor.ErrSucceeded):
		problem(w, http.StatusServiceUnavailable, err.Error())
	case errors.Is(err, supervisor.ErrStopped):
		problem(w, http.StatusGone, err.Error())
	default:
		problem(w, http.StatusConflict, err.Error())
	}
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

func (s *Server) status(w http.ResponseWriter, r *http.Request) {
	status, err := s.master.Status(r.Context())
	if err != nil {
		fail(w, err)
		return
	}
	reply(w, http.StatusOK, status)
}

func (s *Server) config(w http.ResponseWriter, r *http.Request) {
	list, err := s.master.InForce(r.Context())
	if err != nil {
		fail(w, err)
		return
	}
	reply(w, http.StatusOK, list)
}

// follower is how many events one follower may be behind.
const follower = 1024

func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	since, err := strconv.ParseUint(defaultTo(r.FormValue("since"), "0"), 10, 64)
	if err != nil {
		problem(w, http.StatusBadRequest, fmt.Sprintf("since=%q is not the ID of an event", r.FormValue("since")))
		return
	}
	if since > 0 && len(s.master.Events().Since(since-1)) == 0 {
		since = 0 // of an instance that had this name before: all of this one came after it
	}
	past, live := s.master.Events().Subscribe(since, follower)
	defer live.Close()
	w.Header().Set("Content-Type", "application/x-ndjson")
	out := json.NewEncoder(w)
	for _, e := range past {
		_ = out.Encode(e)
	}
	if r.FormValue("follow") == "" {
		return
	}
	s.follow(w, r, out, live)
}

func (s *Server) follow(w http.ResponseWriter, r *http.Request, out *json.Encoder, live *event.Subscription) {
	flush := http.NewResponseController(w)
	for {
		if flush.Flush() != nil {
			return
		}
		select {
		case e, open := <-live.Events():
			if !open || out.Encode(e) != nil {
				return
			}
		case <-r.Context().Done():
			return
		case <-s.closing:
			s.rest(out, live)
			return
		}
	}
}

// rest tells what was published before the end.
func (s *Server) rest(out *json.Encoder, live *event.Subscription) {
	live.Close()
	for e := range live.Events() {
		if out.Encode(e) != nil {
			return
		}
	}
}

func defaultTo(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}

func (s *Server) show(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.ParseUint(r.PathValue("id"), 10, 64)
	if err != nil {
		problem(w, http.StatusBadRequest, fmt.Sprintf("%q is not the ID of a worker", r.PathValue("id")))
		return
	}
	report, err := s.master.Show(r.Context(), id)
	if err != nil {
		fail(w, err)
		return
	}
	reply(w, http.StatusOK, report)
}

func (s *Server) kill(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.ParseUint(r.PathValue("id"), 10, 64)
	if err != nil {
		problem(w, http.StatusBadRequest, fmt.Sprintf("%q is not the ID of a worker", r.PathValue("id")))
		return
	}
	var wish struct{ Signal string }
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4096)).Decode(&wish); err != nil {
		problem(w, http.StatusBadRequest, `the body is not {"signal":"TERM"}: `+err.Error())
		return
	}
	sig, err := Signal(wish.Signal)
	if err == nil {
		err = s.master.Kill(r.Context(), id, sig)
	}
	if err != nil {
		fail(w, err)
		return
	}
	reply(w, http.StatusAccepted, map[string]any{"worker": id, "signal": wish.Signal})
}

// Signal reads a signal's name, with or without SIG, among those that make sense
// for a worker.
func Signal(name string) (unix.Signal, error) {
	const possible = "TERM KILL INT QUIT ABRT SEGV STOP CONT"
	short := strings.TrimPrefix(strings.ToUpper(name), "SIG")
	for word := range strings.FieldsSeq(possible) {
		if word == short {
			return unix.SignalNum("SIG" + short), nil
		}
	}
	return 0, fmt.Errorf("signal %q is none of %s", name, possible)
}

func (s *Server) stop(w http.ResponseWriter, r *http.Request) {
	if err := s.master.Stop(r.Context()); err != nil {
		fail(w, err)
		return
	}
	reply(w, http.StatusAccepted, map[string]any{"state": "stopping"})
}
