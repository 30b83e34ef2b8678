package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revenant/scripts/ledger"
	"revenant/supervisor"
	"revenant/supervisor/event"
	"revenant/supervisor/supervisortest"
)

// misdeed is what the program of slot 1 does wrong, each time that it is started,
// while that of slot 0 serves.
type misdeed struct {
	name  string
	deeds []string
	flags []string
	// leads is where the command leads to instead, a symbolic link; the program of
	// slot 1 is killed then.
	leads string
	// says are words of the events about it, each; LINK stands for the command.
	says []string
	// late tells that it keeps the program from becoming ready; of all others the first
	// process does, and an instance that was once ready is not given up.
	late bool
	// listener tells that it does something to the listener: every kind of one is tried.
	listener bool
	// shuts tells that it shuts that down: who comes in this moment is refused.
	shuts bool
	// requests are how many there are meanwhile, a hundred a second.
	requests int
}

var misdeeds = []misdeed{
	{name: "a command that does not exist", deeds: []string{"ready", "hang"}, leads: "/no/such/program",
		says: []string{"cannot-start: cannot execute LINK: no such file or directory (check the spelling, or install it)"}},
	{name: "a command that is not executable", deeds: []string{"ready", "hang"}, leads: "plain",
		says: []string{"cannot-start: cannot execute LINK: permission denied (make it executable with chmod +x"}},
	{name: "exits at once", deeds: []string{"exit=0"}, says: []string{"exit 0"}},
	{name: "fails at once", deeds: []string{"exit=3"}, says: []string{"exit 3"}},
	{name: "prints garbage", deeds: []string{"print", "exit=4"}, says: []string{"exit 4"}},
	{name: "forks away", listener: true, deeds: []string{"daemon=hang", "exit=0"},
		says: []string{"exit 0", "left processes behind that are in no group of its own, pids [", "]: killed (a program must stay in the foreground)"}},
	{name: "closes its descriptors", late: true, listener: true, deeds: []string{"close", "hang"}, flags: []string{"--start-timeout=1s"},
		says:     []string{"start-timeout: it was waited for notify or listen, and has closed the listener (a program must keep the descriptors that it is given)"},
		requests: 600},
	{name: "clears O_NONBLOCK", listener: true, deeds: []string{"block", "exit=5"},
		says: []string{"exit 5", "listener ADDRESS: O_NONBLOCK was cleared; repaired ", "(all workers share it: a program may close it, and must neither shut it down nor change its flags)"}},
	{name: "shuts the listener down", listener: true, deeds: []string{"shut", "exit=6"}, shuts: true,
		says: []string{"listener ADDRESS: the socket was shut down", "; repaired ", "(all workers share it: a program may close it, and must neither shut it down nor change its flags)"}},
}

// What the program of one slot does wrong is told, costs its sibling nothing, and
// is tried again with the pauses of the policy and no faster.
func TestProgramThatDoesWrongIsToldPausedAndHarmsNobody(t *testing.T) {
	for _, d := range misdeeds {
		for _, kind := range []string{"tcp", "unix"} {
			if kind == "unix" && !d.listener {
				continue
			}
			t.Run(d.name+"/"+kind, func(t *testing.T) {
				t.Parallel() // they mostly wait
				d.commit(t, kind)
			})
		}
	}
}

// commit lets slot 1 do it, and looks at everything else.
func (d *misdeed) commit(t *testing.T, kind string) {
	dir := openDir(t)
	begin, link := filepath.Join(dir, "begin"), filepath.Join(dir, "program")
	listener := "tcp://127.0.0.1:0"
	if kind == "unix" {
		listener = "unix:" + filepath.Join(dir, "s.sock")
	}
	deeds := append([]string{"await=" + begin}, d.deeds...)
	if !d.late {
		deeds = append([]string{"once=" + filepath.Join(dir, "once") + ":ready"}, deeds...)
	}
	program := actor(t, append([]string{"quiet", "only=0:poll"}, deeds...)...)
	lead(t, link, program[1])
	program[1] = link
	i := supervisortest.Begin(t, nil, append(append([]string{"--workers=2", "--listen=" + listener}, d.flags...), program...)...)
	s := i.Await("slot 0 serves and slot 1 runs", func(s supervisor.Status) bool {
		return len(s.Workers) > 1 && s.Workers[0].State == "ready" && s.Workers[1].PID > 0 && (d.late || isReady(s))
	})
	sibling, events := s.Workers[0], i.Follow()

	// A unix socket cannot be repaired: there is a new one, and new workers on it.
	anew := d.shuts && kind == "unix"
	report := d.requested(t, s.Listeners[0], func(body string) bool { return anew || body == fmt.Sprintln(sibling.PID) })
	write(t, begin, nil, 0o600)
	if d.leads != "" {
		plain := filepath.Join(dir, "plain")
		write(t, plain, []byte("#!/bin/sh\n"), 0o644)
		lead(t, link, strings.Replace(d.leads, "plain", plain, 1))
		i.Await("slot 1 serves", func(s supervisor.Status) bool { return s.Workers[1].State == "ready" })
		signalNow(t, s.Workers[1].PID, unix.SIGKILL)
	}
	said, exits := d.followed(t, events, report)

	for _, words := range d.says {
		if words = strings.NewReplacer("LINK", link, "ADDRESS", listener).Replace(words); !strings.Contains(said, words) {
			t.Errorf("the events do not say %q:\n%s", words, said)
		}
	}
	r := <-report
	t.Log(r)
	for _, f := range r.Failures {
		if !d.shuts || !slices.ContainsFunc(exits, func(exit time.Time) bool { return f.End.Sub(exit).Abs() < healed }) {
			t.Errorf("lost: %v", f)
		}
	}
	s = i.Await("slot 0 serves", func(s supervisor.Status) bool { return s.Workers[0].State == "ready" })
	if w := s.Workers[0]; !anew && (w.Worker != sibling.Worker || w.PID != sibling.PID || w.Restarts > 0) {
		t.Errorf("the sibling is %+v", w)
	}
	for _, line := range strings.Split(strings.TrimSpace(i.Log()), "\n") {
		if !json.Valid([]byte(line)) {
			t.Errorf("not JSON: %q", line)
		}
	}
}

// healed is how long a listener may be harmed.
const healed = 200 * time.Millisecond

// lead makes a symbolic link lead elsewhere, at once.
func lead(t *testing.T, link, target string) {
	t.Helper()
	_ = os.Remove(link + ".new")
	if err := os.Symlink(target, link+".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(link+".new", link); err != nil {
		t.Fatal(err)
	}
}

// requested sends all requests, each once.
func (d *misdeed) requested(t *testing.T, target string, right func(body string) bool) <-chan ledger.Report {
	t.Helper()
	l := ledger.Load{
		Target: target, Requests: max(d.requests, 150), Rate: 100, Clients: 4,
		ConnectTimeout: supervisortest.Patience, Timeout: supervisortest.Patience,
		Right: func(_ ledger.Request, a ledger.Response) bool { return right(string(a.Body)) },
	}
	report := make(chan ledger.Report, 1)
	// Ends when all requests have; they have limits.
	go func() {
		r, err := l.Run(context.Background())
		if err != nil {
			t.Errorf("load: %v", err)
		}
		report <- r
	}()
	return report
}

// followed reads what is told of slot 1 over all requests and two failures at least,
// and checks that it was not started faster than the policy allows. It returns what
// was said and when workers ended.
func (d *misdeed) followed(t *testing.T, events <-chan event.Event, report <-chan ledger.Report) (said string, exits []time.Time) {
	t.Helper()
	var first, last time.Time // failure
	starts, failures := 0, 0
	for failures < 2 || len(report) == 0 {
		e := supervisortest.AwaitEvent(t, events, "a word about slot 1 or the listener", func(e event.Event) bool {
			return e.Kind == event.ListenerHarmed || e.Slot != nil && *e.Slot == 1
		})
		switch {
		case e.Kind == event.WorkerStarted:
			starts, last = starts+1, e.Time
		case e.Exit != nil && e.Cause != "signal KILL":
			if failures++; failures == 1 {
				first = e.Time
			}
			exits = append(exits, e.Time)
			said += e.Cause + ": "
		}
		said += e.Message + "\n"
	}
	if d.leads != "" {
		starts-- // of the one that was killed
	}
	if most := latest(last.Sub(first)); starts > most {
		t.Errorf("%d starts in %v from the first failure, want %d at the most", starts, last.Sub(first), most)
	}
	t.Logf("%d failures, %d starts in %v", failures, starts, last.Sub(first))
	return said, exits
}
