package supervisor

import (
	"strings"
	"testing"
	"time"

	"revenant/supervisor/event"
	"revenant/worker/scoreboard"
)

// The keeper reaps workers of earlier generations. Of one that left in good order
// nothing is left on its board.
func TestWorkerOfAnEarlierGenerationThatWasCutIsNotToldAsOneThatLeft(t *testing.T) {
	inBubble(t, two, serve(time.Millisecond, 0), func(i *fakeInstance) {
		i.pass(time.Second)
		for id, busy := range []bool{false, true} {
			board, err := scoreboard.Create(scoreboard.Identity{Worker: uint64(100 + id), Generation: 1})
			if err != nil {
				t.Fatal(err)
			}
			if busy {
				board.ConnNew()
				board.ConnMove(scoreboard.Unread, scoreboard.Hijacked)
			}
			i.send(func() { i.buried(&orphan{board: board}) })
		}
		i.pass(time.Second)
		told := map[uint64]*event.Exit{}
		for _, e := range i.exits() {
			told[e.Worker] = e.Exit
		}
		if left := told[100]; left == nil || left.Cause != string(causeRequested) || !left.Planned {
			t.Errorf("one that left is told as %+v", left)
		}
		if cut := told[101]; cut == nil || cut.Planned || !strings.HasPrefix(cut.Cause, "unknown") {
			t.Errorf("one that was cut is told as %+v", cut)
		}
	})
}
