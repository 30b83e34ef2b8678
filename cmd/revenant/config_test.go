package main

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"revenant/supervisor"
	"revenant/supervisor/supervisortest"
)

// configured writes a configuration file.
func configured(t testing.TB, text string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "revenant.toml")
	reconfigure(t, path, text)
	return path
}

// reconfigure replaces a configuration file.
func reconfigure(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A value in a file is refused with the words of the flag, and all at once.
func TestWrongConfigurationIsSaidWholeWithFileLineAndColumn(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing.toml")
	for _, c := range []struct {
		name, text string
		args, env  []string
		want       []string // FILE stands for the path
	}{
		{"a value", `workers = 0`, nil, nil, []string{
			"FILE:1:11: workers 0: an instance needs at least 1 worker (write auto, a number such as 4, or auto/2 for one of 2 instances on this host)"}},
		{"a value in a list", "listen = [\n'tcp://127.0.0.1:1',\n'3001']", nil, nil, []string{
			"FILE:3:1: listen 3001: cannot listen there: a port alone does not say who may reach it (write tcp://127.0.0.1:3001 for this machine only or tcp://:3001 for every interface)"}},
		{"an address twice", "listen = ['tcp://127.0.0.1:1', 'tcp://127.0.0.1:1']", nil, nil, []string{
			"FILE:1:11: listen tcp://127.0.0.1:1: given twice (remove one)"}},
		{"no address", "listen = []", nil, nil, []string{"FILE:1:1: listen []: no address (give one, or remove the line)"}},
		{"a file named in it", "chaos-token-file = '/nonexistent'", nil, nil, []string{
			"FILE:1:20: chaos-token-file /nonexistent: cannot read the token: no such file or directory (name a file that this user can read)"}},
		{"all of it", "start-timeout = '30'\nwokers = 2\nchaos = 1\non-crash-loop = 'panic'", []string{"--drain-timeout=no"}, []string{"REVENANT_NAME=a/b"}, []string{
			"REVENANT_NAME a/b: not a name (use up to 64 letters, digits, '.', '_' and '-')",
			"--drain-timeout no: not a positive duration (write it like 30s or 1m30s)",
			"FILE:1:17: start-timeout 30: not a positive duration (write it like 30s or 1m30s)",
			"FILE:2:1: wokers: there is no such setting (did you mean workers?)",
			"FILE:3:9: chaos: a number where true or false belongs (write it like chaos = true)",
			"FILE:4:17: on-crash-loop panic: unknown value (use backoff, exit)"}},
		{"what a flag covers is checked as a flag", "workers = 0", []string{"--workers=none"}, nil, []string{
			"--workers none: not a number of workers (write auto, a number such as 4, or auto/2 for one of 2 instances on this host)"}},
		{"a command that is not there", "command = ['./missing', 'x']", nil, nil, []string{
			"FILE:1:12: command ./missing: cannot execute ./missing: no such file or directory (check the spelling, or install it)"}},
		{"a variable in a table", "workers = 1\n[env]\nLISTEN_FDS = 3", nil, nil, []string{
			"FILE:3:14: env LISTEN_FDS=3: LISTEN_FDS is what revenant itself tells workers (choose another name)"}},
		{"no such file", "", []string{"--config", missing}, nil, []string{
			"--config " + missing + ": cannot read the configuration: no such file or directory (name a file that this user can read)"}},
		{"a folder", "", []string{"--config", "/tmp"}, nil, []string{
			"--config /tmp: cannot read the configuration: is a directory (name a file that this user can read)"}},
	} {
		path := configured(t, c.text)
		env := append([]string{"REVENANT_CONFIG=" + path}, c.env...)
		for _, command := range []string{"check", "run"} {
			out, errs, code := supervisortest.Run(t, env, append([]string{command}, c.args...)...)
			want := "revenant: " + strings.ReplaceAll(strings.Join(c.want, "\nrevenant: "), "FILE", path) + "\n"
			if code != exitUsage || out != "" || errs != want {
				t.Errorf("%s: %s ends with %d and %q, says\n%swants\n%s", c.name, command, code, out, errs, want)
			}
		}
	}
}

func TestNothingStartsWithAWrongConfiguration(t *testing.T) {
	path := configured(t, "workers = 2\nchaos = 'yes'\n")
	expectWrong(t, wrong{args: []string{"--config", path}, code: 2, says: []string{path + ":2:9: chaos: text where true or false belongs"}})
	expectWrong(t, wrong{env: []string{"REVENANT_CONFIG=/nonexistent"}, code: 2, says: []string{"REVENANT_CONFIG /nonexistent: cannot read"}})
	held := holdPort(t)
	path = configured(t, "listen = ['unix:/tmp/never',\n 'tcp://"+held+"']\n")
	out, errs, code := begun(t, t.TempDir(), nil, nil, "run", "--runtime-dir", openDir(t), "--config", path)
	checkOneLine(t, out, errs, code, wrong{code: exitCannotBind, says: []string{path + ":2:2: listen tcp://" + held + ": cannot bind", "choose another port"}})
	if _, err := os.Lstat("/tmp/never"); err == nil {
		t.Error("the path of another listener is left behind")
	}
}

func TestFlagGoesBeforeEnvironmentAndThatBeforeTheFileAndThatBeforeTheDefault(t *testing.T) {
	path := configured(t, "# mine\nname = 'of-the-file'\nworkers = 3\nlisten = ['tcp://127.0.0.1:1', 'tcp://127.0.0.1:2']\nchaos = true\ncommand = ['sleep', '9']\nenv = {A = 'b'}\n")
	for _, c := range []struct {
		name, setting string
		args, env     []string
		want          supervisor.Setting
	}{
		{"default", "drain-timeout", nil, nil, supervisor.Setting{Values: []string{"25s"}, From: "default"}},
		{"unset", "chaos-token-file", nil, nil, supervisor.Setting{From: "default"}},
		{"file", "name", nil, nil, supervisor.Setting{Values: []string{"of-the-file"}, From: "file", Where: path + ":2"}},
		{"a list of the file", "listen", nil, nil, supervisor.Setting{Values: []string{"tcp://127.0.0.1:1", "tcp://127.0.0.1:2"}, From: "file", Where: path + ":4"}},
		{"environment over file", "workers", nil, []string{"REVENANT_WORKERS=4"}, supervisor.Setting{Values: []string{"4"}, From: "environment", Where: "REVENANT_WORKERS"}},
		{"empty environment is none", "workers", nil, []string{"REVENANT_WORKERS="}, supervisor.Setting{Values: []string{"3"}, From: "file", Where: path + ":3"}},
		{"flag over file", "chaos", []string{"--chaos=false"}, nil, supervisor.Setting{Values: []string{"false"}, From: "flag", Where: "--chaos"}},
		{"flag over environment and file", "workers", []string{"--workers", "5"}, []string{"REVENANT_WORKERS=4"}, supervisor.Setting{Values: []string{"5"}, From: "flag", Where: "--workers"}},
		{"a command of the file", "command", nil, nil, supervisor.Setting{Values: []string{"sleep", "9"}, From: "file", Where: path + ":6"}},
		{"another command", "command", []string{"--", "sleep", "8"}, nil, supervisor.Setting{Values: []string{"sleep", "8"}, From: "flag", Where: "--"}},
		{"a table", "env", nil, nil, supervisor.Setting{Values: []string{"A=b"}, From: "file", Where: path + ":7"}},
		{"a list is replaced and not joined", "listen", []string{"--listen=tcp://127.0.0.1:3"}, nil, supervisor.Setting{Values: []string{"tcp://127.0.0.1:3"}, From: "flag", Where: "--listen"}},
	} {
		out, errs, code := supervisortest.Run(t, c.env, append([]string{"config", path, "-o", "json"}, c.args...)...)
		var list []supervisor.Setting
		if err := json.Unmarshal([]byte(out), &list); err != nil || code != 0 || len(list) != len(runOptions)+1 {
			t.Fatalf("%s: %v, code %d, %s%s", c.name, err, code, out, errs)
		}
		for _, got := range list {
			if got.Name != c.setting {
				continue
			}
			if strings.Join(got.Values, " ") != strings.Join(c.want.Values, " ") || got.From != c.want.From || got.Where != c.want.Where {
				t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
			}
		}
	}
}

func TestConfigPrintsEachSettingWithItsSource(t *testing.T) {
	path := configured(t, "workers = 3\n")
	out, _, code := supervisortest.Run(t, []string{"REVENANT_CHAOS=1"}, "config", "--config", path, "--name=n")
	for _, line := range []string{"SETTING VALUE FROM", "workers 3 " + path + ":1", "chaos 1 REVENANT_CHAOS", "name n --name", "drain-timeout 25s default", "chaos-token-file - default"} {
		if !strings.Contains(strings.Join(strings.Fields(out), " "), line) {
			t.Errorf("no line %q in\n%s", line, out)
		}
	}
	if code != 0 {
		t.Errorf("code %d", code)
	}
}

func TestCheckSaysWhatItFoundAndBindsNothing(t *testing.T) {
	held := holdPort(t)
	path := configured(t, "workers = 3\nlisten = 'tcp://"+held+"'\n")
	out, errs, code := supervisortest.Run(t, nil, "check", path)
	if want := "ok: " + path + " (2 settings); instance default on tcp://" + held + "; 3 workers: as configured\n"; code != 0 || errs != "" || out != want {
		t.Errorf("code %d, %q%q, want %q", code, out, errs, want)
	}
	out, _, code = supervisortest.Run(t, nil, "check")
	if code != 0 || !strings.HasPrefix(out, "ok: no configuration file; instance default on tcp://127.0.0.1:3000; ") {
		t.Errorf("code %d, %q", code, out)
	}
	for _, args := range [][]string{{"check", path, "--config", path}, {"check", path, path}} {
		out, errs, code = supervisortest.Run(t, nil, args...)
		checkOneLine(t, out, errs, code, wrong{code: 2, says: []string{"revenant check --help"}})
	}
}

// A crash changes nothing: an edit that nobody asked for, right or wrong, waits
// for a reload.
func TestMasterAfterACrashGoesOnWithTheConfigurationInForce(t *testing.T) {
	path := configured(t, "workers = 3\nchaos = true\n")
	i := supervisortest.Start(t, "--config", path)
	s := i.Now()
	for _, text := range []string{"workers = [", "workers = 1\nchaos = false\n"} {
		reconfigure(t, path, text)
		s = killMaster(i, t, s)
		if s.Desired != 3 || s.Ready != 3 {
			t.Errorf("after %q and a crash: %d of %d workers, want 3", text, s.Ready, s.Desired)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if s = killMaster(i, t, s); s.Desired != 3 || s.Generation != 4 {
		t.Errorf("without the file: %d workers in generation %d, want 3 in 4", s.Desired, s.Generation)
	}
	if got := killerStatus(t, i); got == http.StatusNotFound {
		t.Error("/workerKiller does not exist, and chaos was true")
	}
}

func TestConfigurationIsReadOnceAtTheStartAlsoFromAPipe(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	_, _ = w.WriteString("workers = 3\n")
	_ = w.Close()
	defer r.Close()
	dir := openDir(t)
	c := exec.Command(supervisortest.Binary(t), "run", "--runtime-dir", dir, "--name", "t", "--listen", "tcp://127.0.0.1:0", "--config", "/dev/fd/3")
	c.ExtraFiles = []*os.File{r}
	c.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Signal(unix.SIGTERM); _ = c.Wait() })
	awaitTrue(t, "3 workers", func() bool {
		out, _, _ := supervisortest.Run(t, nil, "ps", "--runtime-dir", dir, "--name", "t")
		return strings.Contains(out, "3/3")
	})
}
