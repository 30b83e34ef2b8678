//go:build !amd64

package tree

// The architecture has no such system calls, or we do not know their numbers.
const (
	oldPoll   = -2
	oldSelect = -3
	oldEpoll  = -4
)
