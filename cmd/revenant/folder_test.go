package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"revenant/supervisor"
	"revenant/supervisor/supervisortest"
)

func TestMasterMakesAFolderAnewThatWasRemovedAndServesOn(t *testing.T) {
	i := supervisortest.Start(t, "--workers", "2")
	before, dir := i.Now(), filepath.Join(i.Dir, i.Name)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	after := killMaster(i, t, before)
	if !claimed(dir) {
		t.Error("the folder is not locked: a second instance could take the name")
	}
	_, errs, code := begun(t, i.Dir+"second", nil, nil, "run", "--runtime-dir", i.Dir, "--name", i.Name, "--listen=tcp://127.0.0.1:0")
	checkOneLine(t, "", errs, code, wrong{code: 2, says: []string{"--name t: ", "is running, pid " + fmt.Sprint(before.KeeperPID)}})
	killMaster(i, t, after) // whose lock is gone with it
	if _, errs, code := client(i, t, "stop"); code != exitOK {
		t.Errorf("stop exits with %d: %s", code, errs)
	}
	if left, _ := os.ReadDir(i.Dir); len(left) > 0 {
		t.Errorf("files are left: %v", left)
	}
}

func TestMasterWithoutAFolderServesAndTriesAgain(t *testing.T) {
	i := supervisortest.Start(t, "--workers", "2")
	s, dir := i.Now(), filepath.Join(i.Dir, i.Name)
	err := errors.Join(os.RemoveAll(dir), os.WriteFile(dir, nil, 0o600)) // something that is no folder
	if err != nil {
		t.Fatal(err)
	}
	address := strings.TrimPrefix(s.Listeners[0], "tcp://")
	signalNow(t, s.MasterPID, unix.SIGKILL)
	awaitTrue(t, "the old workers are gone", func() bool {
		return !slices.ContainsFunc(s.Workers, func(w supervisor.WorkerStatus) bool { return unix.Kill(w.PID, 0) == nil })
	})
	c := dialTo(t, "tcp", address)
	c.send(t, wholeGet)
	c.answer(t)
	_ = c.Close()
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	after := i.Await("reachable", isReady)
	if after.Generation != 2 || after.Instance != s.Instance {
		t.Errorf("found generation %d of %s, want 2 of %s", after.Generation, after.Instance, s.Instance)
	}
}

func TestWhoeverAsksForALockDoesNotTakeIt(t *testing.T) {
	dir := t.TempDir()
	if claimed(dir) {
		t.Error("an empty folder is claimed")
	}
	if err := os.WriteFile(filepath.Join(dir, "lock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var askers sync.WaitGroup
	for range 4 {
		askers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					claimed(dir)
				}
			}
		})
	}
	for range 2000 {
		c, err := claim(dir, 42)
		if err != nil {
			t.Fatal(err)
		}
		if !claimed(dir) {
			t.Fatal("not claimed")
		}
		var running *runningError
		if _, err := claim(dir, 43); !errors.As(err, &running) || running.pid != "42" {
			t.Fatalf("a second claim: %v", err)
		}
		_ = c.lock.Close()
	}
	close(stop)
	askers.Wait()
	if text := (&runningError{}).Error(); text != "an instance of this name is starting (give this one another name)" {
		t.Error(text)
	}
}

func TestDraftsOfKilledMastersAreRemoved(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "t")
	c, err := claim(dir, 42)
	if err != nil {
		t.Fatal(err)
	}
	draft := controlSocket(dir) + ".123"
	if err := os.WriteFile(draft, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_ = c.lock.Close() // as if it had been killed
	if c, err = claim(dir, 42); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(draft); err == nil {
		t.Error("claim leaves the draft")
	}
	if err := os.WriteFile(draft, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c.release()
	if _, err := os.Stat(dir); err == nil {
		t.Error("release leaves the folder")
	}
}
