package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
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

// upgraded runs the command and wants it to succeed.
func upgraded(i *supervisortest.Instance, t testing.TB, args ...string) supervisor.Status {
	t.Helper()
	before := i.Now()
	out, errs, code := client(i, t, append([]string{"upgrade"}, args...)...)
	if code != exitOK || !strings.Contains(out, "done: upgrade") {
		t.Fatalf("upgrade exits with %d and says %q, %q", code, out, errs)
	}
	return i.Await("upgraded", func(s supervisor.Status) bool { return s.Generation > before.Generation && isReady(s) })
}

// settled waits until only one generation is left.
func settled(i *supervisortest.Instance, t testing.TB) supervisor.Status {
	t.Helper()
	return i.Await("one generation", func(s supervisor.Status) bool {
		return isReady(s) && s.Orphans == 0 && s.Operation == nil && len(s.Workers) == s.Desired
	})
}

// weight is what must not grow: descriptors of keeper and master, and the size of
// the master's environment.
func weight(s supervisor.Status) [3]int {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", s.MasterPID))
	return [3]int{len(descriptors(s.KeeperPID)), len(descriptors(s.MasterPID)), len(text)}
}

func TestUpgradesUnderLoadLoseNothingAndLeaveNothing(t *testing.T) {
	mark, path := t.TempDir(), filepath.Join(openDir(t), "app.sock")
	i := supervisortest.Begin(t, []string{marker + "=" + mark}, "--workers", "2", "--listen", "tcp://127.0.0.1:0", "--listen", "unix:"+path)
	before := i.Await("ready", isReady)
	inode, _ := os.Lstat(path)
	load := beginLoad(i, t, 3, 3, 0)
	upgraded(i, t)
	first := settled(i, t)
	light := weight(first)
	for range 4 {
		upgraded(i, t)
		settled(i, t)
	}
	report := load.end()
	s := settled(i, t)
	if report.Failed() > 0 {
		t.Errorf("%d requests failed: %v", report.Failed(), report.Failures)
	}
	if s.KeeperPID != before.KeeperPID || s.Generation != 6 || !slices.Equal(s.Listeners, before.Listeners) {
		t.Errorf("after five upgrades %+v, before them %+v", s, before)
	}
	if now, err := os.Lstat(path); err != nil || !os.SameFile(now, inode) {
		t.Errorf("the path of the unix socket is not what it was: %v", err)
	}
	if s.Requests < uint64(report.Sent()) {
		t.Errorf("the instance counts %d requests over all generations, the clients %d", s.Requests, report.Sent())
	}
	if got := s.Workers[0].Worker + s.Workers[1].Worker; got != 11+12 {
		t.Errorf("the workers of the sixth generation are %d and %d, want 11 and 12", s.Workers[0].Worker, s.Workers[1].Worker)
	}
	awaitTrue(t, fmt.Sprintf("keeper and master are as light as after the first upgrade, %v", light), func() bool {
		now := weight(i.Now())
		return now[0] <= light[0] && now[1] <= light[1]+2 && now[2] <= light[2]+2
	})
	if n := len(marked(t, mark)); n != 4 {
		t.Errorf("%d processes are left, want keeper, master and two workers", n)
	}
	for _, w := range s.Workers {
		for name := range environ(w.PID) {
			if strings.HasPrefix(name, "TABLEFLIP") || name == "X_REVENANT_PREDECESSOR" || name == "X_REVENANT_GENERATION" {
				t.Errorf("a worker has %s in its environment", name)
			}
		}
	}
	upgradeLeavesConsecutiveEvents(t, i)
}

// upgradeLeavesConsecutiveEvents checks that the story goes on over an upgrade.
func upgradeLeavesConsecutiveEvents(t *testing.T, i *supervisortest.Instance) {
	t.Helper()
	events := i.Follow()
	last := supervisortest.AwaitEvent(t, events, "the takeover", func(e event.Event) bool { return e.Kind == event.InstanceUpgraded }).ID
	upgraded(i, t)
	taken := false
	supervisortest.AwaitEvent(t, events, "the next takeover, without a gap", func(e event.Event) bool {
		if e.ID != last+1 {
			t.Errorf("event %d follows upon %d", e.ID, last)
		}
		last = e.ID
		taken = taken || e.Kind == event.InstanceUpgraded
		return taken
	})
}

func TestUpgradeTakesWhatIsNowInTheFileAndGoesBackWhenThatIsGone(t *testing.T) {
	program := filepath.Join(t.TempDir(), "revenant")
	copyFile(t, supervisortest.Binary(t), program, 0o755)
	i := supervisortest.BeginProgram(t, program, nil, "--workers", "1")
	first := i.Await("ready", isReady)
	if _, errs, code := client(i, t, "upgrade", "--rollback"); code != exitFailed || !strings.Contains(errs, "there is no program before this one") {
		t.Errorf("a rollback without an upgrade exits with %d and says %q", code, errs)
	}
	copyFile(t, variant(t, "new"), program, 0o755)
	signalNow(t, first.KeeperPID, unix.SIGUSR2)
	second := i.Await("the new version", func(s supervisor.Status) bool { return s.Generation == 2 && s.Version == "defective" && isReady(s) })
	// A master that is killed is followed by one of the version that runs, whatever is in the file.
	if err := os.Remove(program); err != nil {
		t.Fatal(err)
	}
	third := killMaster(i, t, second)
	if third.Version != "defective" {
		t.Errorf("after a kill version %s runs", third.Version)
	}
	fourth := upgraded(i, t, "--rollback")
	if fourth.Version != first.Version || fourth.Upgrade == nil || fourth.Upgrade.Outcome != "done" {
		t.Errorf("after the rollback %+v", fourth)
	}
}

func TestUpgradeFollowsTheLinkThatTheInstanceWasCalledBy(t *testing.T) {
	dir := t.TempDir()
	current := filepath.Join(dir, "current")
	turn := func(to string) {
		t.Helper()
		if err := errors.Join(os.Symlink(to, current+".new"), os.Rename(current+".new", current)); err != nil {
			t.Fatal(err)
		}
	}
	turn(supervisortest.Binary(t))
	i := supervisortest.BeginProgram(t, current, nil, "--workers", "1")
	first := i.Await("ready", isReady)
	turn(variant(t, "new"))
	second := upgraded(i, t)
	if second.Version == first.Version {
		t.Errorf("version %s runs, to which the link does not lead any more", second.Version)
	}
	killMaster(i, t, second)
	turn(supervisortest.Binary(t))
	third := upgraded(i, t)
	if third.Version != first.Version {
		t.Errorf("after a kill and an upgrade version %s runs, want %s", third.Version, first.Version)
	}
	// What is named is what counts from then on.
	named := filepath.Join(dir, "named")
	copyFile(t, variant(t, "new"), named, 0o755)
	upgraded(i, t, "--binary", named)
	copyFile(t, supervisortest.Binary(t), named, 0o755)
	if fifth := upgraded(i, t); fifth.Version != first.Version {
		t.Errorf("version %s runs, and %s is in the file that was named", fifth.Version, first.Version)
	}
}

// busy begins a request, which has to wait for its end, on the newest worker. A
// former one that was asked to leave a moment ago may still accept: then there is
// a request on that one, and another.
func busy(t *testing.T, i *supervisortest.Instance) (held []net.Conn) {
	t.Helper()
	for {
		before := inFlight(i.Now())
		conn, err := net.Dial("tcp", i.Address())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		held = append(held, conn)
		fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n1")
		s := i.Await("busy with the request", func(s supervisor.Status) bool { return inFlight(s) > before })
		if s.Workers[0].InFlight > 0 {
			return held
		}
	}
}

func TestNextUpgradeNeedNotWaitForTheLastConnectionOfTheOneBefore(t *testing.T) {
	i := supervisortest.Start(t, "--workers", "1", "--drain-timeout", "1h")
	const crowd = 4 // that one worker may leave behind
	var held []net.Conn
	for range crowd {
		held = append(held, busy(t, i)...)
		upgraded(i, t)
	}
	s := i.Await("the former workers draining", func(s supervisor.Status) bool { return s.Orphans == crowd })
	if s.Workers[1].Worker != 1 || s.Workers[1].State != "draining" {
		t.Errorf("beside the slot is %+v", s.Workers[1])
	}
	if _, errs, code := client(i, t, "upgrade"); code != exitFailed || !strings.Contains(errs, "4 workers of earlier upgrades still finish their requests") {
		t.Errorf("with many that drain, an upgrade exits with %d and says %q", code, errs)
	}
	for _, conn := range held {
		fmt.Fprint(conn, "2")
		answer := make([]byte, 1024)
		if n, err := conn.Read(answer); err != nil || !bytes.HasPrefix(answer[:n], []byte("HTTP/1.1 200")) {
			t.Errorf("a request of a former generation is answered %q, %v", answer, err)
		}
	}
	settled(i, t)
	upgraded(i, t)
}

// damaged are programs that can be seen to be none, and what is said of them.
func damaged(t *testing.T) map[string]string {
	whole, err := os.ReadFile(supervisortest.Plain(t))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	mode, arch, cut := filepath.Join(dir, "mode"), filepath.Join(dir, "arch"), filepath.Join(dir, "cut")
	write(t, mode, whole, 0o644)
	write(t, cut, whole[:len(whole)/2], 0o755)
	foreign := slices.Clone(whole)
	foreign[18], foreign[19] = 0xf7, 0 // EM_BPF
	write(t, arch, foreign, 0o755)
	return map[string]string{
		filepath.Join(dir, "missing"): "no such file or directory", mode: "is not executable", arch: "is for another machine, bpf, 64 bits", cut: "cut short",
		dir: "is not a file", "/bin/true": "is not a revenant",
	}
}

func TestBadProgramIsRefusedAndNobodyNotices(t *testing.T) {
	mark := t.TempDir()
	i := supervisortest.Begin(t, []string{marker + "=" + mark}, "--workers", "2", "--start-timeout", "4s")
	before := i.Await("ready", isReady)
	bad := damaged(t)
	bad[variant(t, "exits")] = "ended before it was ready: exit status 3"
	bad[variant(t, "hangs")] = "was not ready within the start timeout of 4.0s and was killed"
	bad[variant(t, "never-ready")] = "0 of 2 workers were ready and answered within the start timeout"
	bad[variant(t, "answers-500")] = "does not answer GET /: status 500 Internal Server Error"
	load := beginLoad(i, t, 2, 2, 0)
	keeper := descriptors(before.KeeperPID)
	for path, want := range bad {
		_, errs, code := client(i, t, "upgrade", "--binary", path)
		if code != exitFailed || !strings.Contains(errs, want) || !strings.Contains(errs, "generation 1 goes on as before") {
			t.Errorf("%s: exit code %d, %q, want %q", filepath.Base(path), code, errs, want)
		}
	}
	if report := load.end(); report.Failed() > 0 {
		t.Errorf("%d requests failed: %v", report.Failed(), report.Failures)
	}
	after := i.Now()
	if after.MasterPID != before.MasterPID || after.Workers[0].Worker != 1 || after.Workers[1].Worker != 2 || !isReady(after) || after.Upgrade.Outcome != "failed" {
		t.Errorf("afterwards %+v, before %+v", after, before)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the keeper had %v", keeper)
		}
	})
	awaitTrue(t, "of the refused no process is left", func() bool { return len(marked(t, mark)) == 4 })
	awaitTrue(t, "of the refused the keeper has nothing left", func() bool { return len(descriptors(before.KeeperPID)) <= len(keeper) })
	// The twin: a good one is taken, after all that.
	upgraded(i, t, "--binary", supervisortest.Plain(t))
}

func TestProgramThatCrashesOnProbationIsRolledBack(t *testing.T) {
	for _, defect := range []string{"panics-when-told", "workers-crash-when-told"} {
		t.Run(defect, func(t *testing.T) {
			t.Parallel()
			mark := t.TempDir()
			i := supervisortest.Begin(t, []string{marker + "=" + mark}, "--workers", "2", "--probation", "1h")
			first := i.Await("ready", isReady)
			program := variant(t, defect)
			second := upgraded(i, t, "--binary", program)
			_ = os.Remove(program)
			load := beginLoad(i, t, 2, 0, 0)
			told := time.Now()
			if defect == "panics-when-told" {
				signalNow(t, second.KeeperPID, unix.SIGUSR1)
			} else {
				write(t, filepath.Join(mark, "crash"), nil, 0o600)
			}
			third := i.Await("rolled back", func(s supervisor.Status) bool { return s.Generation > 2 && isReady(s) })
			t.Logf("rolled back and ready after %v", time.Since(told).Round(time.Millisecond))
			if third.Version != first.Version || third.Upgrade == nil || third.Upgrade.Outcome != "rolled back" {
				t.Errorf("after the rollback %+v", third)
			}
			if out, _, _ := client(i, t, "events"); !strings.Contains(out, string(event.InstanceRolledBack)) {
				t.Errorf("events tell of no rollback: %s", out)
			}
			if out, _, _ := client(i, t, "ps"); !strings.Contains(out, "last upgrade rolled back") {
				t.Errorf("ps tells of no rollback: %s", out)
			}
			report := load.end()
			neverRefused(t, report)
			if defect == "panics-when-told" && report.Failed() > 0 {
				t.Errorf("%d requests failed: %v", report.Failed(), report.Failures)
			}
			settled(i, t)
			if s := upgraded(i, t); s.Upgrade.Outcome != "done" {
				t.Errorf("the next upgrade is told as %+v", s.Upgrade)
			}
		})
	}
}
