package supervisor

import (
	"fmt"
	"io"
	"net"
	"os"
)

// FaultVariable names a unix socket on which a test hears where an upgrade stands.
// Each process stops at each point until the test lets it go on; by then it may
// have killed it, or the other one. Without the variable there are no points.
const FaultVariable = "REVENANT_TEST_FAULTS"

// Faults is that socket, "" for none.
type Faults string

// At stops here while a test wants it.
func (f Faults) At(point string) {
	if f == "" {
		return
	}
	conn, err := net.Dial("unix", string(f))
	if err != nil {
		return // the test is over
	}
	defer conn.Close()
	fmt.Fprintf(conn, "%s %d\n", point, os.Getpid())
	_, _ = io.Copy(io.Discard, conn)
}
