package supervisor

import (
	"context"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor/event"
	"revenant/supervisor/notify"
	"revenant/worker/scoreboard"
)

// orphanOf makes a worker of an earlier generation, with a request in flight or
// without.
func orphanOf(t *testing.T, worker uint64, asked unix.Signal, busy bool) *orphan {
	t.Helper()
	board, err := scoreboard.Create(scoreboard.Identity{Worker: worker, Slot: 1, Generation: 1})
	if err != nil {
		t.Fatal(err)
	}
	board.SetAsked(asked)
	if busy {
		board.ConnNew()
	}
	return &orphan{board: board}
}

// The keeper says what it saw and sent; the words are those of workers of our own.
func TestCauseOfAnOrphansEndIsWhatTheKeeperSawAndSent(t *testing.T) {
	const term, kill = unix.SIGTERM, unix.SIGKILL
	for _, c := range []struct {
		name    string
		end     notify.Ended
		noted   unix.Signal // by the dead master
		oom     bool
		untold  error
		cause   string
		planned bool
	}{
		{"left as it was asked to", notify.Ended{Status: exitStatus(0), Asked: term}, 0, false, nil, "requested", true},
		{"ended by the signal that asked it", notify.Ended{Status: killedBy(term), Asked: term}, 0, false, nil, "requested", true},
		{"was asked by the dead master", notify.Ended{Status: exitStatus(0)}, term, false, nil, "requested", true},
		{"left unasked", notify.Ended{Status: exitStatus(0)}, 0, false, nil, "exit 0", false},
		{"crashed unasked", notify.Ended{Status: exitStatus(3)}, 0, false, nil, "exit 3", false},
		{"crashed when asked", notify.Ended{Status: exitStatus(3), Asked: term}, 0, false, nil, "exit 3", false},
		{"overstayed", notify.Ended{Status: killedBy(kill), Asked: term, Killed: true}, 0, false, nil, "drain-timeout", false},
		{"left just before it was killed", notify.Ended{Status: exitStatus(0), Asked: term, Killed: true}, 0, false, nil, "requested", true},
		{"was killed from outside", notify.Ended{Status: killedBy(kill), Asked: term}, 0, false, nil, "signal KILL", false},
		{"was killed for want of memory", notify.Ended{Status: killedBy(kill), Asked: term}, 0, true, nil, "oom", false},
		{"overstayed while another had no memory", notify.Ended{Status: killedBy(kill), Asked: term, Killed: true}, 0, true, nil, "drain-timeout", false},
		{"nobody saw it", notify.Ended{}, term, true, notify.ErrNoAnswer, "unknown", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, two, serve(time.Millisecond, 0), func(i *fakeInstance) {
				i.pass(time.Second)
				if c.oom {
					i.world.runOutOfMemory()
				}
				c.end.Time = time.Now()
				o := orphanOf(t, 100, c.noted, true)
				i.send(func() { i.buried(o, c.end, c.untold) })
				i.pass(time.Second)
				exits := i.exits()
				if len(exits) != 1 {
					t.Fatalf("the ends are told as %+v", exits)
				}
				e := exits[0]
				if e.Cause != c.cause || e.Planned != c.planned || e.InFlight != 1 {
					t.Errorf("the event says %+v", e.Exit)
				}
				if last := i.status().Workers[1].LastExit; last == nil || last.Cause != c.cause || last.Worker != 100 {
					t.Errorf("ps says %+v", last)
				}
				if r, err := i.Show(context.Background(), 100); err != nil || r.Exit == nil || r.Exit.Cause != c.cause || r.State != "dead" || r.Generation != 1 {
					t.Errorf("show says %+v, %v", r, err)
				}
				if c.untold != nil && !strings.Contains(e.Message, "nobody saw how it ended") {
					t.Errorf("the reason is %q", e.Message)
				}
			})
		})
	}
}

// What workers of an earlier generation die of says nothing against this one.
func TestOrphansEndIsNoReasonToGiveUp(t *testing.T) {
	next := two
	next.Generation = 2
	inBubble(t, next, serve(time.Millisecond, 0), func(i *fakeInstance) {
		i.pass(time.Second)
		o := orphanOf(t, 100, 0, false)
		i.send(func() { i.buried(o, notify.Ended{Status: exitStatus(3), Time: time.Now()}, nil) })
		var causes string
		i.send(func() { causes = i.lastCauses() })
		i.pass(time.Second)
		if causes != "" || i.count(event.WorkerExited) != 1 {
			t.Errorf("the workers of this generation ended by %q", causes)
		}
	})
}
