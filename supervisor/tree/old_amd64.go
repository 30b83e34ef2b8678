package tree

import "golang.org/x/sys/unix"

// System calls that newer architectures do not have.
const (
	oldPoll   = unix.SYS_POLL
	oldSelect = unix.SYS_SELECT
	oldEpoll  = unix.SYS_EPOLL_WAIT
)
