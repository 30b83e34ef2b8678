package tree

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Thread is what a thread did until now.
type Thread struct {
	ID      int
	Process int
	CPU     uint64 // user and system time, in clock ticks
	Sleeps  uint64 // how often it gave the CPU up by itself, to wait for something
	// Deadlocked tells whether it waits for another thread of its process, or for a
	// child, and sets no limit to that.
	Deadlocked bool
}

// Threads lists the threads of a process.
func Threads(pid int) (threads []Thread, err error) {
	for _, task := range numbered(fmt.Sprintf("/proc/%d/task", pid)) {
		dir := fmt.Sprintf("/proc/%d/task/%d", pid, task)
		sleeping, err := callOf(pid, task)
		if err != nil {
			return nil, err
		}
		status, err := os.ReadFile(dir + "/status")
		if err != nil {
			continue // it has ended
		}
		threads = append(threads, Thread{ID: task, Process: pid, CPU: statAt(dir + "/stat").CPU, Sleeps: sleeps(string(status)), Deadlocked: sleeping.deadlocked()})
	}
	return threads, nil
}

// sleeps reads the line of the voluntary switches.
func sleeps(status string) uint64 {
	for line := range strings.Lines(status) {
		if text, is := strings.CutPrefix(line, "voluntary_ctxt_switches:"); is {
			n, _ := strconv.ParseUint(strings.TrimSpace(text), 10, 64)
			return n
		}
	}
	return 0
}
