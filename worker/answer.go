package worker

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"time"
)

// closing is what a draining worker's answers say. It is shared, and must not be changed in place.
var closing = []string{"close"}

// answer notes the status of one answer, and says "Connection: close" while the worker drains. It hides
// nothing that net/http offers on HTTP/1: Flusher, Hijacker, ReaderFrom (sendfile), ResponseController.
//
// One is made per request and none is used again: a handler that holds on to its writer would write into
// another client's answer.
type answer struct {
	http.ResponseWriter
	server *server
	status int
}

// ServeHTTP runs the handler and counts the request in exactly one class.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	a := &answer{ResponseWriter: w, server: s}
	// Also when the handler panics: net/http recovers, and the request ended without a status.
	defer func() { s.board.Request(a.status, began, time.Since(began)) }()
	s.handler.ServeHTTP(a, r)
	a.begin(http.StatusOK)
}

// begin notes the status of the answer, if it has none yet. It is the last moment to add a header.
func (a *answer) begin(status int) {
	if a.status != 0 {
		return
	}
	a.status = status
	if a.server.isDraining() && status != http.StatusSwitchingProtocols {
		a.Header()["Connection"] = closing
	}
}

func (a *answer) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		a.begin(status)
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(p []byte) (int, error) {
	a.begin(http.StatusOK)
	return a.ResponseWriter.Write(p)
}

func (a *answer) WriteString(s string) (int, error) {
	a.begin(http.StatusOK)
	return io.WriteString(a.ResponseWriter, s)
}

func (a *answer) ReadFrom(src io.Reader) (int64, error) {
	a.begin(http.StatusOK)
	return io.Copy(a.ResponseWriter, src)
}

func (a *answer) Flush() { a.FlushError() }

func (a *answer) FlushError() error {
	a.begin(http.StatusOK)
	return http.NewResponseController(a.ResponseWriter).Flush()
}

func (a *answer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(a.ResponseWriter).Hijack()
	if err == nil && a.status == 0 {
		a.status = http.StatusSwitchingProtocols
	}
	return c, rw, err
}

// Unwrap lets http.ResponseController reach what is not wrapped here.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }
