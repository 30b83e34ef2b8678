package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor"
	"revenant/supervisor/event"
	"revenant/supervisor/supervisortest"
)

// curable is an instance whose workers can be made unable to start: they read
// the keeper's copy of the token when they do.
type curable struct {
	*supervisortest.Instance
	t     *testing.T
	token string
}

func startCurable(t *testing.T, args ...string) *curable {
	t.Helper()
	c := &curable{Instance: supervisortest.Start(t, append([]string{"--chaos", "--chaos-token-file", tokenFile(t)}, args...)...), t: t}
	keeper := c.Command.Process.Pid
	for fd, target := range descriptors(keeper) {
		if strings.HasPrefix(target, "/memfd:revenant-token") {
			c.token = fmt.Sprintf("/proc/%d/fd/%d", keeper, fd)
		}
	}
	if c.token == "" {
		t.Fatal("the keeper has no copy of the token")
	}
	return c
}

// tokenFile is a file with the token "secret".
func tokenFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(openDir(t), "token")
	if err := os.WriteFile(path, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (c *curable) cure() { c.write("secret") }

func (c *curable) infect() { c.write("") }

func (c *curable) write(text string) {
	c.t.Helper()
	if err := os.WriteFile(c.token, []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// latest is how many starts a slot may have had so long after its first failure:
// at once, at once again, then after 100 ms, doubling; 20 % of jitter at the most.
func latest(after time.Duration) (starts int) {
	starts = 2
	for wait, due := 80*time.Millisecond, time.Duration(0); due+wait <= after; wait *= 2 {
		due += wait
		starts++
	}
	return starts
}

func TestCrashLoopIsSlowedDownWhileTheInstanceAnswersAndHealsWithoutHelp(t *testing.T) {
	i := startCurable(t, "--workers", "2")
	events := i.Follow()
	i.infect()
	for _, w := range i.Now().Workers {
		signalNow(t, w.PID, unix.SIGKILL)
	}
	began := time.Now()
	var asked []time.Duration
	i.Await("in a loop", func(s supervisor.Status) bool {
		began := time.Now()
		_ = i.Now()
		asked = append(asked, time.Since(began))
		return s.Workers[0].Failures >= 6 && s.Workers[1].Failures >= 6 && s.State == "degraded"
	})
	took := time.Since(began)
	starts := map[int]int{}
	for len(events) > 0 {
		if e := <-events; e.Kind == event.WorkerStarted && e.Worker > 2 {
			starts[*e.Slot]++
		}
	}
	for slot, n := range starts {
		if most := latest(took); n < 6 || n > most {
			t.Errorf("slot %d had %d starts in %v, want %d at the most", slot, n, took, most)
		}
	}
	slices.Sort(asked)
	if median, worst := asked[len(asked)/2], asked[len(asked)-1]; median > 50*time.Millisecond || worst > 2*time.Second {
		t.Errorf("the control socket answers in %v (median) and %v (worst)", median, worst)
	}
	i.cure()
	s := i.Await("healed", isReady)
	if s.Generation != 1 || s.Workers[0].Restarts < 6 {
		t.Errorf("after the cure: %+v", s)
	}
	t.Logf("starts %v in %v, %d questions, median %v", starts, took, len(asked), asked[len(asked)/2])
}

func TestBoundOnCrashLoopMeetsTheTarget(t *testing.T) {
	if n := latest(30 * time.Second); n > 12 {
		t.Errorf("%d starts in 30 s, want 12 at the most", n)
	}
}

func TestHealthySlotIsNotTouchedWhileAnotherCrashes(t *testing.T) {
	i := startCurable(t, "--workers", "2")
	i.infect()
	healthy := i.Now().Workers[1]
	signalNow(t, i.Now().Workers[0].PID, unix.SIGKILL)
	i.Await("degraded", func(s supervisor.Status) bool { return s.State == "degraded" && s.Workers[0].Failures >= 4 })
	c := dialRaw(t, i.Instance)
	c.send(t, wholeGet)
	c.answer(t)
	_ = c.Close()
	if _, _, code := client(i.Instance, t, "health"); code != exitOK {
		t.Errorf("health is %d while one worker serves", code)
	}
	i.cure()
	if s := i.Await("healed", isReady); s.Workers[1].Worker != healthy.Worker || s.Workers[1].PID != healthy.PID {
		t.Errorf("the healthy worker %d was replaced by %d", healthy.Worker, s.Workers[1].Worker)
	}
}

func TestCrashLoopEndsTheInstanceWith11WhenAskedTo(t *testing.T) {
	i := startCurable(t, "--workers", "2", "--on-crash-loop", "exit")
	i.infect()
	for _, w := range i.Now().Workers {
		signalNow(t, w.PID, unix.SIGKILL)
	}
	if code := i.Wait(); code != exitCrashLoop {
		t.Errorf("exit code %d, want %d", code, exitCrashLoop)
	}
	if !strings.Contains(i.Log(), "revenant: every worker crashes again and again: slot 0: exit 2; slot 1: exit 2\n") {
		t.Errorf("the log does not say why:\n%s", i.Log())
	}
}

func TestFirstStartThatFailsEndsWith10AndOneClearLineAtTheEnd(t *testing.T) {
	mark := t.Name()
	// No program starts in a microsecond.
	i := supervisortest.Begin(t, []string{marker + "=" + mark}, "--workers", "2", "--start-timeout", "1us")
	if code := i.Wait(); code != exitNoWorker {
		t.Errorf("exit code %d, want %d", code, exitNoWorker)
	}
	lines := strings.Split(strings.TrimSpace(i.Log()), "\n")
	if last := lines[len(lines)-1]; last != "revenant: no worker became ready: slot 0: start-timeout: it was waited for notify; slot 1: start-timeout: it was waited for notify" {
		t.Errorf("the last line is %q; log:\n%s", last, i.Log())
	}
	if left := marked(t, mark); len(left) > 0 {
		t.Errorf("processes are left: %v", left)
	}
}
