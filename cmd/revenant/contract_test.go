package main

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"revenant/supervisor"
	"revenant/supervisor/notify"
	"revenant/supervisor/supervisortest"
)

// levelAbove is an environment as a service manager and other programs of our
// kind leave it.
var levelAbove = []string{
	"LISTEN_FDS=3", "LISTEN_PID=1", "LISTEN_FDNAMES=a:b:c", "LISTEN_PIDFDID=7", "WATCHDOG_USEC=1000000", "WATCHDOG_PID=1",
	"FDSTORE=5", "MAINPID=1", "X_REVENANT_INSTANCE=stale", "X_REVENANT_GENERATION=99", "X_REVENANT_KEEPER_PID=1", "X_REVENANT_WHATEVER=1",
	"TABLEFLIP_HAS_PARENT_7DIU3=yes", "REVENANT_INSTANCE=stale", "REVENANT_WORKER=99", "REVENANT_SLOT=99", "REVENANT_GENERATION=99",
	"REVENANT_START_TIMEOUT=20s", "GOMAXPROCS=7",
}

func TestWorkersEnvironmentIsTheContractAndTheOperatorsOwn(t *testing.T) {
	above, err := notify.Listen("revenant-test-above/" + strconv.Itoa(os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	defer above.Close()
	env := append([]string{"NOTIFY_SOCKET=" + above.Address(), "OPERATORS_OWN=kept as it is", "LISTEN_ADDR=kept too"}, levelAbove...)
	i := supervisortest.Begin(t, env, "--workers", "2")
	s := i.Await("ready", isReady)

	want := map[string]string{}
	for _, line := range append(os.Environ(), "GORACE=atexit_sleep_ms=0", "OPERATORS_OWN=kept as it is", "LISTEN_ADDR=kept too") {
		name, value, _ := strings.Cut(line, "=")
		want[name] = value
	}
	for slot, w := range s.Workers {
		got := environ(w.PID)
		maps.Copy(want, map[string]string{
			"REVENANT_INSTANCE": s.Instance, "REVENANT_WORKER": fmt.Sprint(w.Worker), "REVENANT_SLOT": fmt.Sprint(slot), "REVENANT_GENERATION": "1",
			"LISTEN_FDS": "1", "LISTEN_FDNAMES": "tcp%3A//127.0.0.1%3A0",
			// What these are depends on the machine; the next lines look at them.
			"NOTIFY_SOCKET": got["NOTIFY_SOCKET"], "GOMAXPROCS": got["GOMAXPROCS"], "X_REVENANT_ROLE": "worker",
		})
		if limit, ok := got["GOMEMLIMIT"]; ok {
			want["GOMEMLIMIT"] = limit
		}
		if !maps.Equal(got, want) {
			t.Errorf("worker %d: %s", w.Worker, difference(got, want))
		}
		if got["NOTIFY_SOCKET"] == above.Address() || !strings.HasPrefix(got["NOTIFY_SOCKET"], "@revenant/"+s.Instance) {
			t.Errorf("NOTIFY_SOCKET is %q", got["NOTIFY_SOCKET"])
		}
		if n, err := strconv.Atoi(got["GOMAXPROCS"]); err != nil || n < 1 || n == 7 {
			t.Errorf("GOMAXPROCS is %q", got["GOMAXPROCS"])
		}
	}
	// They serve on the master's socket, so they found their own LISTEN_PID.
	sharedSocket(t, s)
	if m, err := above.Receive(); err != nil || !m.Says(notify.Ready) {
		t.Errorf("the level above was told %v, %v; want READY=1", m.State, err)
	}
}

func difference(got, want map[string]string) string {
	var lines []string
	for name, value := range got {
		if w, ok := want[name]; !ok {
			lines = append(lines, "has "+name+"="+value)
		} else if w != value {
			lines = append(lines, fmt.Sprintf("%s=%s, want %s", name, value, w))
		}
	}
	for name := range want {
		if _, ok := got[name]; !ok {
			lines = append(lines, "lacks "+name)
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "; ")
}

// allowed is what a worker may have open: what the contract gives, what package
// worker asks for, and what Go's runtime and the race detector open. How many of
// each, at the most.
var allowed = []struct {
	target *regexp.Regexp
	most   int
}{
	{regexp.MustCompile(`^/dev/null$`), 1},                 // 0
	{regexp.MustCompile(`^pipe:`), 2 + 1},                  // 1 and 2, and the lifeline
	{regexp.MustCompile(`^socket:`), 1 + 1},                // the listener and the socket of notify
	{regexp.MustCompile(`^/memfd:revenant`), 1},            // the scoreboard
	{regexp.MustCompile(`^anon_inode:\[eventpoll\]$`), 1},  // Go's poller
	{regexp.MustCompile(`^anon_inode:\[eventfd\]$`), 1},    // and what wakes it
	{regexp.MustCompile(`^/sys/fs/cgroup/.*cpu\..*$`), 10}, // Go ≥ 1.25 watches its CPU quota
}

func TestWorkersDescriptorsAreTheContractsAndNoneIsLeaked(t *testing.T) {
	// Whatever the keeper was started with is not for those below.
	i := supervisortest.Start(t, "--workers", "2")
	killMaster(i, t, i.Now()) // also those under a master that was given its descriptors
	s := i.Await("alone", func(s supervisor.Status) bool { return s.Orphans == 0 && isReady(s) && len(s.Workers) == 2 })
	for _, w := range s.Workers {
		open := descriptors(w.PID)
		counts := make([]int, len(allowed))
		for fd, target := range open {
			n := slices.IndexFunc(allowed, func(a struct {
				target *regexp.Regexp
				most   int
			}) bool {
				return a.target.MatchString(target)
			})
			if n < 0 {
				t.Errorf("worker %d has %d open: %s", w.Worker, fd, target)
				continue
			}
			counts[n]++
		}
		for n, count := range counts {
			if count > allowed[n].most {
				t.Errorf("worker %d has %d of %v open, want %d at the most: %v", w.Worker, count, allowed[n].target, allowed[n].most, open)
			}
		}
		if o := fileFlags(t, w.PID, sharedSocket(t, s)); o&unix.O_NONBLOCK == 0 {
			t.Errorf("the listener of worker %d blocks: flags %#o", w.Worker, o)
		}
	}
}

// fileFlags are the flags of an open file of a process.
func fileFlags(t testing.TB, pid int, target string) int {
	t.Helper()
	for fd, is := range descriptors(pid) {
		if is != target {
			continue
		}
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", pid, fd))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if value, ok := strings.CutPrefix(line, "flags:"); ok {
				flags, err := strconv.ParseInt(strings.TrimSpace(value), 8, 64)
				if err != nil {
					t.Fatal(err)
				}
				return int(flags)
			}
		}
	}
	t.Fatalf("process %d does not have %s open", pid, target)
	return 0
}

func TestWorkersAreLeadersOfTheirOwnSessionsAndNameThemselves(t *testing.T) {
	i := supervisortest.Start(t, "--workers", "2")
	s := i.Now()
	for slot, w := range s.Workers {
		if sid, err := unix.Getsid(w.PID); err != nil || sid != w.PID {
			t.Errorf("worker %d is in session %d, %v", w.Worker, sid, err)
		}
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", w.PID))
		if want := fmt.Sprintf("revenant: worker %d slot %d\x00app\x00", w.Worker, slot); string(line) != want {
			t.Errorf("worker %d is called %q, want %q", w.Worker, line, want)
		}
	}
	line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", s.MasterPID))
	if !strings.HasPrefix(string(line), "revenant: master g1\x00run\x00") {
		t.Errorf("the master is called %q", line)
	}
}
