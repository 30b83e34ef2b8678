package keeper

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"revenant/supervisor/notify"
)

// upgrade begins an instance whose first master is ready, has a worker, and has started a candidate.
func upgrade(t *testing.T, place string, settings ...string) (i *instance, first, second *actor) {
	t.Helper()
	i = begin(t, place, settings...)
	first = i.master(1)
	first.does("listen tcp")
	first.worker("1", "polite")
	first.does("say READY=1")
	i.logged("master ready", "generation", "1")
	first.does("successor 2")
	return i, first, i.master(2)
}

func TestCandidateThatIsReadyBecomesTheMaster(t *testing.T) {
	inBothPlaces(t, func(t *testing.T, place string) {
		i, first, second := upgrade(t, place)
		want := second.does("inherited")
		if !strings.HasPrefix(want, "tcp cookie=") || !strings.HasSuffix(want, "nonblock=true") {
			t.Errorf("the candidate inherits %q", want)
		}
		first.does("store board-7 1")
		i.said("X_MASTER=2", "X_HEARD=board-7 1 false")
		first.does("say FDSTOREREMOVE=1 FDNAME=board-7")
		i.said("X_MASTER=2", "X_HEARD=board-7 0 true")
		second.worker("2", "polite")
		second.does("say READY=1")
		i.logged("master ready", "generation", "2")
		if i.happened(isSaid("X_SIGNAL=SIGTERM"))+i.happened(isSaid("X_ALONE=1")) > 0 {
			t.Error("the old generation was disturbed, or the new one told that it is alone, while the old master lives")
		}
		i.signal(unix.SIGHUP)
		i.said("X_MASTER=2", "X_SIGNAL=SIGHUP")
		first.order("exit 0")
		i.said("X_MASTER=2", "X_ALONE=1")
		i.logged("former worker exited", "worker", "1", "exit_code", "5")
		second.kill()
		third := i.master(3)
		if got := third.does("inherited"); got != want {
			t.Errorf("the third master inherits %q, the second %q", got, want)
		}
		third.does("say READY=1")
		i.logged("former worker exited", "worker", "2", "exit_code", "5")
	})
}

func TestCandidateThatDiesLeavesNothingAndDisturbsNobody(t *testing.T) {
	inBothPlaces(t, func(t *testing.T, place string) {
		i, first, second := upgrade(t, place)
		second.worker("2", "polite")
		second.does("listen new")
		second.does("listen tcp")
		second.kill()
		i.logged("candidate died", "generation", "2")
		i.logged("former worker exited", "worker", "2", "exit_code", "5")
		if i.happened(isSaid("X_WORKER=1", "X_SIGNAL=SIGTERM")) > 0 {
			t.Error("the worker of the generation that serves was asked to leave")
		}
		// The next one is a new generation, of which nobody has heard before.
		first.does("successor 3")
		third := i.master(3)
		want := third.does("inherited")
		first.kill()
		i.logged("master succeeds", "generation", "3")
		third.kill()
		if got := i.master(4).does("inherited"); got != want || strings.Contains(got, "new") {
			t.Errorf("after two deaths %q is inherited, before them %q", got, want)
		}
	})
}

func TestLivingCandidateFollowsUponAMasterThatDies(t *testing.T) {
	inBothPlaces(t, func(t *testing.T, place string) {
		i, first, second := upgrade(t, place)
		first.kill()
		i.logged("master succeeds", "generation", "2", "former", "1")
		i.said("X_MASTER=2", "X_ALONE=1")
		i.signal(unix.SIGHUP)
		i.said("X_MASTER=2", "X_SIGNAL=SIGHUP")
		if n := i.happened(isLog("master started")) + i.happened(isSaid("X_SIGNAL=SIGTERM")); n != 1 {
			t.Errorf("masters started and workers disturbed: %d, want the first master alone", n)
		}
		second.does("say READY=1")
		i.logged("former worker exited", "worker", "1", "exit_code", "5")
		second.does("say STOPPING=1")
		second.order("exit 3")
		i.ends(3)
	})
}

func TestReadinessSaidWithTheLastBreathOfACandidateCounts(t *testing.T) {
	i, first, second := upgrade(t, "subreaper")
	second.order("die READY=1")
	i.logged("master ready", "generation", "2")
	i.logged("master died", "generation", "2")
	first.order("exit 0")
	third := i.master(3)
	third.does("say READY=1")
	i.logged("former worker exited", "worker", "1", "exit_code", "5")
}

func TestReadinessSaidBeforeTheFormerMasterLeftCountsBeforeItsEnd(t *testing.T) {
	inBothPlaces(t, func(t *testing.T, place string) {
		i, first, second := upgrade(t, place)
		i.signal(unix.SIGSTOP)
		second.does("say READY=1")
		first.order("exit 0")
		i.eventually("the first master has ended", func() bool { return !running(first.pid) })
		i.signal(unix.SIGCONT)
		i.said("X_MASTER=2", "X_ALONE=1")
		i.signal(unix.SIGHUP)
		i.said("X_MASTER=2", "X_SIGNAL=SIGHUP")
		if n := i.happened(isLog("master died")) + i.happened(isLog("upgrade rolled back: the master fell over on probation")); n > 0 {
			t.Error("the end of the first master was taken for that of the second")
		}
	})
}

func TestFormerMasterThatDoesNotLeaveIsKilled(t *testing.T) {
	i, _, second := upgrade(t, "subreaper", "KEEPER_TEST_HASTY=1")
	second.does("say READY=1")
	i.logged("former master killed: it did not leave")
	i.said("X_MASTER=2", "X_ALONE=1")
}

// mute lets the first master start a candidate that never says so, and die.
func mute(t *testing.T, settings ...string) (i *instance, candidate int) {
	i = begin(t, "subreaper", settings...)
	first := i.master(1)
	first.does("say READY=1")
	first.does("successor 2 KEEPER_TEST_MUTE=1")
	candidate = i.said("X_MUTE=1").PID
	first.kill()
	i.master(2).does("say READY=1")
	return i, candidate
}

// Its master would have killed it, had it lived.
func TestCandidateThatNeverSaysSoIsKilledWhenItsMasterIsDead(t *testing.T) {
	i, candidate := mute(t, "KEEPER_TEST_LIMBO=100ms")
	line := i.logged("process of a dead master killed: it has become neither a worker nor a candidate", "within", "100ms")
	if fmt.Sprint(line["pid"]) != fmt.Sprint(candidate) {
		t.Errorf("killed was %v and not the candidate, %d", line["pid"], candidate)
	}
	i.logged("orphan reaped", "signal", "SIGKILL")
	if alive(candidate) {
		t.Error("the candidate lives")
	}
}

// The twin: until it is late, it is left alone.
func TestCandidateThatIsNotLateYetIsLeftAlone(t *testing.T) {
	i, candidate := mute(t, "KEEPER_TEST_LIMBO=1h")
	i.signal(unix.SIGHUP)
	i.said("X_MASTER=2", "X_SIGNAL=SIGHUP")
	if n := i.happened(isLog("process of a dead master killed: it has become neither a worker nor a candidate")); n > 0 || !alive(candidate) {
		t.Error("it was killed")
	}
}

func TestOnlyAChildOfTheMasterMayBeACandidate(t *testing.T) {
	i := begin(t, "subreaper")
	m := i.master(1)
	m.does("say READY=1")
	m.does("sender MAINPID=1 " + notify.GenerationVariable + "=2")
	if line := i.logged("candidate refused"); !strings.Contains(line["err"].(string), "not itself") {
		t.Errorf("the refusal says %v", line)
	}
	// Of this generation there was a master already.
	m.does("successor 1")
	i.said("X_MASTER=1", "X_REFUSED=1")
	// Of another instance.
	m.does("successor 2 X_REVENANT_INSTANCE=another")
	i.said("X_MASTER=2", "X_REFUSED=1")
	// The twin, and one at a time.
	m.does("successor 2")
	i.master(2)
	m.does("successor 3")
	i.said("X_MASTER=3", "X_REFUSED=1")
}

func TestStopReachesWhoeverSucceeds(t *testing.T) {
	inBothPlaces(t, func(t *testing.T, place string) {
		i, first, second := upgrade(t, place)
		i.signal(syscall.SIGTERM)
		i.said("X_MASTER=1", "X_SIGNAL=SIGTERM")
		first.order("exit 0") // for its successor: it never said that it stops
		i.said("X_MASTER=2", "X_SIGNAL=SIGTERM")
		second.does("say STOPPING=1")
		second.order("exit 3")
		i.ends(3)
	})
}

func TestStopOfTheMasterEndsItsCandidate(t *testing.T) {
	inBothPlaces(t, func(t *testing.T, place string) {
		i, first, second := upgrade(t, place)
		second.worker("2", "polite")
		first.does("say STOPPING=1")
		first.order("exit 4")
		i.logged("candidate died")
		i.ends(4)
		if running(second.pid) {
			t.Error("the candidate outlives the instance")
		}
	})
}

// programs are two files that are the same program.
func programs(t *testing.T) (one, two string) {
	text, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	one, two = filepath.Join(t.TempDir(), "one"), filepath.Join(t.TempDir(), "two")
	for _, path := range []string{one, two} {
		if err := os.WriteFile(path, text, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return one, two
}

// upgraded is an instance that has gone from one program to another.
func upgraded(t *testing.T, one, two string, settings ...string) (*instance, *actor) {
	i, first, second := upgrade(t, "subreaper", settings...)
	first.does("executable " + one)
	second.does("executable " + two)
	second.does("say READY=1")
	i.logged("master ready", "generation", "2")
	first.order("exit 0")
	i.said("X_MASTER=2", "X_ALONE=1")
	return i, second
}

func TestProgramThatFallsOverOnProbationIsRolledBackEvenWhenItsFileIsGone(t *testing.T) {
	one, two := programs(t)
	i, second := upgraded(t, one, two, "KEEPER_TEST_PROBATION=1h")
	_ = os.Remove(one)
	second.order("exit 2")
	i.logged("upgrade rolled back: the master fell over on probation", "exit_code", "2")
	third := i.master(3)
	if got := third.does("running"); got != one+" (deleted)" {
		t.Errorf("after the rollback %s runs, want %s", got, one)
	}
	if got := third.does("variable " + notify.RolledBackVariable); got != "generation 2: exit_code=2" {
		t.Errorf("the next master is told %q", got)
	}
	third.does("say READY=1")
	// There is nothing more to go back to.
	third.order("exit 2")
	if got := i.master(4).does("variable " + notify.RolledBackVariable); got != "" {
		t.Errorf("the master after that is told again of a rollback: %q", got)
	}
}

func TestMasterThatLeftForASuccessorWhichDiedIsNotRolledBack(t *testing.T) {
	one, two := programs(t)
	i, second := upgraded(t, one, two, "KEEPER_TEST_PROBATION=1h")
	second.does("successor 3")
	i.master(3).kill()
	i.logged("candidate died", "generation", "3")
	second.order("exit 0")
	if got := i.master(4).does("running"); got != two {
		t.Errorf("then %s runs, want %s", got, two)
	}
}

func TestMasterThatIsKilledOnProbationIsNotRolledBack(t *testing.T) {
	one, two := programs(t)
	i, second := upgraded(t, one, two, "KEEPER_TEST_PROBATION=1h")
	second.kill()
	third := i.master(3)
	if got := third.does("running"); got != two {
		t.Errorf("after a kill from outside %s runs, want %s", got, two)
	}
	// What it says of itself is the reason that is told.
	third.does("say " + notify.UnfitVariable + "=crash-loop")
	third.order("exit 1")
	fourth := i.master(4)
	if got := fourth.does("running") + " " + fourth.does("variable "+notify.RolledBackVariable); got != one+" generation 3: crash-loop" {
		t.Errorf("after the crash that followed %s", got)
	}
}

func TestProgramIsNotRolledBackWhenProbationHasPassed(t *testing.T) {
	one, two := programs(t)
	i, second := upgraded(t, one, two, "KEEPER_TEST_PROBATION=1ns")
	second.order("exit 2")
	if got := i.master(3).does("running"); got != two {
		t.Errorf("after probation %s runs, want %s", got, two)
	}
}

func TestManyUpgradesLeaveNothingBehind(t *testing.T) {
	i := begin(t, "subreaper")
	files := func() int { return len(numbered("/proc/" + strconv.Itoa(i.command.Process.Pid) + "/fd")) }
	before := 0
	m := i.master(1)
	m.does("listen tcp")
	m.does("executable /proc/self/exe")
	m.does("say READY=1")
	for generation := 2; generation <= 40; generation++ {
		m.does("successor " + strconv.Itoa(generation))
		next := i.master(generation)
		if generation%2 == 0 {
			next.kill()
			i.logged("candidate died")
			continue
		}
		next.does("listen tcp")
		next.does("executable /proc/self/exe")
		next.does("say READY=1")
		m.order("exit 0")
		i.said("X_MASTER="+next.generation, "X_ALONE=1")
		m = next
		if generation == 5 {
			before = files()
		}
	}
	i.eventually("no more descriptors than after the second upgrade", func() bool { return files() <= before })
	if i.children() != 1 {
		t.Errorf("%d children, want the master alone", i.children())
	}
	i.seen = nil
}
