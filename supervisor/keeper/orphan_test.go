package keeper

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWorkersOfAGenerationThatNeverWasReadyLeave(t *testing.T) {
	inBothPlaces(t, func(t *testing.T, place string) {
		i := begin(t, place)
		first := i.master(1)
		serving := first.worker("1", "polite")
		first.does("say READY=1")
		first.kill()
		second := i.master(2)
		second.worker("2", "polite")
		second.kill()
		i.logged("former worker exited", "worker", "2", "generation", "2", "exit_code", "5")
		third := i.master(3)
		if !alive(serving) {
			t.Error("the committed generation's worker is gone before the next generation is ready")
		}
		third.does("say READY=1")
		i.logged("former worker exited", "worker", "1", "generation", "1", "exit_code", "5")
	})
}

func TestWorkerStillBeingStartedWhenItsMasterDiesIsFound(t *testing.T) {
	inBothPlaces(t, func(t *testing.T, place string) {
		i := begin(t, place)
		takeOverDuringStart(i)
		i.logged("former worker exited", "worker", "7", "generation", "1", "asked", "true")
	})
}

// The twin looks once, when the generation commits, and so the worker stays for ever.
func TestLookingOnceMissesAWorkerStillBeingStarted(t *testing.T) {
	i := begin(t, "subreaper", "KEEPER_TEST_BLIND=1")
	second := takeOverDuringStart(i)
	i.said("X_WORKER=7", "X_UP=1")
	second.does("describe")
	i.signal(unix.SIGHUP)
	i.said("X_MASTER=2", "X_SIGNAL=SIGHUP")
	if n := i.happened(isLog("former worker asked to leave")); n > 0 {
		t.Error("looking once found it: the test above proves nothing")
	}
	i.signal(unix.SIGTERM)
	second.does("say STOPPING=1")
	second.order("exit 0")
	i.ends(0)
}

// takeOverDuringStart lets the second master commit while a worker of the first is not yet one.
func takeOverDuringStart(i *instance) *actor {
	first := i.master(1)
	first.does("say READY=1")
	pipe := filepath.Join(i.t.TempDir(), "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		i.t.Fatal(err)
	}
	first.does("limbo 7 " + pipe)
	first.kill()
	second := i.master(2)
	second.does("say READY=1")
	i.logged("master ready", "generation", "2")
	// The keeper takes things in turn: it has looked when it forwards what came after.
	i.signal(unix.SIGHUP)
	i.said("X_MASTER=2", "X_SIGNAL=SIGHUP")
	if err := os.WriteFile(pipe, []byte("go\n"), 0); err != nil {
		i.t.Fatal(err)
	}
	return second
}

func TestChildrenOfAnOrphanedWorkerLeaveToo(t *testing.T) {
	i := begin(t, "subreaper")
	first := i.master(1)
	first.worker("1", "parent") // of worker "child", which ends up ours when it leaves
	child := i.said("X_WORKER=child", "X_UP=1").PID
	first.does("say READY=1")
	first.kill()
	i.master(2).does("say READY=1")
	i.logged("former worker exited", "worker", "1")
	i.logged("former worker exited", "worker", "child")
	if alive(child) {
		t.Error("the worker's child stayed")
	}
}

func TestChildrenAreFoundOnAnyKernel(t *testing.T) {
	child := exec.Command("/bin/sleep", "100")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { child.Process.Kill(); child.Wait() }()
	if listed, asked := children(), childrenByParent(); !slices.Contains(listed, child.Process.Pid) || !slices.Contains(asked, child.Process.Pid) {
		t.Errorf("child %d is not in %v or not in %v", child.Process.Pid, listed, asked)
	}
}
