// Package app is the built-in application: it says who answers, and dies on request.
//
//	GET /              Hello, I am worker [3] of server [0198…].
//	GET /workerKiller  ends the worker that answers; only with Chaos
//
// Both answer JSON to a client that prefers application/json.
//
// # Dying
//
// /workerKiller takes GET and POST and a mode. It asks the master first and says 409 with the reason when
// that one refuses, or when there is none, because then nothing would revive the worker. Otherwise it answers
// 200, waits until the client has the whole answer and the connection is closed, and only then:
//
//	graceful  drains as on SIGTERM (the default)
//	exit      exits with code 1
//	panic     panics in a goroutine of its own: a Go traceback and exit code 2
//	kill      sends itself SIGKILL
//	segv      writes to address 0 with SIGSEGV's default action restored, so that the process dies of the
//	          signal; Go on its own would print a traceback and exit with code 2. No core is dumped
//	hang      deadlocks: connections are still accepted, but no later request is ever answered
//	leak      takes 64 MiB more every second and writes to it, up to 1 GiB, and keeps it
//	spin      keeps every CPU that GOMAXPROCS grants busy for ever
//
// Where a token is configured the request must carry it, as "Authorization: Bearer TOKEN" or in the header
// X-Revenant-Token, and is answered 401 otherwise.
package app
