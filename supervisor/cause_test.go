package supervisor

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor/notify"
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

// A master that follows upon one that died knows what that one had accounted for.
func TestOOMKillsWhileNoMasterLivedAreAccountedForByTheNext(t *testing.T) {
	for known, want := range map[uint64]string{3: "oom", 4: "signal KILL"} {
		world := newWorld(deaf)
		world.oom = 4
		m := newMaster(two, world.platform())
		m.alone = true
		m.state.setOOMKills(known)
		m.beginOOM()
		if got := m.judgeOrphan(orphanOf(t, 100, 0, false), notify.Ended{Status: killedBy(unix.SIGKILL)}); string(got) != want {
			t.Errorf("with %d of 4 accounted for, a kill is told as %q, want %q", known, got, want)
		}
		if got := m.judgeOrphan(orphanOf(t, 101, 0, false), notify.Ended{Status: killedBy(unix.SIGKILL)}); got != "signal KILL" {
			t.Errorf("the next kill is told as %q", got)
		}
	}
}
