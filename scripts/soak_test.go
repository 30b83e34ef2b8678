package scripts

import (
	"context"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"revenant/scripts/internal/stage"
)

// soak runs a small form of one soak. A machine that is busy with other tests may
// miss what is about time, which is not the exit code's business.
func soak(t *testing.T, says []string, args ...string) {
	t.Helper()
	p := newPicture(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	out, err := p.command(ctx, "soak", args...).CombinedOutput()
	if err != nil || strings.Contains(string(out), "BROKEN") {
		t.Errorf("scripts/soak %s: %v", args[0], err)
	}
	for _, line := range says {
		if !regexp.MustCompile(`(?m)` + line).Match(out) {
			t.Errorf("it says no %q", line)
		}
	}
	t.Logf("%s", out)
	if left, _ := filepath.Glob(filepath.Join(p.tempDirs, "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func needFront(t *testing.T) {
	t.Helper()
	if _, err := stage.FrontPath(); err != nil {
		t.Skipf("SKIPPED, NOT TESTED: %v", err)
	}
}

func TestSoakOfChangesLosesNothing(t *testing.T) {
	needFront(t)
	soak(t, []string{`^kept +changes under load$`, `2, 2, in `, `measured +0 of [1-9]\d+ \(none\)`, `^\w+ +upgrade: from the command to Ready$`},
		"changes", "--requests", "900", "--rate", "150", "--reloads", "2", "--upgrades", "2")
}

func TestSoakOfStopsLosesNothing(t *testing.T) {
	needFront(t)
	soak(t, []string{`^kept +POSTs on kept connections through nginx, 4 stops$`, `^kept +requests that failed$`}, "stops", "--count", "4", "--rate", "100")
}

func TestSoakOfLeaksLooksAtKeeperAndMaster(t *testing.T) {
	soak(t, []string{`^kept +descriptors, threads and goroutines of the keeper after 3 reloads$`, `[1-9]\d* descriptors, [1-9]\d* threads, [1-9]\d* goroutines, \d+\.\d MiB, environment [1-9]`,
		`^kept +resident memory of the master after 2 upgrades$`}, "leaks", "--reloads", "3", "--upgrades", "2", "--warm", "2", "--more", "15", "--memory", "200")
}

func TestSoakOfAContainerKeepsPID1(t *testing.T) {
	if out, err := exec.Command("docker", "version", "--format", "{{.Server.Version}}").CombinedOutput(); err != nil {
		t.Skipf("SKIPPED, NOT TESTED: no Docker engine: %s", out)
	}
	soak(t, []string{`^kept +the container after 2 upgrades$`}, "container", "--count", "2", "--rate", "60")
}

func TestSoakOfLivenessFindsTheStoppedAndNoOther(t *testing.T) {
	soak(t, []string{`^kept +workers of package worker that ended, in 1s with \d+ endless loops`, `^kept +workers that know nothing of us that ended, after 1s of standstill$`,
		`^kept +the cause of a worker that was stopped, of workers of package worker$`},
		"liveness", "--busy", "1s", "--over", "2", "--frozen", "1s", "--liveness", "2s")
}

func TestSoakSaysWhatItCanDo(t *testing.T) {
	p := newPicture(t)
	for _, args := range [][]string{nil, {"everything"}, {"stops", "--cuont", "1"}, {"stops", "now"}} {
		if out, err := p.command(t.Context(), "soak", args...).CombinedOutput(); exitCode(err) != 2 || len(out) == 0 {
			t.Errorf("scripts/soak %v: %v, want 2 and a word\n%s", args, err, out)
		}
	}
}
