package supervisor

import (
	"slices"
	"testing"
	"time"

	"revenant/worker/scoreboard"
)

func halves(n int) []int { return slices.Repeat([]int{4 / n}, n) }

// Each worker is told its share of all processors, not its share of those that
// were left when it was started.
func TestSharesAreThoseOfTheWholeInstance(t *testing.T) {
	cfg := two
	cfg.Workers, cfg.Procs = 4, halves
	inBubble(t, cfg, serve(time.Millisecond, 0), func(i *fakeInstance) {
		i.pass(time.Second)
		for pid, p := range i.world.living {
			if !slices.Contains(p.launch.env, "GOMAXPROCS=1") {
				t.Errorf("process %d of four on 4 processors: %q", pid, p.launch.env)
			}
		}
	})
}

func TestEnvironmentHoldsEachVariableOnceAndOursWin(t *testing.T) {
	cfg := Config{Instance: "i", Notify: "@n", Settings: Settings{Program: Program{Path: "/p", Args: []string{"app"},
		Environ: []string{"PATH=/bin", "GOMAXPROCS=64", "REVENANT_SLOT=9", "broken"}}}}
	l := cfg.launch(scoreboard.Identity{Worker: 3, Slot: 1, Generation: 2}, 2)
	want := []string{"GOMAXPROCS=1", "LISTEN_FDNAMES=", "LISTEN_FDS=0", "NOTIFY_SOCKET=@n", "PATH=/bin",
		"REVENANT_GENERATION=2", "REVENANT_INSTANCE=i", "REVENANT_SLOT=1", "REVENANT_WORKER=3", "X_REVENANT_ROLE=worker"}
	if !slices.Equal(l.env, want) {
		t.Errorf("environment\n%q\nwant\n%q", l.env, want)
	}
}
