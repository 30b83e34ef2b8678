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

// Waits tells whether a process or one of its descendants waits for connections
// on one of the sockets, which are given by their inodes: inside accept, poll,
// select or with epoll. io_uring does not show.
func Waits(pid int, sockets []uint64) (bool, error) {
	var hidden error
	for _, p := range Of(pid) {
		waits, err := processWaits(p, sockets)
		if waits {
			return true, nil
		}
		if err != nil {
			hidden = err
		}
	}
	return false, hidden
}

func processWaits(pid int, sockets []uint64) (bool, error) {
	open, polls, err := files(pid, sockets)
	if len(open) == 0 || err != nil {
		return false, err
	}
	for _, fd := range polls {
		if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", pid, fd)); err == nil && polled(string(text), open, sockets) {
			return true, nil
		}
	}
	for _, task := range numbered(fmt.Sprintf("/proc/%d/task", pid)) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/syscall", pid, task))
		if err != nil {
			if err := ignoreGone(err); err != nil {
				return false, err
			}
			continue
		}
		if inSyscall(pid, string(text), open) {
			return true, nil
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

// inSyscall reads /proc/PID/task/TID/syscall: the number and the arguments of the
// system call in which a thread sleeps, "running" when it does not.
func inSyscall(pid int, text string, open map[int]bool) bool {
	fields := strings.Fields(text)
	if len(fields) < 7 {
		return false
	}
	number, err := strconv.Atoi(fields[0])
	if err != nil {
		return false
	}
	var args [6]uint64
	for i := range args {
		args[i], _ = strconv.ParseUint(strings.TrimPrefix(fields[i+1], "0x"), 16, 64)
	}
	switch {
	case number == unix.SYS_ACCEPT || number == unix.SYS_ACCEPT4:
		return open[int(args[0])]
	case number == unix.SYS_PPOLL || number == oldPoll:
		return inPoll(pid, args[0], args[1], open)
	case number == unix.SYS_PSELECT6 || number == oldSelect:
		return inSelect(pid, args[0], args[1], open)
	}
	return false
}

// Limits of what is read from a process.
const (
	mostPolled   = 4096
	mostSelected = 1024
)

// inPoll reads an array of struct pollfd: int fd, short events, short revents.
func inPoll(pid int, address, count uint64, open map[int]bool) bool {
	const size = int(unsafe.Sizeof(unix.PollFd{}))
	memory := read(pid, address, int(min(count, mostPolled))*size)
	for ; len(memory) >= size; memory = memory[size:] {
		fd := int(int32(binary.NativeEndian.Uint32(memory)))
		if binary.NativeEndian.Uint16(memory[4:])&unix.POLLIN != 0 && open[fd] {
			return true
		}
	}
	return false
}

// inSelect reads a set of bits, in longs of the machine's byte order.
func inSelect(pid int, count, address uint64, open map[int]bool) bool {
	const long = 64
	n := int(min(count, mostSelected))
	memory := read(pid, address, (n+long-1)/long*long/8)
	for i := 0; len(memory) >= long/8; i, memory = i+long, memory[long/8:] {
		bits := binary.NativeEndian.Uint64(memory)
		for b := range long {
			if bits>>b&1 != 0 && open[i+b] {
				return true
			}
		}
	}
	return false
}

// read copies memory of another process; what cannot be read is nothing.
func read(pid int, address uint64, size int) []byte {
	if address == 0 || size <= 0 {
		return nil
	}
	memory := make([]byte, size)
	local := []unix.Iovec{{Base: &memory[0]}}
	local[0].SetLen(size)
	n, err := unix.ProcessVMReadv(pid, local, []unix.RemoteIovec{{Base: uintptr(address), Len: size}}, 0)
	if err != nil {
		return nil
	}
	return memory[:n]
}
