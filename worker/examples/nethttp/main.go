// Command nethttp is a server that knows nothing of revenant: net/http on the
// socket that it is handed, as by systemd.
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
)

func main() {
	file := os.NewFile(3, "the first of LISTEN_FDS")
	listener, err := net.FileListener(file)
	if err != nil {
		log.Fatal(err)
	}
	_ = file.Close()
	hello := func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello\n") }
	server := http.Server{Handler: http.HandlerFunc(hello)}
	asked, _ := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	go func() { _ = server.Serve(listener) }() // ends with Shutdown
	<-asked.Done()
	if err := server.Shutdown(context.Background()); err != nil {
		log.Fatal(err)
	}
}
