package supervisor

import (
	"context"
	"net/http"
	"os"
	"strconv"
	"testing"
	"time"

	"revenant/scripts/ledger"
	"revenant/supervisor/listen"
	"revenant/supervisor/notify"
	"revenant/worker"
)

// apps are what workers built with package worker do with a request. The good one
// keeps a journal.
var apps = map[string]http.HandlerFunc{
	"app": nil,
	"app 500": func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "not today", http.StatusInternalServerError)
	},
	"app 404":  http.NotFound,
	"app dies": func(http.ResponseWriter, *http.Request) { os.Exit(4) },
	"app hangs": func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
	},
}

// serveApp is the main function of such a worker.
func serveApp(handler http.Handler) int {
	if handler.(http.HandlerFunc) == nil {
		journal, err := ledger.OpenJournal(journalOf(os.Getenv(notesVariable)))
		if err != nil {
			return 9
		}
		handler = journal
	}
	_ = os.Setenv(notify.PIDVariable, strconv.Itoa(os.Getpid()))
	if worker.Run(context.Background(), handler, worker.WithQuiet(time.Second)) != nil {
		return 9
	}
	return 0
}

func journalOf(notes string) string { return notes + ".journal" }

// bound are sockets of a test: one on TCP, one in the file system.
func bound(t *testing.T) []*listen.Socket {
	t.Helper()
	dir, err := os.MkdirTemp("", "rev") // short: a unix socket's path is limited
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	var sockets []*listen.Socket
	for _, text := range []string{"tcp://127.0.0.1:0", "unix:" + dir + "/app.sock"} {
		a, err := listen.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		s, err := listen.Bind(context.Background(), a)
		if err != nil {
			t.Fatal(err)
		}
		sockets = append(sockets, s)
	}
	return sockets
}
