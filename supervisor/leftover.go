package supervisor

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"revenant/supervisor/listen"
	"revenant/supervisor/notify"
	"revenant/supervisor/tree"
)

// sweep ends what a worker left behind when it is gone: processes that made a
// session of their own, as daemons do, so that they are not in its process group.
// Their parent is the keeper now, which adopts all orphans, so only its children
// are looked at and the rest of the machine is not.
type sweep struct {
	keeper   int
	instance string
	worker   uint64
	began    uint64   // of the worker, in clock ticks since the machine booted
	sockets  []uint64 // the listeners' inodes
}

// sweepRounds bounds the search: what is killed leaves its own children to the
// keeper, which are met in the next round.
const sweepRounds = 16

// run returns the processes that it ended.
func (s *sweep) run(group int) (ended []int) {
	if s.keeper == 0 {
		return nil
	}
	for range sweepRounds {
		found := false
		for _, pid := range tree.Children(s.keeper) {
			if pgid, err := unix.Getpgid(pid); err != nil || pgid == group || slices.Contains(ended, pid) {
				continue // its group was killed
			}
			if s.end(pid) {
				ended, found = append(ended, pid), true
			}
		}
		if !found {
			break
		}
	}
	return ended
}

// end kills a process if it is the worker's. The pidfd makes sure that it is
// still the one that was looked at.
func (s *sweep) end(pid int) bool {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false
	}
	defer unix.Close(pidfd)
	return s.owns(pid) && unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0) == nil
}

// owns tells whether a child of the keeper came from the worker. One that wiped
// its environment, as programs do that set their title, is known by a listener
// that it holds, unless it is older than the worker: then it is a worker of a
// master that died.
func (s *sweep) owns(pid int) bool {
	vars := tree.Environ(pid)
	switch {
	case vars == nil:
		return false
	case vars[notify.WorkerInstanceVariable] == s.instance:
		return vars[notify.WorkerVariable] == fmt.Sprint(s.worker)
	case vars[notify.InstanceVariable] == s.instance: // a master
		return false
	}
	holds, _ := tree.Holds(pid, s.sockets)
	return holds && tree.StatOf(pid).Began >= s.began
}

// inodes are the listeners as /proc knows them.
func inodes(sockets []*listen.Socket) []uint64 {
	numbers := make([]uint64, 0, len(sockets))
	for _, s := range sockets {
		if inode, err := s.Inode(); err == nil {
			numbers = append(numbers, inode)
		}
	}
	return numbers
}
