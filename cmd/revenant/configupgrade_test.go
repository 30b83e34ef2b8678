package main

import (
	"net/http"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"revenant/supervisor"
	"revenant/supervisor/supervisortest"
)

func TestUpgradeReadsTheFileAnewAndACrashKeepsWhatItRead(t *testing.T) {
	path := configured(t, "workers = 1\nname = 't'\n")
	i := supervisortest.Start(t, "--config", path)
	reconfigure(t, path, "workers = 2\nchaos = true\nlisten = 'tcp://127.0.0.1:1'\n")
	upgraded(i, t)
	s := settled(i, t)
	if got := killerStatus(t, i); s.Desired != 2 || got == http.StatusNotFound {
		t.Errorf("after the upgrade: %d workers, /workerKiller answers %d", s.Desired, got)
	}
	if !strings.Contains(i.Log(), "workers: 1 -> 2 ("+path+":1)") {
		t.Error("the log does not say what differs")
	}
	reconfigure(t, path, "workers = 7\n")
	if s = killMaster(i, t, s); s.Desired != 2 {
		t.Errorf("after a crash: %d workers, want 2", s.Desired)
	}
}

func TestUpgradeThatChangesNoSettingSaysNothingOfSettings(t *testing.T) {
	i := supervisortest.Start(t, "--workers", "1")
	upgraded(i, t)
	signalNow(t, i.Command.Process.Pid, unix.SIGTERM)
	i.Wait()
	if log := i.Log(); strings.Contains(log, "setting differs") {
		t.Errorf("the log says that a setting differs:\n%s", log)
	}
}

func TestUpgradeWithAWrongFileIsRefusedAndNothingIsTouched(t *testing.T) {
	path := configured(t, "workers = 1\n")
	i := supervisortest.Start(t, "--config", path)
	before := i.Now()
	reconfigure(t, path, "workers = 2\nchoas = true\ndrain-timeout = 10\n")
	_, errs, code := client(i, t, "upgrade")
	for _, words := range []string{path + ":2:1: choas: there is no such setting (did you mean chaos?); " + path + ":3:17: drain-timeout: a number", "generation 1 goes on as before"} {
		if !strings.Contains(errs, words) {
			t.Errorf("the upgrade does not say %q: %s", words, errs)
		}
	}
	if s := i.Now(); code != exitFailed || s.MasterPID != before.MasterPID || workerIDs(s) != workerIDs(before) {
		t.Errorf("code %d, %+v, before %+v", code, s, before)
	}
}

// A version that is given up takes its configuration with it, which may be why.
func TestRollbackReturnsToTheConfigurationBeforeTheUpgrade(t *testing.T) {
	path := configured(t, "workers = 1\n")
	i := supervisortest.Start(t, "--config", path, "--probation=1h")
	reconfigure(t, path, "workers = 2\n")
	upgraded(i, t, "--binary", variant(t, "panics-when-told"))
	second := settled(i, t)
	signalNow(t, second.KeeperPID, unix.SIGUSR1)
	third := i.Await("rolled back", func(s supervisor.Status) bool { return s.Generation > 2 && isReady(s) })
	if second.Desired != 2 || third.Desired != 1 {
		t.Errorf("%d workers after the upgrade and %d after the rollback, want 2 and 1", second.Desired, third.Desired)
	}
	// And a reload after that is what a later master goes on with.
	reconfigure(t, path, "workers = 3\n")
	if _, errs, code := client(i, t, "reload"); code != exitOK {
		t.Fatal(errs)
	}
	if s := killMaster(i, t, i.Await("three workers", func(s supervisor.Status) bool { return isReady(s) && s.Desired == 3 })); s.Desired != 3 {
		t.Errorf("after the rollback, a reload and a crash: %d workers, want 3", s.Desired)
	}
}
