package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"revenant/supervisor"
	"revenant/supervisor/event"
	"revenant/supervisor/supervisortest"
)

// seated are the workers in their slots.
func seated(s supervisor.Status) (ids []uint64) {
	for _, w := range s.Workers {
		if !w.Former && !w.Successor {
			ids = append(ids, w.Worker)
		}
	}
	return ids
}

// startWithFile starts an instance with a configuration file.
func startWithFile(t *testing.T, text string, args ...string) (i *supervisortest.Instance, rewrite func(string)) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "revenant.toml")
	rewrite = func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	rewrite(text)
	return supervisortest.Start(t, append([]string{"--config", path}, args...)...), rewrite
}

func TestReloadShowsWhatDiffersAndEverySlotAndLosesNothing(t *testing.T) {
	i, rewrite := startWithFile(t, "workers = 2\n")
	load := beginLoad(i, t, 2, 2, 0)
	rewrite("workers = 3\nchaos = true\n")
	out, errs, code := client(i, t, "reload")
	if code != exitOK || errs != "" {
		t.Errorf("code %d, %q", code, errs)
	}
	for _, word := range []string{"workers: 2 -> 3", "chaos: ", "slot 0: worker 1 → ", "slot 1: worker 2 → ", "slot 2: worker ", " ms)", "done: reload"} {
		if !strings.Contains(out, word) {
			t.Errorf("reload does not say %q:\n%s", word, out)
		}
	}
	if s := i.Now(); s.Ready != 3 || s.Desired != 3 || slices.Min(seated(s)) < 3 {
		t.Errorf("%d of %d ready, workers %v", s.Ready, s.Desired, seated(s))
	}
	if r := load.end(); r.Failed() > 0 {
		t.Errorf("%d requests failed: %v", r.Failed(), r.Failures)
	}
}

func TestReloadThatIsRefusedChangesNothingAndSaysWhere(t *testing.T) {
	i, rewrite := startWithFile(t, "workers = 2\n")
	before := seated(i.Now())
	rewrite("workers = 3\nwokers = 4\n")
	out, errs, code := client(i, t, "reload")
	if code != exitFailed || out != "" || !strings.Contains(errs, "refused, nothing was changed") || !strings.Contains(errs, "revenant.toml:2:1: wokers") {
		t.Errorf("code %d, %q, %q", code, out, errs)
	}
	if s := i.Now(); !slices.Equal(seated(s), before) || s.Desired != 2 || s.Operation != nil {
		t.Errorf("afterwards %+v", s)
	}
	rewrite("workers = 1\n")
	if _, errs, code := client(i, t, "reload"); code != exitOK || i.Now().Desired != 1 {
		t.Errorf("and then the right one: code %d, %q", code, errs)
	}
}

func TestHangUpReloads(t *testing.T) {
	i := supervisortest.Start(t, "--workers", "2")
	events := i.Follow()
	signalNow(t, i.Command.Process.Pid, unix.SIGHUP)
	supervisortest.AwaitEvent(t, events, "the reload's end", isReloadsEnd)
	if s := i.Now(); !slices.Equal(seated(s), []uint64{3, 4}) {
		t.Errorf("workers %v", seated(s))
	}
}

func isReloadsEnd(e event.Event) bool {
	return e.Kind == event.OperationDone && strings.Contains(e.Message, "reload")
}

// stallable starts an instance whose workers, from stall on, never become ready.
func stallable(t *testing.T) (i *supervisortest.Instance, stall func()) {
	t.Helper()
	dir := t.TempDir()
	program, ill := filepath.Join(dir, "program"), filepath.Join(dir, "ill")
	script := fmt.Sprintf("#!/bin/sh\n[ -e %s ] && exec sleep 600\nexec %s app\n", ill, supervisortest.Binary(t))
	if err := os.WriteFile(program, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	i = supervisortest.Start(t, "--workers", "2", "--start-timeout", "10m", "--", program)
	return i, func() {
		t.Helper()
		if err := os.WriteFile(ill, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSecondOperatorIsToldWhoHoldsTheInstanceAndTheFirstMayLeave(t *testing.T) {
	i, stall := stallable(t)
	stall()
	first := beginClient(t, i, "restart", "all")
	s := i.Await("a successor starts", func(s supervisor.Status) bool {
		return s.Operation != nil && slices.ContainsFunc(s.Workers, func(w supervisor.WorkerStatus) bool { return w.Successor })
	})
	_, errs, code := client(i, t, "reload")
	pid := fmt.Sprintf("uid %d, pid ", os.Geteuid())
	if code != exitFailed || !strings.Contains(errs, "a restart is under way, begun by "+pid) || !strings.Contains(errs, " ago") {
		t.Errorf("the second is told: code %d, %q", code, errs)
	}
	out, _, _ := client(i, t, "ps")
	if !strings.Contains(out, "restart by "+pid) || !strings.Contains(out, "(successor)") {
		t.Errorf("ps does not show the restart:\n%s", out)
	}
	_ = first.Process.Kill()
	_ = first.Wait()
	if now := i.Now(); now.Operation == nil || now.Operation.Number != s.Operation.Number {
		t.Errorf("the operation ended with its client: %+v", now.Operation)
	}
	if _, errs, code := client(i, t, "stop"); code != exitOK {
		t.Errorf("stop: code %d, %q", code, errs)
	}
	if code := i.Wait(); code != exitOK {
		t.Errorf("the instance exits with %d", code)
	}
}

func TestRestartAndScaleByTheirCommands(t *testing.T) {
	i := supervisortest.Start(t, "--workers", "2")
	for _, c := range []struct {
		args []string
		want []uint64
	}{
		{[]string{"restart", "2"}, []uint64{1, 3}},
		{[]string{"restart", "all"}, []uint64{4, 5}},
		{[]string{"scale", "+1"}, []uint64{4, 5, 6}},
		{[]string{"scale", "-2"}, []uint64{4}},
		{[]string{"scale", "2"}, []uint64{4, 7}},
	} {
		_, errs, code := client(i, t, c.args...)
		if s := i.Now(); code != exitOK || errs != "" || s.Ready != len(c.want) || !slices.Equal(seated(s), c.want) {
			t.Errorf("%v: code %d, %q, workers %v, want %v", c.args, code, errs, seated(s), c.want)
		}
	}
	for _, c := range []struct {
		args []string
		says string
	}{{[]string{"restart", "99"}, "no worker 99"}, {[]string{"scale", "-2"}, "cannot run 0 workers"}, {[]string{"scale", "600"}, "from 1 to 512"}} {
		if _, errs, code := client(i, t, c.args...); code != exitFailed || !strings.Contains(errs, c.says) {
			t.Errorf("%v: code %d, %q, want %q", c.args, code, errs, c.says)
		}
	}
	master := i.Now().MasterPID
	signalNow(t, master, unix.SIGKILL)
	i.Await("another master with as many workers", func(s supervisor.Status) bool { return s.MasterPID != master && isReady(s) && s.Desired == 2 })
}

func TestWorkersAreRecycledByRequestsUnderLoadWithoutALoss(t *testing.T) {
	i := supervisortest.Start(t, "--workers", "2", "--max-requests", "200")
	events := i.Follow()
	load := beginLoad(i, t, 2, 2, 0)
	for range 2 {
		e := supervisortest.AwaitEvent(t, events, "a recycled worker's end", func(e event.Event) bool { return e.Kind == event.WorkerExited })
		if e.Cause != "requested" || e.Reason != "max-requests" || !e.Planned {
			t.Errorf("a worker ended by %+v", e.Exit)
		}
	}
	if r := load.end(); r.Failed() > 0 {
		t.Errorf("%d requests failed: %v", r.Failed(), r.Failures)
	}
}

func TestPreStopTakesConnectionsWhileItSaysThatItIsNotReady(t *testing.T) {
	i := supervisortest.Start(t, "--workers", "2", "--pre-stop", "10m")
	signalNow(t, i.Command.Process.Pid, unix.SIGTERM)
	i.Await("stopping", func(s supervisor.Status) bool { return s.State == "stopping" })
	if _, _, code := client(i, t, "health"); code != exitNotReady {
		t.Errorf("health exits with %d", code)
	}
	c := dialRaw(t, i)
	c.send(t, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
	c.answer(t)
	if _, _, code := client(i, t, "reload"); code != exitFailed {
		t.Errorf("a reload of a stopping instance exits with %d", code)
	}
	signalNow(t, i.Command.Process.Pid, unix.SIGTERM)
	if code := i.Wait(); code != exitSignal+int(unix.SIGTERM) {
		t.Errorf("cut short, it exits with %d", code)
	}
}

func TestOperationOfAMasterThatDiesIsSaidToHaveNoKnownEnd(t *testing.T) {
	i, stall := stallable(t)
	stall()
	ended := make(chan error, 1)
	go func() { ended <- i.Restart(context.Background(), 0, func(event.Event) error { return nil }) }()
	s := i.Await("the restart is under way", func(s supervisor.Status) bool { return s.Operation != nil })
	signalNow(t, s.MasterPID, unix.SIGKILL)
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "was not heard") {
		t.Errorf("the client is told %v", err)
	}
}
