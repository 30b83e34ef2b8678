package supervisor

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"revenant/supervisor/listen"
	"revenant/supervisor/notify"
)

// sweep ends what a worker left behind when it is gone: processes that made a
// session of their own, as daemons do, so that they are not in its process group.
// Their parent is the keeper now, which adopts all orphans, so only its children
// are looked at and the rest of the machine is not.
type sweep struct {
	keeper   int
	instance string
	worker   uint64
	began    uint64          // of the worker, in clock ticks since the machine booted
	sockets  map[string]bool // the listeners, as /proc/PID/fd names them
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
		for _, pid := range childrenOf(s.keeper) {
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
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return false
	}
	vars := map[string]string{}
	set(vars, strings.Split(string(environ), "\x00"))
	switch {
	case vars[notify.WorkerInstanceVariable] == s.instance:
		return vars[notify.WorkerVariable] == fmt.Sprint(s.worker)
	case vars[notify.InstanceVariable] == s.instance: // a master
		return false
	}
	return holds(pid, s.sockets) && startTicks(pid) >= s.began
}

// holds tells whether a process has one of the sockets open.
func holds(pid int, sockets map[string]bool) bool {
	dir := fmt.Sprintf("/proc/%d/fd/", pid)
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if target, err := os.Readlink(dir + e.Name()); err == nil && sockets[target] {
			return true
		}
	}
	return false
}

// socketNames are the sockets as /proc/PID/fd names them.
func socketNames(sockets []*listen.Socket) map[string]bool {
	names := make(map[string]bool, len(sockets))
	for _, s := range sockets {
		if inode, err := s.Inode(); err == nil {
			names[fmt.Sprintf("socket:[%d]", inode)] = true
		}
	}
	return names
}

// childrenOf lists a process's children, by the kernel's list or, where it has
// none, by asking every process for its parent.
func childrenOf(pid int) (children []int) {
	listed := false
	for _, task := range numbered(fmt.Sprintf("/proc/%d/task", pid)) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, task))
		listed = listed || err == nil
		for field := range strings.FieldsSeq(string(text)) {
			if child, err := strconv.Atoi(field); err == nil {
				children = append(children, child)
			}
		}
	}
	if listed {
		return children
	}
	for _, other := range numbered("/proc") {
		if parentOf(other) == pid {
			children = append(children, other)
		}
	}
	return children
}

// numbered lists the entries of a folder that are numbers.
func numbered(dir string) (numbers []int) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil {
			numbers = append(numbers, n)
		}
	}
	return numbers
}

// statFields are those of /proc/PID/stat from the third on (the state), behind
// the command's name in parentheses, which may itself hold any character.
func statFields(pid int) []string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	return strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
}

// parentOf is the parent of a process, 0 when unknown.
func parentOf(pid int) int {
	fields := statFields(pid)
	if len(fields) < 2 {
		return 0
	}
	parent, _ := strconv.Atoi(fields[1])
	return parent
}

// startTicks is when a process began, in clock ticks since the machine booted; 0
// when unknown.
func startTicks(pid int) uint64 {
	fields := statFields(pid)
	if len(fields) < 20 {
		return 0
	}
	ticks, _ := strconv.ParseUint(fields[19], 10, 64)
	return ticks
}
