// Package worker is the runtime inside a worker: it serves an http.Handler on the sockets that the
// supervisor hands down, says when it is ready, counts what it does, and drains without losing a request.
//
//	func main() {
//		if err := worker.Run(context.Background(), handler); err != nil {
//			log.Fatal(err)
//		}
//	}
//
// The same program runs without a supervisor: it then listens on its own, serves, and drains on SIGTERM or
// SIGINT. Nothing else differs.
//
// # Above a worker
//
// Listeners come as LISTEN_FDS, and only when LISTEN_PID is this very process; READY=1 and STOPPING=1 go to
// NOTIFY_SOCKET. That is the contract of a systemd service, and a worker is one. Two questions are our own:
// the greeting, which brings the scoreboard and the lifeline (a pipe whose end-of-file says that the keeper
// is gone), and [Permit]. A supervisor that does not know them is served just the same.
//
// # Draining
//
// [http.Server.Shutdown] loses requests: a request that was just read on an idle connection is dropped, and
// idle connections are closed under a proxy that is about to use them. So a worker drains in this order:
//
//  1. it empties the accept queue and stops accepting; siblings on the same socket go on,
//  2. every answer from now on says "Connection: close",
//  3. idle connections stay for the quiet period, longer than a proxy keeps them in its pool,
//  4. what is in flight is finished, hijacked connections included,
//  5. Run returns nil.
//
// Under a supervisor there is no deadline here: the supervisor's SIGKILL is one. Alone there is.
//
// # Goroutines
//
// One per listener accepts and ends in step 1; one waits on the lifeline as long as the process lives; one
// per connection belongs to net/http; two bound the drain and end with it. What [AfterClose] runs belongs to
// the application. Run waits for the acceptors and, unless its deadline passed, for the connections.
package worker
