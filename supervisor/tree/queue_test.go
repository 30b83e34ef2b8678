package tree

import (
	"fmt"
	"net"
	"testing"
)

func TestConnectionThatNobodyAcceptedIsListedUntilSomebodyDoes(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Logf("SKIPPED, NOT TESTED: connections on %s: %v", address, err)
			continue
		}
		defer l.Close()
		port := l.Addr().(*net.TCPAddr).Port
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		await(t, "it waits", func() bool { return len(Queued(port)) == 1 })
		taken, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer taken.Close()
		if q := Queued(port); len(q) != 0 {
			t.Errorf("it was accepted and still waits: %v", q)
		}
	}
}

// The twin: what is over has no file either.
func TestConnectionThatIsOverDoesNotWait(t *testing.T) {
	line := "   1: 0100007F:0BB8 0100007F:D2F0 %s 00000000:00000000 00:00000000 00000000     0        0 %s 1 0000000000000000 20 4 30 10 -1"
	for _, c := range []struct {
		state, inode string
		waits        bool
	}{{"01", "0", true}, {"08", "0", true}, {"06", "0", false}, {"04", "0", false}, {"0A", "0", false}, {"01", "4711", false}} {
		text := fmt.Sprintf(line, c.state, c.inode)
		if _, waits := queued(text, ":0BB8"); waits != c.waits {
			t.Errorf("state %s, inode %s: waits %t", c.state, c.inode, waits)
		}
		if _, waits := queued(text, ":0BB9"); waits {
			t.Error("a connection of another port")
		}
	}
}
