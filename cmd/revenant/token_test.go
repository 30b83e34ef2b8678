package main

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"revenant/supervisor"
	"revenant/supervisor/supervisortest"
)

func TestTokenIsReadOnceInTheLifeOfAnInstance(t *testing.T) {
	path := tokenFile(t)
	i := supervisortest.Start(t, "--workers", "2", "--chaos", "--chaos-token-file", path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	before := i.Now()
	signalNow(t, before.Workers[0].PID, unix.SIGKILL)
	s := i.Await("healed", func(s supervisor.Status) bool { return isReady(s) && s.Workers[0].Worker == 3 })
	s = killMaster(i, t, s)
	if s.Generation != 2 {
		t.Errorf("%d masters were needed", s.Generation)
	}
	s = settled(i, t) // a worker of the dead master has nobody to ask
	for _, pid := range []int{s.KeeperPID, s.MasterPID, s.Workers[0].PID} {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		env, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if strings.Contains(string(line)+string(env), "secret") {
			t.Errorf("process %d shows the token: %q", pid, line)
		}
	}
	for token, want := range map[string]int{"wrong": http.StatusUnauthorized, "secret": http.StatusOK} {
		r, err := http.NewRequest(http.MethodPost, i.URL()+"/workerKiller", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+token)
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		if answer.StatusCode != want {
			t.Errorf("with the token %q: %s, want %d", token, answer.Status, want)
		}
	}
}

func TestTokenOfAUserWithoutRightsReachesHisWorkers(t *testing.T) {
	needRoot(t)
	dir := mine(t)
	path := filepath.Join(dir, "token")
	if err := os.WriteFile(path, []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	c := exec.Command(supervisortest.Binary(t), "run", "--runtime-dir", dir, "--name", "t", "--workers", "2", "--listen", "unix:"+dir+"/app.sock",
		"--chaos", "--chaos-token-file", path)
	asNobody(c)
	c.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	c.Stderr = &supervisortest.Log{}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	awaitTrue(t, "ready", func() bool {
		_, _, code := begun(t, dir, asNobody, nil, "health", "--runtime-dir", dir, "--name", "t")
		return code == exitOK
	})
}
