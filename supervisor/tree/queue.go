package tree

import (
	"bufio"
	"fmt"
	"os"
	"strings"
)

// Queued lists the TCP connections that wait to be accepted on a port of this
// machine, by their addresses: those that are open and are nobody's file yet.
func Queued(port int) (connections []string) {
	for _, table := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		f, err := os.Open(table)
		if err != nil {
			continue
		}
		for s := bufio.NewScanner(f); s.Scan(); {
			if c, is := queued(s.Text(), fmt.Sprintf(":%04X", port)); is {
				connections = append(connections, c)
			}
		}
		_ = f.Close()
	}
	return connections
}

// States of a connection whose client has not gone.
const (
	established = "01"
	closeWait   = "08"
)

// queued reads a line: number, local address, remote address, state, ..., inode
// as the tenth field.
func queued(line, port string) (connection string, is bool) {
	fields := strings.Fields(line)
	if len(fields) < 10 || !strings.HasSuffix(fields[1], port) || fields[9] != "0" {
		return "", false
	}
	if fields[3] != established && fields[3] != closeWait {
		return "", false
	}
	return fields[1] + " " + fields[2], true
}
