// Command nethttp is a server that knows nothing of revenant: net/http on the
// socket that it is handed, as by systemd. Shutdown alone would drop requests that
// are on their way over connections which it takes for idle; so, when it is asked
// to leave, it accepts no more, sends the clients it has elsewhere, and waits for
// longer than they keep an idle connection (nginx/production.conf: 4 s).
//
//	revenant run -- nethttp
package main

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	file := os.NewFile(3, "the first of LISTEN_FDS")
	listener, err := net.FileListener(file)
	if err != nil {
		log.Fatal(err)
	}
	_ = file.Close()
	asked, _ := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	server := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked.Err() != nil {
			w.Header().Set("Connection", "close")
		}
		_, _ = io.WriteString(w, "hello\n")
	})}
	context.AfterFunc(asked, func() { _ = listener.Close() })
	_ = server.Serve(listener) // until it is closed
	time.Sleep(5 * time.Second)
	_ = server.Shutdown(context.Background()) // waits for what is in flight
}
