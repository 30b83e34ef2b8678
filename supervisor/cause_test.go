package supervisor

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func killedBy(sig unix.Signal) unix.WaitStatus { return unix.WaitStatus(sig) }

// An OOM kill that none of our workers died of is not held against a later end.
func TestOldRiseOfTheCountOfOOMKillsIsNobodysCause(t *testing.T) {
	withWatch := two
	withWatch.Liveness = 4 * time.Second
	inBubble(t, withWatch, serve(time.Millisecond, 0), func(i *fakeInstance) {
		i.pass(time.Second)
		i.world.runOutOfMemory()
		i.pass(time.Minute)
		i.world.any().end(killedBy(unix.SIGKILL))
		i.pass(time.Second)
		if exits := i.exits(); len(exits) != 1 || exits[0].Cause != "signal KILL" {
			t.Errorf("a kill from outside, long after an OOM kill, is told as %+v", exits)
		}
	})
}
