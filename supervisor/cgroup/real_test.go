package cgroup

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

// roleVariable makes the test binary print what it may use, once its standard
// input ends: the test moves it into a cgroup before that.
const roleVariable = "CGROUP_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(roleVariable) == "" {
		os.Exit(m.Run())
	}
	io.Copy(io.Discard, os.Stdin)
	host := Self()
	report := report{Memory: host.Memory()}
	report.Automaxprocs, _ = automaxprocsQuota()
	report.CPUs = host.CPUs()
	report.CPUs.Ignored, report.Memory.Ignored = nil, nil
	if err := json.NewEncoder(os.Stdout).Encode(report); err != nil {
		os.Exit(1)
	}
}

type report struct {
	CPUs         CPUs
	Memory       Memory
	Automaxprocs float64
}

// reportFrom runs a child in a cgroup and returns what it found.
func reportFrom(t *testing.T, directories ...string) report {
	t.Helper()
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), roleVariable+"=1", "GOMAXPROCS=1")
	child.Stderr = os.Stderr
	stdin, err := child.StdinPipe()
	stdout, pipeErr := child.StdoutPipe()
	if err := errors.Join(err, pipeErr, child.Start()); err != nil {
		t.Fatal(err)
	}
	for _, directory := range directories {
		write(t, filepath.Join(directory, "cgroup.procs"), strconv.Itoa(child.Process.Pid))
	}
	stdin.Close()
	var found report
	err = json.NewDecoder(stdout).Decode(&found)
	if err := errors.Join(err, child.Wait()); err != nil {
		t.Fatal(err)
	}
	return found
}

// makeCgroup makes /revenant-test-PID and a child of it under the real
// hierarchy of a controller, or skips the test.
func makeCgroup(t *testing.T, controller string) (version int, parent, child string) {
	t.Helper()
	found, err := Self().hierarchies(controller)
	if err != nil {
		t.Skipf("no cgroups here: %v", err)
	}
	for _, h := range found {
		parent = filepath.Join("/", h.levels[0].dir, fmt.Sprintf("revenant-test-%d", os.Getpid()))
		child = filepath.Join(parent, "child")
		if err = os.MkdirAll(child, 0o755); err != nil {
			continue
		}
		t.Cleanup(func() {
			if err := errors.Join(os.Remove(child), os.Remove(parent)); err != nil {
				t.Error(err)
			}
		})
		if h.version == 1 {
			return h.version, parent, child
		}
		if err = os.WriteFile(filepath.Join(parent, "cgroup.subtree_control"), []byte("+"+controller), 0o644); err == nil {
			return h.version, parent, child
		}
	}
	t.Skipf("SKIPPED: cannot make a cgroup with the controller %q here, so the real one is untested: %v", controller, err)
	return 0, "", ""
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestRealQuotasOfOwnCgroupAndParent(t *testing.T) {
	version, parent, child := makeCgroup(t, "cpu")
	quota := func(directory, value string) {
		if version == 1 {
			write(t, filepath.Join(directory, "cpu.cfs_quota_us"), value)
		} else {
			write(t, filepath.Join(directory, "cpu.max"), value+" 100000")
		}
	}
	ownPath := "/" + filepath.Join(filepath.Base(parent), "child")

	quota(parent, "75000")
	quota(child, "50000")
	got := reportFrom(t, child)
	if want := fmt.Sprintf("CPU quota 0.5 of cgroup %s (its own)", ownPath); got.CPUs.Effective != 0.5 || got.CPUs.Rule != want {
		t.Errorf("CPUs = %+v, want 0.5 by %q", got.CPUs, want)
	}
	if got.Automaxprocs != 0.5 && version == 1 {
		t.Errorf("automaxprocs read %v, want the 0.5 that we read", got.Automaxprocs)
	}

	// Where automaxprocs sees nothing: the parent alone has a quota.
	if version == 1 {
		quota(child, "-1")
	} else {
		quota(child, "max")
	}
	got = reportFrom(t, child)
	if want := fmt.Sprintf("CPU quota 0.75 of cgroup %s (its parent)", filepath.Dir(ownPath)); got.CPUs.Effective != 0.75 || got.CPUs.Rule != want {
		t.Errorf("CPUs = %+v, want 0.75 by %q", got.CPUs, want)
	}
	if got.Automaxprocs != 0 {
		t.Errorf("automaxprocs read %v: it has learnt to read ancestors, and ours is needed no longer", got.Automaxprocs)
	}
}

func TestRealMemoryLimit(t *testing.T) {
	version, _, child := makeCgroup(t, "memory")
	file := map[int]string{1: "memory.limit_in_bytes", 2: "memory.max"}[version]
	write(t, filepath.Join(child, file), strconv.Itoa(256<<20))
	if got := reportFrom(t, child).Memory; got.Limit != 256<<20 {
		t.Errorf("Memory = %+v, want 256 MiB", got)
	}
	if _, err := Self().OOMKills(); err != nil {
		t.Error(err)
	}
}
