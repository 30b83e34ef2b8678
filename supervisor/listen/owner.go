package listen

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// owner names the process that listens on an address, as "nginx, pid 42". It
// is "" when /proc does not show it: another user's, or another namespace's.
func owner(address Address) string {
	inodes := map[string]bool{}
	if address.network == "unix" {
		unixInodes(address.path, inodes)
	} else {
		tcpInodes("/proc/net/tcp", address.port, inodes)
		tcpInodes("/proc/net/tcp6", address.port, inodes)
	}
	if len(inodes) == 0 {
		return ""
	}
	return processWith(inodes)
}

// tcpInodes adds the sockets that listen on a port. The columns are those of
// proc_pid_net(5): local address, remote address, state, …, inode.
func tcpInodes(table string, port int, inodes map[string]bool) {
	const localAddress, state, inode, listening = 1, 3, 9, "0A"
	suffix := fmt.Sprintf(":%04X", port)
	eachRow(table, func(columns []string) {
		if len(columns) > inode && columns[state] == listening && strings.HasSuffix(columns[localAddress], suffix) {
			inodes["socket:["+columns[inode]+"]"] = true
		}
	})
}

func unixInodes(path string, inodes map[string]bool) {
	const inode, name = 6, 7
	eachRow("/proc/net/unix", func(columns []string) {
		if len(columns) > name && columns[name] == path {
			inodes["socket:["+columns[inode]+"]"] = true
		}
	})
}

func eachRow(table string, row func(columns []string)) {
	file, err := os.Open(table)
	if err != nil {
		return
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		row(strings.Fields(lines.Text()))
	}
}

// processWith finds the first process that has one of the sockets open: the
// lowest pid, since a parent is who the operator wants to hear of.
func processWith(inodes map[string]bool) string {
	lowest := 0
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, link := range links {
		target, err := os.Readlink(link)
		if err != nil || !inodes[target] {
			continue
		}
		pid, err := strconv.Atoi(strings.Split(link, "/")[2])
		if err == nil && (lowest == 0 || pid < lowest) {
			lowest = pid
		}
	}
	if lowest == 0 {
		return ""
	}
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", lowest))
	if err != nil {
		return fmt.Sprintf("pid %d", lowest)
	}
	return fmt.Sprintf("%s, pid %d", strings.TrimSpace(string(name)), lowest)
}
