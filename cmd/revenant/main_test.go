package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor"
	"revenant/supervisor/supervisortest"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == asProgram {
		actProgram(os.Args[2:])
		return
	}
	code := m.Run()
	supervisortest.Clean()
	if defectsDir != "" {
		_ = os.RemoveAll(defectsDir)
	}
	os.Exit(code)
}

// awaitTrue is the one poll of these tests, for what tells nobody.
func awaitTrue(t testing.TB, what string, good func() bool) {
	t.Helper()
	for limit := time.Now().Add(supervisortest.Patience); !good(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("never: %s", what)
		}
	}
}

// isReady is the state that most tests begin with.
func isReady(s supervisor.Status) bool { return s.State == "ready" && s.Ready == s.Desired }

// marker is a variable in the environment of all processes of an instance, by
// which a test finds what is left of it.
const marker = "REVENANT_TEST_MARK"

// marked are the living processes whose environment holds the mark.
func marked(t testing.TB, mark string) (pids []int) {
	t.Helper()
	for _, pid := range numbers("/proc") {
		if environ(pid)[marker] == mark {
			pids = append(pids, pid)
		}
	}
	return pids
}

// numbers lists the entries of a folder that are numbers.
func numbers(dir string) (found []int) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil {
			found = append(found, n)
		}
	}
	return found
}

// environ is the environment that a process was started with; empty for a zombie.
func environ(pid int) map[string]string {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	vars := map[string]string{}
	for entry := range strings.SplitSeq(string(text), "\x00") {
		if name, value, ok := strings.Cut(entry, "="); ok {
			vars[name] = value
		}
	}
	return vars
}

// descriptors are a process's open files by number.
func descriptors(pid int) map[int]string {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	open := map[int]string{}
	for _, n := range numbers(dir) {
		if target, err := os.Readlink(filepath.Join(dir, strconv.Itoa(n))); err == nil {
			open[n] = target
		}
	}
	return open
}

// statusField is a number from /proc/PID/status.
func statusField(t testing.TB, pid int, field string) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			n, _ := strconv.Atoi(strings.Fields(value)[0])
			return n
		}
	}
	t.Fatalf("no %s in the status of %d", field, pid)
	return 0
}

// signalNow sends a signal to a process that must exist.
func signalNow(t testing.TB, pid int, s unix.Signal) {
	t.Helper()
	if err := unix.Kill(pid, s); err != nil {
		t.Fatalf("cannot send %v to %d: %v", s, pid, err)
	}
}

// client runs a client command against an instance.
func client(i *supervisortest.Instance, t testing.TB, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	return supervisortest.Run(t, nil, append(args, "--runtime-dir", i.Dir, "--name", i.Name)...)
}

// begun runs a command to its end, with a mark and changes to how it starts.
func begun(t testing.TB, mark string, change func(*exec.Cmd), env []string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), supervisortest.Patience)
	defer cancel()
	c := exec.CommandContext(ctx, supervisortest.Binary(t), args...)
	c.Env = append(append(os.Environ(), "GORACE=atexit_sleep_ms=0", marker+"="+mark), env...)
	var out, errs strings.Builder
	c.Stdout, c.Stderr = &out, &errs
	if change != nil {
		change(c)
	}
	_ = c.Run() // the exit code is the result
	if ctx.Err() != nil || c.ProcessState == nil {
		t.Fatalf("revenant %s does not end; stderr:\n%s", strings.Join(args, " "), errs.String())
	}
	return out.String(), errs.String(), c.ProcessState.ExitCode()
}
