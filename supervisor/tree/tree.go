// Package tree looks at a process and its descendants from outside, by /proc, with
// no cooperation of theirs: what they have open, what they wait for, whether they
// run. Everything it says was true a moment ago. What may not be seen, because
// the process is another user's, is an error that is fs.ErrPermission; what is
// gone is no error and says nothing.
package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// mostProcesses bounds a look at a worker that forks without end.
const mostProcesses = 1024

// Of lists a process and all its living descendants.
func Of(pid int) []int {
	pids := []int{pid}
	for i := 0; i < len(pids) && len(pids) < mostProcesses; i++ {
		pids = append(pids, Children(pids[i])...)
	}
	return pids
}

// Children lists a process's children, dead ones that nobody waited for included,
// by the kernel's list or, where it has none, by asking every process for its
// parent.
func Children(pid int) (children []int) {
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
		if Parent(other) == pid {
			children = append(children, other)
		}
	}
	return children
}

// Stat is a part of /proc/PID/stat.
type Stat struct {
	State  byte // R, S, D, Z, T, t, ...
	Parent int
	CPU    uint64 // user and system time, in clock ticks
	Began  uint64 // in clock ticks since the machine booted
}

// StatOf reads what the kernel says of a process. The zero Stat is that of one
// that is gone.
func StatOf(pid int) Stat { return statAt(fmt.Sprintf("/proc/%d/stat", pid)) }

func statAt(path string) (s Stat) {
	text, err := os.ReadFile(path)
	if err != nil {
		return s
	}
	// From the state on, behind the command's name in parentheses, which may itself
	// hold any character.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 20 {
		return s
	}
	number := func(n int) uint64 { v, _ := strconv.ParseUint(fields[n], 10, 64); return v }
	return Stat{State: fields[0][0], Parent: int(number(1)), CPU: number(11) + number(12), Began: number(19)}
}

// ticks are how many clock ticks the kernel counts in a second, for programs, on
// every machine that Go knows.
const ticks = 100

// Start is when something began that the kernel says in clock ticks since the
// machine booted; the zero time for 0, which is unknown.
func Start(began uint64) time.Time {
	var up unix.Timespec
	if began == 0 || unix.ClockGettime(unix.CLOCK_BOOTTIME, &up) != nil {
		return time.Time{}
	}
	return time.Now().Add(time.Duration(began)*(time.Second/ticks) - time.Duration(up.Nano()))
}

// Parent is a process's parent, 0 when unknown.
func Parent(pid int) int { return StatOf(pid).Parent }

// Environ is the environment that a process was started with, unless it wrote over
// it; nil when it cannot be read.
func Environ(pid int) map[string]string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return nil
	}
	vars := map[string]string{}
	for line := range strings.SplitSeq(string(text), "\x00") {
		if name, value, ok := strings.Cut(line, "="); ok {
			vars[name] = value
		}
	}
	return vars
}

// Holds tells whether a process has one of the sockets open, which are given by
// their inodes.
func Holds(pid int, sockets []uint64) (bool, error) {
	open, _, err := files(pid, sockets)
	return len(open) > 0, err
}

// Sockets lists the inodes of all sockets that a process has open.
func Sockets(pid int) (inodes []uint64, err error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, ignoreGone(err)
	}
	for _, e := range entries {
		target, _ := os.Readlink(dir + "/" + e.Name())
		if text, is := strings.CutPrefix(target, "socket:["); is {
			inode, _ := strconv.ParseUint(strings.TrimSuffix(text, "]"), 10, 64)
			inodes = append(inodes, inode)
		}
	}
	return inodes, nil
}

// files are the descriptors of a process that are one of the sockets, and those
// that are an epoll instance.
func files(pid int, sockets []uint64) (open map[int]bool, polls []int, err error) {
	names := make([]string, len(sockets))
	for i, inode := range sockets {
		names[i] = fmt.Sprintf("socket:[%d]", inode)
	}
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, ignoreGone(err)
	}
	open = map[int]bool{}
	for _, e := range entries {
		target, err := os.Readlink(dir + "/" + e.Name())
		fd, notNumber := strconv.Atoi(e.Name())
		switch {
		case notNumber != nil:
		case errors.Is(err, fs.ErrPermission):
			return nil, nil, err
		case slices.Contains(names, target):
			open[fd] = true
		case target == "anon_inode:[eventpoll]":
			polls = append(polls, fd)
		}
	}
	return open, polls, nil
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return err
	}
	return nil
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
