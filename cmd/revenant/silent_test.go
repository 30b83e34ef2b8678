package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor/event"
	"revenant/supervisor/supervisortest"
)

// startSilent is an instance whose master is stopped.
func startSilent(t *testing.T) (i *supervisortest.Instance, master int) {
	t.Helper()
	i = supervisortest.Start(t, "--workers", "2")
	master = i.Now().MasterPID
	signalNow(t, master, unix.SIGSTOP)
	t.Cleanup(func() { _ = unix.Kill(master, unix.SIGKILL) }) // or it could not end
	return i, master
}

func TestMasterThatDoesNotAnswerIsNamedWithTheRemedy(t *testing.T) {
	i, master := startSilent(t)
	want := fmt.Sprintf("revenant: the master (pid %[1]d) does not answer; its workers go on serving (kill -9 %[1]d, and the keeper replaces it)\n", master)
	for _, c := range []struct {
		code int
		args []string
	}{{exitFailed, []string{"ps"}}, {exitFailed, []string{"events"}}, {exitFailed, []string{"kill", "1"}}, {exitNotReady, []string{"health"}}} {
		began := time.Now()
		out, errs, code := client(i, t, c.args...)
		if code != c.code || errs != want || out != "" {
			t.Errorf("%v exits with %d and says %s%s, want %d and %s", c.args, code, out, errs, c.code, want)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("%v took %v", c.args, took)
		}
	}
}

func TestStopReachesAnInstanceWhoseMasterDoesNotAnswer(t *testing.T) {
	i := supervisortest.Start(t, "--workers", "2")
	c := begunRequest(t, i)
	master := i.Now().MasterPID
	signalNow(t, master, unix.SIGSTOP)
	stop := beginClient(t, i, "stop")
	awaitTrue(t, "the master is killed", func() bool { return unix.Kill(master, 0) != nil })
	c.send(t, secondHalf)
	c.answer(t)
	_ = c.Close()
	stop.await(t, "that it stopped", func(line string) bool { return strings.HasPrefix(line, "instance stopped in ") })
	i.Wait()
}

func TestFollowerWaitsForAMasterThatIsStopped(t *testing.T) {
	i := supervisortest.Start(t, "--workers", "1")
	events := i.Follow()
	supervisortest.AwaitEvent(t, events, "the beginning", func(e event.Event) bool { return e.Kind == event.InstanceReady })
	s := i.Now()
	signalNow(t, s.MasterPID, unix.SIGSTOP)
	if _, errs, code := client(i, t, "ps"); code != exitFailed {
		t.Errorf("ps exits with %d and says %s", code, errs)
	}
	signalNow(t, s.MasterPID, unix.SIGCONT)
	signalNow(t, s.Workers[0].PID, unix.SIGKILL)
	supervisortest.AwaitEvent(t, events, "the exit", func(e event.Event) bool { return e.Kind == event.WorkerExited })
}
