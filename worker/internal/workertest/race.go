//go:build race

package workertest

// Race says that the race detector is on.
const Race = true
