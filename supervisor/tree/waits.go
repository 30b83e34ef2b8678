package tree

import (
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Waits tells whether a process or one of its descendants is set to take
// connections from one of the sockets, which are given by their inodes: it sleeps
// inside accept, poll or select, or has it in an epoll instance. io_uring does not
// show.
func Waits(pid int, sockets []uint64) (bool, error) { return anyWaits(pid, sockets, false) }

// Waiting tells whether a thread of these sleeps there at this moment. Who does
// something else, or nothing more, waits only in the sense of Waits.
func Waiting(pid int, sockets []uint64) (bool, error) { return anyWaits(pid, sockets, true) }

func anyWaits(pid int, sockets []uint64, now bool) (bool, error) {
	var hidden error
	for _, p := range Of(pid) {
		if now && StatOf(p).State == 'T' {
			continue // it will, when it goes on
		}
		waits, err := processWaits(p, sockets, now)
		if waits {
			return true, nil
		}
		if err != nil {
			hidden = err
		}
	}
	return false, hidden
}

func processWaits(pid int, sockets []uint64, now bool) (bool, error) {
	open, polls, err := files(pid, sockets)
	if len(open) == 0 || err != nil {
		return false, err
	}
	watching := map[int]bool{}
	for _, fd := range polls {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", pid, fd))
		watching[fd] = err == nil && polled(string(text), open, sockets)
		if watching[fd] && !now {
			return true, nil
		}
	}
	for _, task := range numbered(fmt.Sprintf("/proc/%d/task", pid)) {
		sleeping, err := callOf(pid, task)
		if err != nil {
			return false, err
		}
		if takes, err := sleeping.takes(pid, open, watching); takes || err != nil {
			return takes, err
		}
	}
	return false, nil
}

// polled reads what the kernel says of an epoll instance: a line for each file,
// like "tfd: 5 events: 19 data: 5 pos:0 ino:3b9a sdev:8". Kernels before 5.2 do
// not tell the inode.
func polled(info string, open map[int]bool, sockets []uint64) bool {
	for line := range strings.Lines(info) {
		rest, is := strings.CutPrefix(line, "tfd:")
		fields := strings.Fields(rest)
		if !is || len(fields) < 3 || fields[1] != "events:" {
			continue
		}
		events, err := strconv.ParseUint(fields[2], 16, 32)
		if err != nil || events&unix.EPOLLIN == 0 {
			continue
		}
		told := false
		for _, f := range fields {
			if text, is := strings.CutPrefix(f, "ino:"); is {
				inode, err := strconv.ParseUint(text, 16, 64)
				if told = err == nil; told && slices.Contains(sockets, inode) {
					return true
				}
			}
		}
		if fd, err := strconv.Atoi(fields[0]); !told && err == nil && open[fd] {
			return true
		}
	}
	return false
}

// call is the system call in which a thread sleeps; its number is negative
// when it does not.
type call struct {
	number int
	args   [6]uint64
}

// callOf reads /proc/PID/task/TID/syscall: the number and the arguments,
// "running" when there is none.
func callOf(pid, task int) (call, error) {
	none := call{number: -1}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/syscall", pid, task))
	if err != nil {
		return none, ignoreGone(err)
	}
	fields := strings.Fields(string(text))
	if len(fields) < 7 {
		return none, nil
	}
	number, err := strconv.Atoi(fields[0])
	if err != nil {
		return none, nil
	}
	c := call{number: number}
	for i := range c.args {
		c.args[i], _ = strconv.ParseUint(strings.TrimPrefix(fields[i+1], "0x"), 16, 64)
	}
	return c, nil
}

// takes tells whether it ends when a connection comes to one of the open
// descriptors, or to an epoll instance that watches them.
func (c call) takes(pid int, open, watching map[int]bool) (bool, error) {
	switch c.number {
	case unix.SYS_ACCEPT, unix.SYS_ACCEPT4:
		return open[int(c.args[0])], nil
	case unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_PWAIT2, oldEpoll:
		return watching[int(c.args[0])], nil
	case unix.SYS_PPOLL, oldPoll:
		return inPoll(pid, c.args[0], c.args[1], open)
	case unix.SYS_PSELECT6, oldSelect:
		return inSelect(pid, c.args[0], c.args[1], open)
	}
	return false, nil
}

// deadlocked tells whether only another thread of the same process, or the end of
// a child, can ever end it.
func (c call) deadlocked() bool {
	if c.awaitsChild() {
		return true
	}
	const command, private, lockPI, lockPI2, waitBitset = 0x7f, 0x80, 6, 13, 9
	switch c.number {
	case unix.SYS_FUTEX:
		operation, forever := c.args[1], c.args[3] == 0
		switch operation & command {
		case 0, waitBitset, lockPI, lockPI2: // 0 is FUTEX_WAIT
			return forever && operation&private != 0
		}
	}
	return false
}

func (c call) awaitsChild() bool { return c.number == unix.SYS_WAIT4 || c.number == unix.SYS_WAITID }

// Stopped tells whether some of the processes are stopped and the others, such as a
// shell around a program, do nothing but wait for a child.
func Stopped(pids []int) bool {
	var others []int
	stopped := false
	for _, pid := range pids {
		switch StatOf(pid).State {
		case 'T':
			stopped = true
		case 'Z': // dead, and not waited for
		default:
			others = append(others, pid)
		}
	}
	if !stopped {
		return false
	}
	for _, pid := range others {
		for _, task := range numbered(fmt.Sprintf("/proc/%d/task", pid)) {
			if sleeping, err := callOf(pid, task); err != nil || !sleeping.awaitsChild() {
				return false
			}
		}
	}
	return true
}

// Limits of what is read from a process.
const (
	mostPolled   = 4096
	mostSelected = 1024
)

// inPoll reads an array of struct pollfd: int fd, short events, short revents.
func inPoll(pid int, address, count uint64, open map[int]bool) (bool, error) {
	const size = int(unsafe.Sizeof(unix.PollFd{}))
	memory, err := read(pid, address, int(min(count, mostPolled))*size)
	for ; len(memory) >= size; memory = memory[size:] {
		fd := int(int32(binary.NativeEndian.Uint32(memory)))
		if binary.NativeEndian.Uint16(memory[4:])&unix.POLLIN != 0 && open[fd] {
			return true, nil
		}
	}
	return false, err
}

// inSelect reads a set of bits, in longs of the machine's byte order.
func inSelect(pid int, count, address uint64, open map[int]bool) (bool, error) {
	const long = 64
	n := int(min(count, mostSelected))
	memory, err := read(pid, address, (n+long-1)/long*long/8)
	for i := 0; len(memory) >= long/8; i, memory = i+long, memory[long/8:] {
		bits := binary.NativeEndian.Uint64(memory)
		for b := range long {
			if bits>>b&1 != 0 && open[i+b] {
				return true, nil
			}
		}
	}
	return false, err
}

// read copies memory of another process. It does so by /proc, because containers
// often refuse process_vm_readv(2). What is not there, or of a process that has
// gone, is nothing and no error.
func read(pid int, address uint64, size int) ([]byte, error) {
	if address == 0 || size <= 0 {
		return nil, nil
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return nil, ignoreGone(err)
	}
	defer f.Close()
	memory := make([]byte, size)
	n, err := f.ReadAt(memory, int64(address))
	return memory[:n], ignoreGone(err)
}
