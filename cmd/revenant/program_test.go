package main

import (
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"revenant/scripts/ledger"
	"revenant/supervisor"
	"revenant/supervisor/event"
	"revenant/supervisor/supervisortest"
)

// runActor is a ready instance of a program that knows nothing of revenant.
func runActor(t *testing.T, flags []string, deeds ...string) *supervisortest.Instance {
	t.Helper()
	return supervisortest.Start(t, append(flags, actor(t, deeds...)...)...)
}

// dump is a shell's script that writes down how it was started. It reads its status
// itself: while a shell starts another program it blocks all signals.
const dump = `cat /proc/$$/environ >"$OUT/environ"; (ls -l /proc/$$/fd >"$OUT/fds"); while IFS= read -r line; do echo "$line"; done </proc/$$/status >"$OUT/status"; cat /proc/$$/limits >"$OUT/limits"; readlink /proc/$$/cwd >"$OUT/cwd"; echo $$ >"$OUT/pid"; `

// started is what dump wrote.
type started struct {
	t   *testing.T
	dir string
}

func (s started) read(name string) string {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil {
		s.t.Fatal(err)
	}
	return string(text)
}

func (s started) environ() map[string]string {
	vars := map[string]string{}
	for line := range strings.SplitSeq(s.read("environ"), "\x00") {
		if name, value, ok := strings.Cut(line, "="); ok {
			vars[name] = value
		}
	}
	return vars
}

var listedFile = regexp.MustCompile(`(?m) (\d+) -> (\S+)$`)

// files are the open files by number: "socket" or what else they are. Where the
// output goes is another matter.
func (s started) files() map[int]string {
	open := map[int]string{}
	for _, m := range listedFile.FindAllStringSubmatch(s.read("fds"), -1) {
		fd, _ := strconv.Atoi(m[1])
		open[fd], _, _ = strings.Cut(m[2], ":")
		if fd == 1 || fd == 2 {
			open[fd] = "output"
		}
	}
	return open
}

// status is a line of /proc/PID/status.
func (s started) status(field string) string {
	for line := range strings.Lines(s.read("status")) {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			return strings.Join(strings.Fields(value), " ")
		}
	}
	return "none"
}

// inherited are the fields of the status that a program has from whoever starts it.
var inherited = []string{"SigBlk", "SigIgn", "Umask", "NoNewPrivs", "Uid", "Gid", "CapEff"}

// surroundings are all that the program was started with, but for the names that are
// this worker's alone.
func (s started) surroundings() map[string]string {
	all := map[string]string{"cwd": s.read("cwd"), "limits": s.read("limits")}
	for name, value := range s.environ() {
		if !slices.Contains([]string{"REVENANT_WORKER", "LISTEN_PID", "WATCHDOG_PID"}, name) {
			all["$"+name] = value
		}
	}
	for fd, what := range s.files() {
		all[fmt.Sprintf("descriptor %d", fd)] = what
	}
	for _, field := range inherited {
		all[field] = s.status(field)
	}
	return all
}

// dumped runs an instance of one worker whose program writes down how it was
// started and then serves.
func dumped(t *testing.T, env, flags []string) started {
	t.Helper()
	s, i := dumpedAs(t, env, flags, actor(t, "serve={fd}")[1:])
	pid := i.Now().Workers[0].PID
	if answer := get(t, i.URL()); answer != fmt.Sprintln(pid) {
		t.Errorf("the program answers %q, want its pid, %d", answer, pid)
	}
	return s
}

func dumpedAs(t *testing.T, env, flags, program []string) (started, *supervisortest.Instance) {
	t.Helper()
	dir := openDir(t)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	args := append(append([]string{"--workers=1"}, flags...), "--", "sh", "-c", dump+`exec "$0" "$@"`)
	i := supervisortest.Begin(t, append(env, "OUT="+dir), append(args, program...)...)
	i.Await("ready", isReady)
	return started{t, dir}, i
}

func get(t testing.TB, url string) string {
	t.Helper()
	c := http.Client{Timeout: supervisortest.Patience, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// The worker contract is systemd's, and systemd's own tool is the judge of it.
func TestProgramIsStartedAsAServiceOfSystemdIs(t *testing.T) {
	ours := dumped(t, append([]string{"OPERATORS_OWN=kept"}, levelAbove...), nil)
	env := ours.environ()
	if env["LISTEN_PID"] != strings.TrimSpace(ours.read("pid")) || env["LISTEN_FDS"] != "1" || env["LISTEN_FDNAMES"] != "tcp%3A//127.0.0.1%3A0" {
		t.Errorf("LISTEN_PID=%s LISTEN_FDS=%s LISTEN_FDNAMES=%s", env["LISTEN_PID"], env["LISTEN_FDS"], env["LISTEN_FDNAMES"])
	}
	for name := range env {
		if strings.HasPrefix(name, "X_REVENANT") || strings.HasPrefix(name, "TABLEFLIP") || strings.HasPrefix(name, "FDSTORE") {
			t.Errorf("the program has %s=%s", name, env[name])
		}
	}
	if env["WATCHDOG_USEC"] != "60000000" || env["WATCHDOG_PID"] != env["LISTEN_PID"] {
		t.Errorf("WATCHDOG_USEC=%s WATCHDOG_PID=%s", env["WATCHDOG_USEC"], env["WATCHDOG_PID"])
	}
	if env["OPERATORS_OWN"] != "kept" || env["REVENANT_SLOT"] != "0" || env["REVENANT_WORKER"] != "1" {
		t.Errorf("the environment is %v", env)
	}
	if _, err := exec.LookPath("systemd-socket-activate"); err != nil {
		t.Skip("SKIPPED, NOT TESTED: that a program's descriptors and environment are those of a service needs systemd-socket-activate (package systemd)")
	}
	theirs := activated(t)
	if got, want := ours.files(), theirs.files(); !maps.Equal(got, want) {
		t.Errorf("open files %v, a service's %v", got, want)
	}
	for _, field := range inherited {
		if got, want := ours.status(field), theirs.status(field); got != want {
			t.Errorf("%s is %s, a service's %s", field, got, want)
		}
	}
	if got, want := ours.read("limits"), theirs.read("limits"); got != want {
		t.Errorf("limits\n%s\na service's\n%s", got, want)
	}
	// Of the variables of its own, ours are the documented ones.
	for name := range theirs.environ() {
		if _, has := env[name]; !has && !slices.Contains([]string{"LISTEN_PIDFDID"}, name) {
			t.Errorf("a service has %s, the program has not", name)
		}
	}
}

// reloads is how many of them a program must not notice.
const reloads = 100

func TestProgramIsStartedAfterAHundredReloadsUnderLoadAsTheFirstWas(t *testing.T) {
	s, i := dumpedAs(t, nil, nil, actor(t, "serve={fd}")[1:])
	first := s.surroundings()
	load, events := beginLoad(i, t, 2, 2, 100), i.Follow()
	for range reloads {
		signalNow(t, i.Command.Process.Pid, unix.SIGHUP)
		supervisortest.AwaitEvent(t, events, "the reload's end", isReloadsEnd)
	}
	if r := load.end(); r.Counts[ledger.Answered] < reloads {
		t.Errorf("the load was %v", &r)
	}
	if worker := s.environ()["REVENANT_WORKER"]; worker != strconv.Itoa(reloads+1) {
		t.Errorf("the last one is worker %s", worker)
	}
	if last := s.surroundings(); !maps.Equal(last, first) {
		t.Errorf("after %d reloads a program is started with other surroundings than the first: %s", reloads, difference(last, first))
	}
}

// The twin: what a reload changes on purpose is seen.
func TestSurroundingsThatAReloadChangedAreSeen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "revenant.toml")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("")
	s, i := dumpedAs(t, nil, []string{"--config", path}, actor(t, "serve={fd}")[1:])
	first := s.surroundings()
	write("env = [\"ADDED=1\"]\nfd = [\"5\"]\numask = \"027\"\nlimit = [\"nofile=500\"]\n")
	if out, errs, code := client(i, t, "reload"); code != exitOK {
		t.Fatalf("reload: code %d\n%s%s", code, out, errs)
	}
	said := difference(s.surroundings(), first)
	for _, what := range []string{"has $ADDED=1", "has descriptor 5=socket", "lacks descriptor 3", "Umask=", "limits="} {
		if !strings.Contains(said, what) {
			t.Errorf("nothing is said of %q: %s", what, said)
		}
	}
}

// activated is the same program started by systemd's own tool.
func activated(t *testing.T) started {
	t.Helper()
	dir, address := openDir(t), supervisortest.FreeAddress(t)
	c := exec.Command("systemd-socket-activate", "-l", address, "--fdname=web", "--setenv=OUT="+dir, "sh", "-c", dump)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill() })
	awaitTrue(t, "systemd-socket-activate listens", func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	if err := c.Wait(); err != nil {
		t.Fatal(err)
	}
	return started{t, dir}
}

func TestProgramsSurroundingsAreWhatTheOperatorAskedFor(t *testing.T) {
	dir := openDir(t)
	s := dumped(t, []string{"REVENANT_ENV=ONE=1\nTWO=w{worker} s{slot} g{generation}", "GOMAXPROCS=7"},
		[]string{"--chdir", dir, "--umask=027", "--limit=nofile=500:600,core=0", "--limit", "stack=8M", "--env=FD={fd}"})
	env := s.environ()
	if env["ONE"] != "" || env["FD"] != "3" { // the flag wins over the variable
		t.Errorf("ONE=%q FD=%q", env["ONE"], env["FD"])
	}
	if env["GOMAXPROCS"] != "7" || env["GOMEMLIMIT"] != os.Getenv("GOMEMLIMIT") {
		t.Errorf("GOMAXPROCS=%s and GOMEMLIMIT=%s are not the operator's", env["GOMAXPROCS"], env["GOMEMLIMIT"])
	}
	if env["PWD"] != dir || strings.TrimSpace(s.read("cwd")) != dir {
		t.Errorf("PWD=%q, in %q, want %q", env["PWD"], s.read("cwd"), dir)
	}
	if s.status("Umask") != "0027" {
		t.Errorf("umask %s", s.status("Umask"))
	}
	for _, want := range []string{`Max open files +500 +600 `, `Max core file size +0 +0 `, `Max stack size +8388608 +8388608 `} {
		if !regexp.MustCompile(want).MatchString(s.read("limits")) {
			t.Errorf("the limits are not %q:\n%s", want, s.read("limits"))
		}
	}
	s = dumped(t, []string{"REVENANT_ENV=ONE=1\nTWO=w{worker} s{slot} g{generation}"}, nil)
	if env := s.environ(); env["ONE"] != "1" || env["TWO"] != "w1 s0 g1" {
		t.Errorf("ONE=%q TWO=%q", env["ONE"], env["TWO"])
	}
}

func TestListenersStandWhereTheOperatorPutsThem(t *testing.T) {
	path := filepath.Join(openDir(t), "s.sock")
	s := dumped(t, nil, []string{"--listen=tcp://127.0.0.1:0", "--listen=unix:" + path, "--fd=0,7=unix:" + path, "--env=AT={fd}"})
	open, env := s.files(), s.environ()
	if open[0] != "socket" || open[7] != "socket" || len(open) != 4 {
		t.Errorf("open files %v, want listeners on 0 and 7", open)
	}
	if env["AT"] != "0" || env["LISTEN_FDS"] != "" || env["LISTEN_PID"] != "" {
		t.Errorf("AT=%s, LISTEN_FDS=%s, LISTEN_PID=%s", env["AT"], env["LISTEN_FDS"], env["LISTEN_PID"])
	}
	path += "2"
	s = dumped(t, nil, []string{"--listen=tcp://127.0.0.1:0", "--listen=unix:" + path, "--fd=3=unix:" + path, "--env=AT={fd}"})
	if env := s.environ(); env["AT"] != "4" || env["LISTEN_FDNAMES"] != "unix%3A"+path+":tcp%3A//127.0.0.1%3A0" {
		t.Errorf("AT=%s, LISTEN_FDNAMES=%s", env["AT"], env["LISTEN_FDNAMES"])
	}
}

func TestProgramOfAnotherUserHasNoRightsLeft(t *testing.T) {
	needRoot(t)
	program := []string{supervisortest.Binary(t), "app"}
	s, _ := dumpedAs(t, nil, []string{"--user=nobody"}, program)
	for field, want := range map[string]string{
		"Uid": "65534 65534 65534 65534", "Gid": "65534 65534 65534 65534", "Groups": "65534",
		"CapPrm": "0000000000000000", "CapEff": "0000000000000000", "CapAmb": "0000000000000000",
	} {
		if got := s.status(field); got != want {
			t.Errorf("%s is %s, want %s", field, got, want)
		}
	}
	if env := s.environ(); env["USER"] != "nobody" || env["LOGNAME"] != "nobody" || env["HOME"] == os.Getenv("HOME") {
		t.Errorf("USER=%s LOGNAME=%s HOME=%s", env["USER"], env["LOGNAME"], env["HOME"])
	}
	s, _ = dumpedAs(t, nil, []string{"--user=1234", "--group=4321"}, program)
	if uid, gid, groups := s.status("Uid"), s.status("Gid"), s.status("Groups"); uid != "1234 1234 1234 1234" || gid != "4321 4321 4321 4321" || groups != "" {
		t.Errorf("user %s, group %s, groups %s", uid, gid, groups)
	}
}

// The built-in application takes the same step when it needs one.
func TestBuiltInApplicationGivesUpItsRightsToo(t *testing.T) {
	needRoot(t)
	i := supervisortest.Start(t, "--workers=1", "--user=nobody", "--umask=077")
	pid := i.Now().Workers[0].PID
	if uid := statusField(t, pid, "Uid"); uid != nobody {
		t.Errorf("the worker's user is %d", uid)
	}
	if answer := get(t, i.URL()); !strings.HasPrefix(answer, "Hello, I am worker [1]") {
		t.Errorf("it answers %q", answer)
	}
	if out, errs, code := client(i, t, "ps"); code != 0 || !strings.HasPrefix(out, "READY 1/1") {
		t.Errorf("ps: %d %s%s", code, out, errs)
	}
}

func TestCommandThatCannotBeStartedIsOneLineBeforeAnythingBegins(t *testing.T) {
	dir := openDir(t)
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	plain, orphaned := write("plain", "#!/bin/sh\n", 0o644), write("orphaned", "#!/no/interpreter -x\n", 0o755)
	here := func(says ...string) wrong { return wrong{code: 2, says: says} }
	for _, c := range []struct {
		command []string
		flags   []string
		wrong
	}{
		{[]string{"--", "no-such-command"}, nil, here("no-such-command", "in PATH", "(install it")},
		{[]string{"--", "/no/such/command"}, nil, here("/no/such/command", "no such file", "(check the spelling")},
		{[]string{"--", plain}, nil, here(plain, "permission denied", "chmod +x")},
		{[]string{"--", dir}, nil, here(dir, "no regular file")},
		{[]string{"--", orphaned}, nil, here(orphaned, "its interpreter /no/interpreter", "no such file")},
		{[]string{"--", ""}, nil, here("command is empty")},
		{[]string{"sh"}, nil, here(`"sh"`, "behind --")},
		{[]string{"--", "sh"}, []string{"--env=PATH=/nowhere"}, here("sh", `"/nowhere"`)},
		{[]string{"--", "./plain"}, []string{"--chdir=" + dir}, here("plain", "permission denied")},
	} {
		c.name, c.args = strings.Join(append(c.flags, c.command...), " "), append(c.flags, c.command...)
		t.Run(c.name, func(t *testing.T) { expectWrong(t, c.wrong) })
	}
}

// What only the exec itself finds out is told as the cause of a failed start.
func TestProgramThatCannotBecomeIsAFailedStartWithTheReason(t *testing.T) {
	script := filepath.Join(openDir(t), "script")
	if err := os.WriteFile(script, []byte("echo no first line that names a shell\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	i := supervisortest.Begin(t, nil, "--workers=1", "--", script)
	if code := i.Wait(); code != exitNoWorker {
		t.Errorf("exit code %d, want %d", code, exitNoWorker)
	}
	for _, word := range []string{`"cause":"cannot-start"`, "exec format error (a script needs a first line", "no worker became ready: slot 0: cannot-start: cannot execute " + script} {
		if !strings.Contains(i.Log(), word) {
			t.Errorf("the log does not say %q:\n%s", word, i.Log())
		}
	}
}

func TestProgramThatBreaksLaterHealsWhenItIsRepaired(t *testing.T) {
	link := filepath.Join(openDir(t), "program")
	point := func(target string) {
		_ = os.Remove(link + ".new")
		if err := os.Symlink(target, link+".new"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(link+".new", link); err != nil {
			t.Fatal(err)
		}
	}
	binary := actor(t)[1]
	point(binary)
	i := supervisortest.Start(t, "--workers=2", "--", link, asProgram, "serve")
	events := i.Follow()
	point("/no/such/program")
	first := i.Now().Workers[0]
	signalNow(t, first.PID, unix.SIGKILL)
	e := supervisortest.AwaitEvent(t, events, "the failed start", func(e event.Event) bool {
		return e.Kind == event.WorkerExited && e.Cause == "cannot-start"
	})
	if !strings.Contains(e.Message, link) || !strings.Contains(e.Message, "no such file") {
		t.Errorf("it says %q", e.Message)
	}
	if answer := get(t, i.URL()); answer == fmt.Sprintln(first.PID) {
		t.Errorf("the dead one answers") // and not its sibling
	}
	point(binary)
	i.Await("healed", isReady)
}

func TestStopSignalIsTheOneThatTheProgramKnows(t *testing.T) {
	notes := filepath.Join(openDir(t), "notes")
	i := runActor(t, []string{"--workers=2", "--stop-signal=QUIT"}, "note="+notes, "forget", "serve")
	heard := func() string { text, _ := os.ReadFile(notes); return string(text) }

	s := i.Now()
	if _, errs, code := client(i, t, "kill", fmt.Sprint(s.Workers[0].Worker)); code != 0 {
		t.Fatal(errs)
	}
	awaitTrue(t, "the master asks with QUIT", func() bool { return heard() == "SIGQUIT\n" })

	// The keeper asks workers of a dead master, whom it cannot know by their
	// environment, for they wrote over it.
	s = i.Await("healed", isReady)
	killMaster(i, t, s)
	i.Await("alone", func(n supervisor.Status) bool { return isReady(n) && n.Orphans == 0 && len(n.Workers) == 2 })
	awaitTrue(t, "the keeper asks with QUIT", func() bool { return heard() == strings.Repeat("SIGQUIT\n", 3) })
	i.Command.Process.Signal(unix.SIGTERM)
	if code := i.Wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if heard() != strings.Repeat("SIGQUIT\n", 5) {
		t.Errorf("the programs heard %q", heard())
	}
}

// The keeper outlives every setting, and is told those that concern it.
func TestKeeperAsksWithTheStopSignalOfTheLastReload(t *testing.T) {
	notes, path := filepath.Join(openDir(t), "notes"), configured(t, "workers = 1\n")
	i := runActor(t, []string{"--config", path}, "note="+notes, "serve")
	heard := func() string { text, _ := os.ReadFile(notes); return string(text) }
	reconfigure(t, path, "workers = 1\nstop-signal = 'QUIT'\n")
	if _, errs, code := client(i, t, "reload"); code != exitOK {
		t.Fatal(errs)
	}
	awaitTrue(t, "the one from before hears what was said of it", func() bool { return heard() == "SIGTERM\n" })
	killMaster(i, t, i.Await("settled", isReady))
	awaitTrue(t, "the keeper asks with QUIT", func() bool { return heard() == "SIGTERM\nSIGQUIT\n" })
}

func TestOnlyProgramsWithPackageWorkerAreToldTheirShare(t *testing.T) {
	shell, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	if usesPackageWorker(shell) || usesPackageWorker("/no/such/program") || !usesPackageWorker(supervisortest.Binary(t)) {
		t.Errorf("sh %t, none %t, revenant %t", usesPackageWorker(shell), usesPackageWorker("/no/such/program"), usesPackageWorker(supervisortest.Binary(t)))
	}
}

// A daemon leaves its parent, its session and its process group, and may even
// write over its environment. With the worker it goes all the same.
func TestNothingThatAWorkerLeftBehindHoldsTheListener(t *testing.T) {
	notes := filepath.Join(openDir(t), "notes")
	i := runActor(t, []string{"--workers=2"}, "note="+notes, "daemon=hang", "daemon=forget,hang", "serve")
	events := i.Follow()
	s := i.Now()
	socket := sharedSocket(t, s)
	holders := func() (pids []int) {
		for _, pid := range numbers("/proc") {
			if slices.Contains(slices.Collect(maps.Values(descriptors(pid))), socket) {
				pids = append(pids, pid)
			}
		}
		return pids
	}
	// Keeper, master, and of each worker itself and two daemons.
	awaitTrue(t, "both workers have daemons", func() bool { return len(holders()) == 2+2*3 })
	before := holders()
	victim, sibling := s.Workers[0].PID, s.Workers[1].PID
	signalNow(t, victim, unix.SIGKILL)
	e := supervisortest.AwaitEvent(t, events, "the warning", func(e event.Event) bool { return e.Kind == event.Warning && e.PID == victim })
	if !strings.Contains(e.Message, "left processes behind") || !strings.Contains(e.Message, "foreground") {
		t.Errorf("the warning says %q", e.Message)
	}
	i.Await("healed", isReady)
	awaitTrue(t, "the new worker has daemons", func() bool { return len(holders()) == 2+2*3 })
	kept := 0
	for _, pid := range holders() {
		if slices.Contains(before, pid) {
			kept++
		}
	}
	if kept != 2+3 || !slices.Contains(holders(), sibling) {
		t.Errorf("of %v before, %v are left: want the sibling's (%d) and neither of the victim's (%d)", before, holders(), sibling, victim)
	}
	i.Command.Process.Signal(unix.SIGTERM)
	i.Wait()
	if left := holders(); len(left) > 0 {
		t.Errorf("processes %v hold the listener after the end", left)
	}
}
