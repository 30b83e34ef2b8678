package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor"
	"revenant/supervisor/event"
	"revenant/supervisor/supervisortest"
)

// quitWorker makes a Go worker print all its goroutines and end.
func quitWorker(t *testing.T, i *supervisortest.Instance, slot int) (worker uint64) {
	t.Helper()
	events := i.Follow()
	w := i.Now().Workers[slot]
	signalNow(t, w.PID, unix.SIGQUIT)
	supervisortest.AwaitEvent(t, events, "the exit", func(e event.Event) bool { return e.Kind == event.WorkerExited && e.Worker == w.Worker })
	return w.Worker
}

// record is a line of the log, as a program reads it.
type record struct {
	Time      time.Time
	Level     string
	Msg       string
	Component string
	Revenant  *struct {
		Worker           uint64
		Slot, Generation int
		Stream           string
		Time             time.Time
	}
}

func records(t *testing.T, lines []string) (all []record) {
	t.Helper()
	for _, line := range lines {
		var r record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("not JSON: %s", line)
		}
		all = append(all, r)
	}
	return all
}

func TestWhatWorkersPrintIsInTheLogAndInLogs(t *testing.T) {
	i := supervisortest.Start(t, "--workers", "2")
	worker := quitWorker(t, i, 1)
	out, errs, code := client(i, t, "logs", fmt.Sprint(worker))
	lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	if want := regexp.MustCompile(`^\d\d:\d\d:\d\d\.\d{3} g1 s1 w\d+ err \| SIGQUIT: quit$`); code != 0 || errs != "" || !want.MatchString(lines[0]) || len(lines) < 20 {
		t.Fatalf("logs exits with %d and says %s%s", code, errs, out)
	}
	for _, c := range []struct {
		args []string
		n    int
	}{
		{[]string{"-n", "3"}, 3}, {[]string{"-n", "0"}, 0}, {[]string{"--grep", "^SIGQUIT"}, 1}, {[]string{"--grep", "no such line"}, 0},
		{[]string{"--since", "1h"}, len(lines)}, {[]string{"--since", "2100-01-01T00:00:00Z"}, 0}, {[]string{"2"}, len(lines)}, {[]string{"1"}, 0},
	} {
		if out, _, code := client(i, t, append([]string{"logs"}, c.args...)...); strings.Count(out, "\n") != c.n || code != 0 {
			t.Errorf("logs %v prints %d lines and exits with %d, want %d", c.args, strings.Count(out, "\n"), code, c.n)
		}
	}
	out, _, _ = client(i, t, "logs", "-o", "json", "--grep", "SIGQUIT")
	r := records(t, strings.Split(strings.TrimSpace(out), "\n"))[0]
	if r.Revenant == nil || r.Revenant.Worker != worker || r.Revenant.Slot != 1 || r.Revenant.Stream != "stderr" || r.Msg != "SIGQUIT: quit" {
		t.Errorf("as JSON: %s", out)
	}
	signalNow(t, i.Command.Process.Pid, unix.SIGTERM)
	i.Wait()
	found := 0
	for _, r := range records(t, strings.Split(strings.TrimSpace(i.Log()), "\n")) {
		if r.Revenant != nil && r.Revenant.Worker == worker && r.Component == "worker" {
			found++
		}
	}
	if found != len(lines) {
		t.Errorf("the instance's log has %d lines of the worker, and logs showed %d", found, len(lines))
	}
}

func TestLogsAreFollowedOverTheDeathOfTheMaster(t *testing.T) {
	i := supervisortest.Start(t, "--workers", "2")
	quitWorker(t, i, 0)
	logs := beginClient(t, i, "logs", "-f", "-n", "1")
	logs.await(t, "the last line there was", func(line string) bool { return strings.Contains(line, " g1 s0 w1 err | ") })
	killMaster(i, t, i.Now())
	i.Await("ready", func(s supervisor.Status) bool { return isReady(s) && s.Generation == 2 && s.Orphans == 0 })
	worker := quitWorker(t, i, 1)
	logs.await(t, "what a later worker prints", func(line string) bool {
		return strings.HasSuffix(line, fmt.Sprintf(" g2 s1 w%d err | SIGQUIT: quit", worker))
	})
	signalNow(t, i.Command.Process.Pid, unix.SIGTERM)
	i.Wait()
	if err := logs.Wait(); err != nil {
		t.Errorf("logs -f ends with %v", err)
	}
}

func TestOrphanGoesOnPrintingAndIsHeardByTheNextMaster(t *testing.T) {
	i := supervisortest.Start(t, "--workers", "2")
	s := i.Now()
	signalNow(t, s.MasterPID, unix.SIGKILL)
	signalNow(t, s.Workers[0].PID, unix.SIGQUIT) // while nobody reads, or just after
	i.Await("ready again", func(s supervisor.Status) bool { return isReady(s) && s.Generation == 2 })
	awaitTrue(t, "what the orphan printed", func() bool {
		out, _, _ := client(i, t, "logs", "1", "--grep", "^SIGQUIT")
		return strings.HasSuffix(out, " g1 s0 w1 err | SIGQUIT: quit\n")
	})
}

func TestPassthroughGivesWorkersOurStderrUntouched(t *testing.T) {
	i := supervisortest.Start(t, "--workers", "1", "--log-passthrough")
	w := i.Now().Workers[0]
	if theirs, ours := descriptors(w.PID), descriptors(i.Command.Process.Pid); theirs[1] != ours[1] || theirs[2] != ours[2] {
		t.Errorf("the worker prints into %s and %s, the instance into %s and %s", theirs[1], theirs[2], ours[1], ours[2])
	}
	quitWorker(t, i, 0)
	if !strings.Contains(i.Log(), "\nSIGQUIT: quit\n") && !strings.HasPrefix(i.Log(), "SIGQUIT: quit\n") {
		t.Errorf("the line is not in the log as it was printed:\n%s", i.Log())
	}
	out, errs, code := client(i, t, "logs")
	if code != exitFailed || out != "" || !strings.Contains(errs, "--log-passthrough") {
		t.Errorf("logs exits with %d and says %s%s", code, out, errs)
	}
}

func TestLogsRefusesWhatItCannotUnderstand(t *testing.T) {
	for _, c := range []struct {
		args []string
		says []string
	}{
		{[]string{"logs", "first"}, []string{"WORKER first: ", "(see revenant ps)"}},
		{[]string{"logs", "1", "2"}, []string{"revenant logs --help"}},
		{[]string{"logs", "-n", "few"}, []string{"--lines few: ", "(write it like 20"}},
		{[]string{"logs", "--since", "yesterday"}, []string{"--since yesterday: ", "(write it like 10m"}},
		{[]string{"logs", "--grep", "a("}, []string{"--grep a(: ", "(see "}},
		{[]string{"logs", "-o", "xml"}, []string{"--output xml: ", "(use text, json)"}},
	} {
		out, errs, code := supervisortest.Run(t, nil, c.args...)
		checkOneLine(t, out, errs, code, wrong{code: 2, says: c.says})
	}
	i := supervisortest.Start(t, "--workers", "1")
	if _, errs, code := client(i, t, "logs", "99"); code != exitFailed || errs != "revenant: there is no worker 99 (see revenant ps)\n" {
		t.Errorf("logs of nobody exits with %d and says %s", code, errs)
	}
}

// Some programs open /dev/stderr anew, which for a pipe asks for the rights on it.
func TestWorkerOfAnotherUserMayOpenItsOutputAgain(t *testing.T) {
	needRoot(t)
	i := supervisortest.Begin(t, nil, "--workers", "1", "--user", fmt.Sprint(nobody), "--group", fmt.Sprint(nobody), "--chdir", "/",
		"--", "sh", "-c", "echo hello >/dev/stderr; exec sleep 60")
	awaitTrue(t, "the line", func() bool {
		out, _, _ := client(i, t, "logs", "-n", "1")
		return strings.HasSuffix(out, " g1 s0 w1 err | hello\n")
	})
}

// flooding prints more than a master keeps, but for the first worker.
const flooding = `echo hello
[ "$REVENANT_WORKER" = 1 ] || { seq -f "a line that is as long as many others %.0f" 100000; echo "all of it"; }
exec sleep 600`

func TestReaderThatComesLateToTheNextMasterIsToldWhatItMissed(t *testing.T) {
	i := supervisortest.Start(t, "--workers", "1", "--ready", "delay:10ms", "--", "sh", "-c", flooding)
	logs := exec.Command(supervisortest.Binary(t), "logs", "-f", "--grep", "^hello|^all", "--runtime-dir", i.Dir, "--name", i.Name)
	said := new(supervisortest.Log)
	logs.Stdout, logs.Stderr = said, said
	if err := logs.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = logs.Process.Kill(); _ = logs.Wait() })
	awaitTrue(t, "the first line", func() bool { return strings.Contains(said.String(), " | hello\n") })
	signalNow(t, logs.Process.Pid, unix.SIGSTOP)
	killMaster(i, t, i.Now())
	awaitTrue(t, "the last line", func() bool {
		out, _, _ := client(i, t, "logs", "-n", "1", "--grep", "^all of it$")
		return out != ""
	})
	signalNow(t, logs.Process.Pid, unix.SIGCONT)
	awaitTrue(t, "the last line, followed", func() bool { return strings.HasSuffix(said.String(), " | all of it\n") })
	if !strings.Contains(said.String(), " lines are missing here") {
		t.Error("of 100,000 lines most have left the ring, and nobody says so")
	}
}

// counting prints numbered lines, and goes on when it is asked to drain.
const counting = `trap "" TERM
while :; do
	for k in 1 2 3 4 5 6 7 8 9 10; do i=$((i+1)); echo "n $REVENANT_WORKER $i end"; done
	sleep 0.005
done`

// gaps tells where numbered lines are missing or torn, by worker.
func gaps(lines []string) (wrong []string) {
	numbered := regexp.MustCompile(`\bn (\d+) (\d+) end$`)
	last := map[string]int{}
	for _, line := range lines {
		m := numbered.FindStringSubmatch(line)
		if m == nil {
			wrong = append(wrong, fmt.Sprintf("%q", line))
			continue
		}
		n, _ := strconv.Atoi(m[2])
		if had := last[m[1]]; had != 0 && n != had+1 {
			wrong = append(wrong, fmt.Sprintf("worker %s: %d after %d", m[1], n, had))
		}
		last[m[1]] = n
	}
	return wrong
}

func TestNoLineIsLostOrTornAtAnUpgrade(t *testing.T) {
	i := supervisortest.Start(t, "--workers", "2", "--ready", "delay:50ms", "--liveness", "0s", "--drain-timeout", "1s", "--", "sh", "-c", counting)
	shown := filepath.Join(t.TempDir(), "shown") // a reader that is never slow
	file, err := os.Create(shown)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	logs := exec.Command(supervisortest.Binary(t), "logs", "-f", "--runtime-dir", i.Dir, "--name", i.Name)
	logs.Stdout, logs.Stderr = file, file
	if err := logs.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = logs.Process.Kill(); _ = logs.Wait() })
	for range 3 {
		newest := fmt.Sprintf("| n %d ", i.Now().Workers[0].Worker)
		awaitTrue(t, "a line of the newest generation", func() bool {
			text, _ := os.ReadFile(shown)
			return strings.Contains(string(text), newest)
		})
		upgraded(i, t)
	}
	signalNow(t, i.Command.Process.Pid, unix.SIGTERM)
	i.Wait()
	if err := logs.Wait(); err != nil {
		t.Errorf("logs -f ends with %v", err)
	}
	text, _ := os.ReadFile(shown)
	followed := strings.Split(strings.TrimSpace(string(text)), "\n")
	if wrong := gaps(followed); len(wrong) > 0 {
		t.Errorf("of %d lines that logs -f shows are wrong: %v", len(followed), wrong)
	}
	var logged []string
	for _, r := range records(t, strings.Split(strings.TrimSpace(i.Log()), "\n")) {
		if r.Revenant != nil {
			logged = append(logged, r.Msg)
		}
	}
	if wrong := gaps(logged); len(wrong) > 0 || len(logged) == 0 {
		t.Errorf("of %d lines in the log are wrong: %v", len(logged), wrong)
	}
}
