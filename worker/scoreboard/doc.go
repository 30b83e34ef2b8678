// Package scoreboard is the page of numbers that a worker writes and its master reads.
//
// One page per worker, in a memfd that both map. The worker adds to counters and never waits; the master
// looks whenever it likes. Because the page belongs to no process, it outlives a SIGKILL: what the dead
// worker had in flight can still be read, and totals never fall.
//
// The master trusts the page for numbers only. The memfd is sealed against shrinking and growing, so a
// worker cannot make its reader fault, and whatever it scribbles is read as some number: gauges are held
// between 0 and a ceiling, and who the page belongs to is remembered from [Create] or [Open], not read again.
//
// # What counts as in flight
//
// A connection is Unread from accept(2) until its first byte, Active from the first byte of a request until
// the answer is written, Idle between two requests, Hijacked once the handler took it over. A worker raises
// Accepting before accept(2) can hand it a connection and lowers it when that one is counted as Unread. Every
// move adds to the new place before it takes from the old one, so a death between the two shows one
// connection too many and never one too few.
package scoreboard
