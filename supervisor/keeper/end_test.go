package keeper

import (
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
	"revenant/supervisor/notify"
)

// known starts a worker. It returns its pid as the test sees it, and the words by which a master asks for
// its end.
func (a *actor) known(id, manner string) (pid int, name string) {
	a.i.t.Helper()
	own := a.does("worker " + id + " " + manner)
	pid = a.i.said("X_WORKER="+id, "X_UP=1").PID
	return pid, own + " " + a.does("began "+own)
}

const (
	killedStatus = "status=0x9"
	politeStatus = "status=0x500"
	notKnown     = "the supervisor gave no answer"
)

func TestMasterIsToldHowWorkersOfAnEarlierOneEnded(t *testing.T) {
	inBothPlaces(t, func(t *testing.T, place string) {
		i := begin(t, place, "KEEPER_TEST_DRAIN=500ms")
		first := i.master(1)
		_, polite := first.known("1", "polite")
		_, deaf := first.known("2", "deaf")
		killed, outside := first.known("3", "deaf")
		first.does("say READY=1")
		first.kill()
		second := i.master(2)
		if err := unix.Kill(killed, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		i.logged("former worker exited", "worker", "3")
		second.does("say READY=1")
		i.logged("former worker exited", "worker", "1")
		i.logged("former worker exited", "worker", "2")
		for name, want := range map[string]string{
			polite:  politeStatus + " asked=15 killed=false",
			deaf:    killedStatus + " asked=15 killed=true",
			outside: killedStatus + " asked=0 killed=false",
		} {
			if got := second.does("ended " + name); got != want {
				t.Errorf("%s: the master is told %q, want %q", name, got, want)
			}
		}
		// One that had the same number at another time is another one.
		if got := second.does("ended " + polite + "1"); got != notKnown {
			t.Errorf("of another process with that number it is told %q", got)
		}
		if got := second.does("ended 1 0"); got != notKnown {
			t.Errorf("of a process that is no child it is told %q", got)
		}
	})
}

// Of one that is dead when it becomes the keeper's child nobody can say who it was, but for its number.
func TestEndWhileNoMasterLivedIsKnownToTheNextOne(t *testing.T) {
	inBothPlaces(t, func(t *testing.T, place string) {
		i := begin(t, place)
		first := i.master(1)
		pid, name := first.known("1", "polite")
		first.does("say READY=1")
		i.signal(unix.SIGSTOP)
		first.kill()
		i.eventually("the master is dead", func() bool { return !running(first.pid) })
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		i.signal(unix.SIGCONT)
		if got := i.master(2).does("ended " + name); got != killedStatus+" asked=0 killed=false" {
			t.Errorf("the next master is told %q", got)
		}
	})
}

// What is asked before the keeper has seen it is seen by it then.
func TestEndIsToldAsSoonAsItIsAskedFor(t *testing.T) {
	i := begin(t, "subreaper")
	first := i.master(1)
	pid, name := first.known("1", "polite")
	first.does("say READY=1")
	first.kill()
	second := i.master(2)
	i.signal(unix.SIGSTOP)
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err == nil {
		err = unix.Kill(pid, unix.SIGKILL)
	}
	if err != nil {
		t.Fatal(err)
	}
	awaitDeath(pidfd) // of all its threads
	second.order("ended " + name)
	i.signal(unix.SIGCONT)
	i.said("X_MASTER=2", "X_RESULT="+killedStatus+" asked=0 killed=false")
}

func TestOldestEndsAreForgotten(t *testing.T) {
	for _, c := range []struct {
		after int
		want  string
	}{{maxEnds / 2, killedStatus + " asked=0 killed=false"}, {maxEnds, notKnown}} {
		t.Run(strconv.Itoa(c.after), func(t *testing.T) {
			i := begin(t, "subreaper")
			first := i.master(1)
			pid, name := first.known("1", "polite")
			first.does("say READY=1")
			first.kill()
			second := i.master(2)
			if err := unix.Kill(pid, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			i.logged("former worker exited", "worker", "1")
			second.does("orphans " + strconv.Itoa(c.after))
			i.eventually("the keeper has reaped them", func() bool { return i.children() == 1 })
			if got := second.does("ended " + name); got != c.want {
				t.Errorf("after %d others the master is told %q, want %q", c.after, got, c.want)
			}
		})
	}
}

func TestQuestionForAnEndInUnknownWordsIsPassedOver(t *testing.T) {
	i := begin(t, "subreaper")
	m := i.master(1)
	m.does("say X_REVENANT_ENDED=what " + notify.Ready)
	i.logged("master ready", "generation", "1")
}
