package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"revenant/supervisor"
	"revenant/supervisor/event"
	"revenant/supervisor/supervisortest"
)

// killerStatus is what /workerKiller answers, without being asked to kill.
func killerStatus(t *testing.T, i *supervisortest.Instance) int {
	t.Helper()
	c := http.Client{Timeout: supervisortest.Patience, Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := c.Get(i.URL() + "/workerKiller?mode=unknown")
	if err != nil {
		t.Fatal(err)
	}
	_ = r.Body.Close()
	return r.StatusCode
}

func workerIDs(s supervisor.Status) string {
	var ids []uint64
	for _, w := range s.Workers {
		if !w.Former {
			ids = append(ids, w.Worker)
		}
	}
	return fmt.Sprint(ids)
}

func TestReloadPutsTheFileInForceAndACrashKeepsIt(t *testing.T) {
	path := configured(t, "workers = 1\n")
	i := supervisortest.Start(t, "--config", path)
	if got := killerStatus(t, i); got != http.StatusNotFound {
		t.Fatalf("/workerKiller answers %d before the reload", got)
	}
	reconfigure(t, path, "workers = 2\nchaos = true\nname = 'other'\ndrain-timeout = '200ms'\n")
	out, errs, code := client(i, t, "reload")
	for _, line := range []string{
		"workers: 1 -> 2 (" + path + ":1)\n", "chaos: false -> true (" + path + ":2)\n", "drain-timeout: 25s -> 200ms (" + path + ":4)\n",
	} {
		if !strings.Contains(out, line) {
			t.Errorf("the reload does not say %q:\n%s%s", line, out, errs)
		}
	}
	if code != 0 {
		t.Fatalf("code %d, %s%s", code, out, errs)
	}
	s := settled(i, t) // former workers answer what they took
	if s.Desired != 2 {
		t.Errorf("%d workers, want 2", s.Desired)
	}
	if got := killerStatus(t, i); got == http.StatusNotFound {
		t.Error("/workerKiller does not exist after the reload")
	}
	reconfigure(t, path, "workers = [") // and what is broken by then does not matter
	killMaster(i, t, s)
	s = settled(i, t)
	if got := killerStatus(t, i); s.Desired != 2 || got == http.StatusNotFound {
		t.Errorf("after a crash: %d workers, /workerKiller answers %d", s.Desired, got)
	}
}

func TestReloadOfAWrongFileIsRefusedWholeAndNothingIsTouched(t *testing.T) {
	path := configured(t, "workers = 2\n")
	i := supervisortest.Start(t, "--config", path)
	before := i.Now()
	reconfigure(t, path, "workers = 3\ndrain-timeout = 10\nchoas = true\n")
	_, errs, code := client(i, t, "reload")
	for _, words := range []string{"refused, nothing was changed", path + ":2:17: drain-timeout: a number where text belongs", path + ":3:1: choas: there is no such setting (did you mean chaos?)"} {
		if !strings.Contains(errs, words) {
			t.Errorf("the reload does not say %q: %s", words, errs)
		}
	}
	if code == 0 {
		t.Error("a refused reload ends with 0")
	}
	signalNow(t, before.KeeperPID, unix.SIGHUP)
	supervisortest.AwaitEvent(t, i.Follow(), "refused after the signal", func(e event.Event) bool {
		return e.Kind == event.OperationFailed && e.Operation == 2 && strings.Contains(e.Message, path+":3:1: choas")
	})
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	_, errs, _ = client(i, t, "reload")
	if !strings.Contains(errs, "--config "+path+": cannot read the configuration: no such file") {
		t.Errorf("without the file: %s", errs)
	}
	if s := i.Now(); workerIDs(s) != workerIDs(before) || s.Desired != 2 {
		t.Errorf("workers %s of %d, before it %s of 2", workerIDs(s), s.Desired, workerIDs(before))
	}
}

func TestRunningInstanceTellsWhatIsInForceAndNoSecret(t *testing.T) {
	path := configured(t, "workers = 1\n")
	i := supervisortest.Start(t, "--config", path, "--env", "PASSWORD=secret")
	reconfigure(t, path, "workers = 2\nchoas = true\n") // in force is what was loaded
	line := func(setting string) string {
		t.Helper()
		out, errs, code := client(i, t, "config", "--running")
		if code != 0 {
			t.Fatalf("code %d, %s", code, errs)
		}
		for text := range strings.Lines(out) {
			if fields := strings.Fields(text); fields[0] == setting {
				return strings.Join(fields[1:], " ")
			}
		}
		return ""
	}
	if got, want := line("workers"), "1 "+path+":1"; got != want {
		t.Errorf("workers: %q, want %q", got, want)
	}
	if got, want := line("env"), "PASSWORD=*** --env"; got != want {
		t.Errorf("env: %q, want %q", got, want)
	}
	reconfigure(t, path, "\nworkers = 2\n")
	if _, errs, code := client(i, t, "reload"); code != exitOK {
		t.Fatal(errs)
	}
	if got, want := line("workers"), "2 "+path+":2"; got != want {
		t.Errorf("workers after a reload: %q, want %q", got, want)
	}
	_, errs, code := client(i, t, "config", "--running", path)
	checkOneLine(t, "", errs, code, wrong{code: exitUsage, says: []string{"unexpected argument", "config --help"}})
}

// A request that does not end is cut when the new drain timeout has passed; with
// the one before, this test would not end in time.
func TestDrainTimeoutOfAReloadCutsWhoWasThereBefore(t *testing.T) {
	path := configured(t, "workers = 1\ndrain-timeout = '10m'\n")
	i := supervisortest.Start(t, "--config", path)
	events := i.Follow()
	c, err := net.Dial("tcp", i.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\nExpect: 100-continue\r\n")); err != nil {
		t.Fatal(err)
	}
	i.Await("the request has come", func(s supervisor.Status) bool { return s.Workers[0].InFlight > 0 })
	reconfigure(t, path, "workers = 1\ndrain-timeout = '100ms'\n")
	signalNow(t, i.Now().KeeperPID, unix.SIGHUP)
	supervisortest.AwaitEvent(t, events, "the drain is cut", func(e event.Event) bool {
		return e.Exit != nil && e.Worker == 1 && e.Cause == "drain-timeout"
	})
}

// What the keeper asks for, when a master died, are the terms of the reload.
func TestOrphansLeaveOnTheTermsOfTheLastReload(t *testing.T) {
	path := configured(t, "workers = 1\ndrain-timeout = '10m'\n")
	i := supervisortest.Start(t, "--config", path)
	reconfigure(t, path, "workers = 1\ndrain-timeout = '300ms'\n")
	if _, errs, code := client(i, t, "reload"); code != exitOK {
		t.Fatal(errs)
	}
	killMaster(i, t, i.Await("ready", isReady))
	awaitTrue(t, "the orphan has 300ms", func() bool { return strings.Contains(i.Log(), `"kill_in":"300ms"`) })
}

func TestTokenOfAReloadOutlivesItsFileAndItsMaster(t *testing.T) {
	token, path := tokenFile(t), configured(t, "")
	i := supervisortest.Start(t, "--workers=1", "--chaos", "--config", path)
	reconfigure(t, path, "chaos-token-file = '"+token+"'\n")
	if _, errs, code := client(i, t, "reload"); code != 0 {
		t.Fatal(errs)
	}
	if err := os.Remove(token); err != nil {
		t.Fatal(err)
	}
	s := killMaster(i, t, settled(i, t))
	signalNow(t, s.Workers[0].PID, unix.SIGKILL)
	i.Await("healed", func(now supervisor.Status) bool { return isReady(now) && workerIDs(now) != workerIDs(s) })
	settled(i, t)
	if got := killerStatus(t, i); got != http.StatusUnauthorized {
		t.Errorf("/workerKiller without the token answers %d", got)
	}
}
