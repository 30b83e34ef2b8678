// Command echo is a server built with echo and package worker, which takes the
// sockets, says when it is ready, counts, and drains without losing a request,
// also on kept connections.
//
//	revenant run -- echo
package main

import (
	"context"
	"log"
	"net/http"

	"github.com/labstack/echo/v4"

	"revenant/worker"
)

func main() {
	e := echo.New()
	e.GET("/", func(c echo.Context) error { return c.String(http.StatusOK, "hello\n") })
	if err := worker.Run(context.Background(), e); err != nil {
		log.Fatal(err)
	}
}
