package main

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"revenant/supervisor/supervisortest"
)

// wrong is a way to begin that must fail with one line.
type wrong struct {
	name string
	args []string
	env  []string
	code int
	says []string // name, value, cause, remedy
}

// of is the same with another part of the value in the message.
func (w wrong) of(value string) wrong {
	w.says[len(w.says)-1] = value
	return w
}

func TestWrongBeginningIsOneLineThatSaysWhatToDoAndLeavesNothing(t *testing.T) {
	held := holdPort(t)
	dir := openDir(t)
	held2 := filepath.Join(dir, "held.sock")
	holdPath(t, held2)
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, []byte(" \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	flag := func(name, value string, code int, says ...string) wrong {
		return wrong{name: "--" + name + " " + value, args: []string{"--" + name + "=" + value}, code: code, says: append(says, "--"+name+" "+value+": ")}
	}
	variable := func(name, value string, code int, says ...string) wrong {
		return wrong{name: name + "=" + value, env: []string{name + "=" + value}, code: code, says: append(says, name+" "+value+": ")}
	}
	for _, w := range []wrong{
		flag("workers", "0", 2, "at least 1", "(write auto"),
		flag("workers", "many", 2, "not a number", "(write auto"),
		flag("workers", "5000", 2, "more than 512", "("),
		flag("workers", "auto/0", 2, "cannot divide", "(write auto"),
		variable("REVENANT_WORKERS", "-3", 2, "(write auto"),
		flag("listen", "3000", 2, "a port alone", "(write tcp://127.0.0.1:3000"),
		flag("listen", "tcp://127.0.0.1:99999", 2, "not a port", "(write a number"),
		flag("listen", "unix:relative.sock", 2, "not absolute", "(write unix:/PATH)"),
		flag("listen", "unix:/tmp/"+strings.Repeat("x", 120), 2, "bytes", "("),
		flag("listen", "tcp://"+held, 12, "address already in use", "held by", "choose another port"),
		variable("REVENANT_LISTEN", "tcp://"+held, 12, "address already in use", "choose another port"),
		flag("listen", "unix:"+held2, 12, "address already in use", "choose another path"),
		flag("listen", "unix:"+empty, 12, "cannot bind", "something else is there", "(choose another path or remove it)"),
		flag("listen", "unix:"+dir+"/missing/x.sock", 12, "no such file or directory", "create it"),
		flag("listen", "tcp://192.0.2.1:80", 12, "cannot assign", "ip address"),
		{name: "one address twice", args: []string{"--listen=tcp://127.0.0.1:0", "--listen=tcp://127.0.0.1:0"}, code: 2, says: []string{"--listen tcp://127.0.0.1:0: ", "given twice", "(remove one)"}},
		flag("name", "a/b", 2, "not a name", "(use up to 64"),
		variable("REVENANT_NAME", "..", 2, "not a name", "(use up to 64"),
		flag("start-timeout", "30", 2, "not a positive duration", "(write it like 30s"),
		variable("REVENANT_DRAIN_TIMEOUT", "0s", 2, "not a positive duration", "(write it like 30s"),
		flag("pre-stop", "-1s", 2, "not a duration", "(write it like 30s"),
		flag("max-age", "soon", 2, "not a duration", "or 0s for none"),
		flag("max-requests", "-1", 2, "not a number", "(write it like 10000"),
		flag("max-memory", "lots", 2, "not a size", "(write it like 512M"),
		flag("max-memory", "9999999999G", 2, "not a size", "(write it like 512M"),
		flag("probation", "long", 2, "not a duration", "or 0s for none"),
		flag("probe-path", "health", 2, "not the path", "(write it like /health)"),
		flag("chaos", "perhaps", 2, "neither true nor false", "(use true or 1"),
		variable("REVENANT_CHAOS", "maybe", 2, "neither true nor false", "(use true or 1"),
		flag("chaos-token-file", "/nonexistent/token", 2, "no such file", "(name a file"),
		flag("chaos-token-file", empty, 2, "holds no token", "(write one line"),
		flag("log-format", "xml", 2, "unknown value", "(use auto, json, pretty)"),
		variable("REVENANT_ON_CRASH_LOOP", "panic", 2, "unknown value", "(use backoff, exit)"),
		flag("env", "NAME", 2, "not NAME=VALUE", "(write it like"),
		flag("env", "LISTEN_FDS=3", 2, "revenant itself tells", "(choose another"),
		flag("env", "WATCHDOG_USEC=1", 2, "revenant itself tells", "(choose another"),
		flag("fd", "2", 2, "not a descriptor for a listener", "(write 0"),
		flag("fd", "3,3", 2, "given twice", "(remove one)").of("--fd 3: "),
		flag("fd", "0,4", 2, "only 1 listeners", "(give --listen").of("--fd 4: "),
		flag("fd", "3=tcp://127.0.0.1:9", 2, "no listener of this address", "(name one of --listen"),
		flag("chdir", "/no/such/folder", 2, "no such file", "(create it"),
		flag("umask", "9", 2, "not a mask", "(write it octal"),
		flag("limit", "files=3", 2, `no limit "files"`, "nofile"),
		variable("REVENANT_LIMIT", "nofile=many", 2, "not an amount", "(write a number"),
		flag("limit", "nofile=9:8", 2, "above the hard one", "(exchange"),
		flag("user", "no-such-user", 2, "no such user", "(create it"),
		flag("user", "54321", 2, "no user with this number", "name a group"),
		{name: "a user beyond all numbers", args: []string{"--user=4294967295", "--group=4"}, code: 2, says: []string{"--user 4294967295: ", "no number of a user", "(give one below"}},
		{name: "a group beyond all numbers", args: []string{"--user=4", "--group=4294967296"}, code: 2, says: []string{"--group 4294967296: ", "no such group", "(create it"}},
		flag("group", "no-such-group", 2, "no such group", "(create it"),
		flag("liveness", "soon", 2, "not a duration", "(write it like 30s"),
		flag("liveness-probe", "/health", 2, "not a probe", "(write it like http:/health"),
		flag("liveness-probe", "http:health", 2, "not a probe", "(write it like http:/health"),
		{name: "a probe without a time", args: []string{"--liveness=0s", "--liveness-probe=http:/"}, code: 2, says: []string{"--liveness-probe http:/", "nobody is probed", "(give it a time"}},
		flag("ready", "soon", 2, "not a way to know it", "http:/PATH"),
		flag("ready", "http:here", 2, "not a way to know it", "http:/PATH"),
		flag("ready", "http:/%zz", 2, "not a way to know it", "http:/PATH"),
		{name: "a delay beyond the start timeout", args: []string{"--start-timeout=5s", "--ready=delay:5s"}, code: 2, says: []string{"--ready delay:5s: ", "no worker would be ready within the start timeout of 5s", "(shorten it"}},
		flag("ready", "delay:0", 2, "not a positive duration", "(write it like"),
		flag("stop-signal", "KILL", 2, "not a signal that asks", "(use one of"),
		{name: "unknown flag", args: []string{"--wokers=2"}, code: 2, says: []string{"--wokers", "unknown flag", "revenant run --help"}},
		{name: "flag without value", args: []string{"--workers"}, code: 2, says: []string{"--workers", "needs an argument", "revenant run --help"}},
		{name: "argument", args: []string{"now"}, code: 2, says: []string{`"now"`, "revenant run --help"}},
	} {
		t.Run(w.name, func(t *testing.T) { expectWrong(t, w) })
	}
}

// expectWrong begins an instance and looks at what it said and left.
func expectWrong(t *testing.T, w wrong) {
	t.Helper()
	dir := openDir(t)
	// A free port, should it start after all; what the case says comes later and wins.
	env := append([]string{"REVENANT_LISTEN=tcp://127.0.0.1:0"}, w.env...)
	out, errs, code := begun(t, dir, nil, env, append([]string{"run", "--runtime-dir", dir}, w.args...)...)
	checkOneLine(t, out, errs, code, w)
	if left := marked(t, dir); len(left) > 0 {
		t.Errorf("processes are left: %v", left)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("files are left: %v", left)
	}
}

func checkOneLine(t *testing.T, out, errs string, code int, w wrong) {
	t.Helper()
	if code != w.code {
		t.Errorf("exit code %d, want %d", code, w.code)
	}
	if out != "" || strings.Count(errs, "\n") != 1 || !strings.HasPrefix(errs, "revenant: ") {
		t.Errorf("want one line on stderr and nothing on stdout, got\n%s%s", out, errs)
	}
	for _, word := range w.says {
		if !strings.Contains(errs, word) {
			t.Errorf("the line does not say %q: %s", word, errs)
		}
	}
}

func holdPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().String()
}

func holdPath(t *testing.T, path string) *net.UnixListener {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.(*net.UnixListener)
}

func TestRuntimeDirectoryThatCannotBeUsedIsNamedWithTheRemedy(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"/proc/revenant", file, filepath.Join(t.TempDir(), strings.Repeat("x", 100))} {
		out, errs, code := begun(t, dir, nil, []string{"REVENANT_RUNTIME_DIR=" + dir}, "run", "--listen=tcp://127.0.0.1:0")
		checkOneLine(t, out, errs, code, wrong{code: 2, says: []string{"REVENANT_RUNTIME_DIR " + dir + ": ", "(choose"}})
	}
}

// nobody is a user without rights.
const nobody = 65534

func asNobody(c *exec.Cmd) {
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	c.Dir = "/"
}

// needRoot skips what only root can try, and lets others execute the binary.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, NOT TESTED: only root can start programs as another user")
	}
	if err := os.Chmod(filepath.Dir(supervisortest.Binary(t)), 0o755); err != nil {
		t.Fatal(err)
	}
}

// openDir is a folder that everybody can enter.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "rev")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestUserWithoutRightsIsToldWhichDirectoryHeCannotWrite(t *testing.T) {
	needRoot(t)
	dir := openDir(t)
	out, errs, code := begun(t, dir, asNobody, nil, "run", "--listen=tcp://127.0.0.1:0", "--runtime-dir", dir)
	checkOneLine(t, out, errs, code, wrong{code: 2, says: []string{"--runtime-dir " + dir + ": ", "permission denied", "(choose"}})
	out, errs, code = begun(t, dir, asNobody, nil, "run", "--listen=unix:"+dir+"/x.sock", "--runtime-dir", mine(t))
	checkOneLine(t, out, errs, code, wrong{code: 12, says: []string{"--listen unix:" + dir + "/x.sock: ", "permission denied", "not writable"}})
}

// mine is a folder of nobody's own.
func mine(t *testing.T) string {
	t.Helper()
	dir := openDir(t)
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestSecondInstanceOfANameIsRefusedAndTheFirstServesOn(t *testing.T) {
	i := supervisortest.Start(t, "--workers", "1")
	pid := i.Now().KeeperPID
	out, errs, code := begun(t, i.Dir+"second", nil, nil, "run", "--runtime-dir", i.Dir, "--name", i.Name, "--listen=tcp://127.0.0.1:0")
	checkOneLine(t, out, errs, code, wrong{code: 2, says: []string{"--name t: ", "is running, pid ", "another name"}})
	if !strings.Contains(errs, "pid "+strconv.Itoa(pid)) {
		t.Errorf("the line does not name the running keeper, %d: %s", pid, errs)
	}
	if s := i.Now(); s.State != "ready" {
		t.Errorf("the first one is %s", s.State)
	}
}

func TestPathOfADeadServerIsTakenOver(t *testing.T) {
	path := filepath.Join(openDir(t), "app.sock")
	l := holdPath(t, path)
	l.SetUnlinkOnClose(false)
	_ = l.Close()
	i := supervisortest.Start(t, "--workers", "1", "--listen", "unix:"+path)
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	i.Command.Process.Signal(syscall.SIGTERM)
	if code := i.Wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("the path is left behind")
	}
}

func TestCommandThatDoesNotExistIsWrongUsage(t *testing.T) {
	for _, c := range []struct {
		args []string
		says []string
	}{
		{[]string{"rnu"}, []string{`"rnu"`, "revenant --help"}},
		{[]string{"ps", "--output=yaml"}, []string{"--output yaml: ", "(use table, json)"}},
		{[]string{"ps", "--bogus"}, []string{"--bogus", "revenant ps --help"}},
		{[]string{"kill"}, []string{"WORKER", "revenant kill --help"}},
		{[]string{"show"}, []string{"WORKER", "revenant show --help"}},
		{[]string{"show", "first"}, []string{"WORKER first: ", "(see revenant ps)"}},
		{[]string{"kill", "first"}, []string{"WORKER first: ", "(see revenant ps)"}},
		{[]string{"kill", "1", "--signal=FOO"}, []string{"--signal FOO: ", "TERM KILL"}},
		{[]string{"restart"}, []string{"WORKER", "revenant restart --help"}},
		{[]string{"restart", "every"}, []string{"WORKER every: ", "nor all"}},
		{[]string{"scale", "0"}, []string{"N 0: ", "(write 4, +1 or -1)"}},
		{[]string{"scale", "more"}, []string{"N more: ", "(write 4, +1 or -1)"}},
		{[]string{"dev"}, []string{"there is no COMMAND", "revenant dev --help"}},
		{[]string{"dev", "app.py"}, []string{`"app.py"`, "behind --"}},
		{[]string{"dev", "--watch=/nonexistent", "--", "true"}, []string{"cannot watch /nonexistent: no such file"}},
		{[]string{"dev", "--poll=often", "--", "true"}, []string{"--poll often: ", "(write it like 30s"}},
		{[]string{"dev", "--", "./nonexistent"}, []string{"cannot execute ./nonexistent: no such file"}},
		{[]string{"health", "--name=a b"}, []string{"--name a b: ", "(use up to 64"}},
		{[]string{"app", "--listen=nowhere"}, []string{"--listen nowhere: ", "(write tcp://"}},
	} {
		out, errs, code := supervisortest.Run(t, nil, c.args...)
		checkOneLine(t, out, errs, code, wrong{code: 2, says: c.says})
	}
}

func TestHelpNamesEveryFlagItsVariableTheSignalsAndTheExitCodes(t *testing.T) {
	out, errs, code := supervisortest.Run(t, nil, "run", "--help")
	if code != 0 || errs != "" {
		t.Errorf("code %d, stderr %q", code, errs)
	}
	words := []string{"TERM, INT, QUIT", "HUP", "TTIN, TTOU", "ignored"}
	for _, o := range runOptions {
		words = append(words, "--"+o.name, "[$"+o.variable()+"]")
	}
	for _, code := range []int{exitOK, exitFailed, exitUsage, exitNotReady, exitNotRunning, exitNoWorker, exitCrashLoop, exitCannotBind} {
		words = append(words, strconv.Itoa(code)+"  ")
	}
	for _, word := range append(words, "128+N") {
		if !strings.Contains(out, word) {
			t.Errorf("the help does not say %q", word)
		}
	}
}
