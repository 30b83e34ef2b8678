package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"revenant/supervisor/supervisortest"
)

func TestNamespaceWithoutItsOwnProcIsRefused(t *testing.T) {
	needRoot(t)
	dir := openDir(t)
	out, errs, code := begun(t, dir, func(c *exec.Cmd) {
		c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	}, nil, "run", "--runtime-dir", dir, "--listen=tcp://127.0.0.1:0")
	checkOneLine(t, out, errs, code, wrong{code: exitUsage, says: []string{"/proc", "PID namespace", "--mount-proc"}})
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("files are left: %v", left)
	}
}

func TestWorkersAreTakenBeforeTheMasterWhenMemoryRunsOut(t *testing.T) {
	s := supervisortest.Start(t, "--workers", "1").Now()
	for pid, want := range map[int]bool{s.KeeperPID: false, s.MasterPID: false, s.Workers[0].PID: true} {
		score, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid))
		if err != nil || (strings.TrimSpace(string(score)) == workerOOMScore) != want {
			t.Errorf("process %d: oom_score_adj is %q, %v", pid, score, err)
		}
	}
}
