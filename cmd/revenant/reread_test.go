package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"revenant/supervisor"
)

// rereadable is a rereader of a file, with flags beside it.
func rereadable(t *testing.T, path string, args ...string) *rereader {
	t.Helper()
	flags := pflag.NewFlagSet("run", pflag.ContinueOnError)
	s := addOptions(flags, runOptions...)
	if err := flags.Parse(append(args, "--config", path)); err != nil {
		t.Fatal(err)
	}
	s.openFile(nil)
	o, err := readOptions(s)
	if err != nil {
		t.Fatal(err)
	}
	return newRereader(o, inheritance{}, 2)
}

func read(t *testing.T, r *rereader) (supervisor.Settings, []string) {
	t.Helper()
	s, lines, err := r.reread()
	if err != nil {
		t.Fatal(err)
	}
	return s, lines
}

func expectLines(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("the differences are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestRereadSaysWhatDiffersFromWhatIsInForce(t *testing.T) {
	path := configured(t, "workers = 2\nname = 'one'\nchaos = true\n")
	r := rereadable(t, path, "--start-timeout=9s")
	_, lines := read(t, r)
	expectLines(t, lines)

	reconfigure(t, path, "workers = 3\n\ndrain-timeout = '10s'\nstart-timeout = '1s'\nname = 'two'\nlisten = ['tcp://127.0.0.1:1', 'tcp://127.0.0.1:2']\n")
	want := []string{
		"listen: tcp://127.0.0.1:3000 -> tcp://127.0.0.1:1,tcp://127.0.0.1:2 (" + path + ":6; takes effect when the instance is started anew)",
		"workers: 2 -> 3 (" + path + ":1)",
		"name: one -> two (" + path + ":5; takes effect when the instance is started anew)",
		"drain-timeout: 25s -> 10s (" + path + ":3)",
		"chaos: true -> false (default)",
	}
	s, lines := read(t, r)
	expectLines(t, lines, want...)
	if s.Workers != 3 || s.Policy.DrainTimeout != 10*time.Second || s.Policy.StartTimeout != 9*time.Second || s.Chaos {
		t.Errorf("read %+v", s)
	}
	_, lines = read(t, r) // the reload before did not end well
	expectLines(t, lines, want...)
	r.applied()
	_, lines = read(t, r)
	expectLines(t, lines, want[0], want[2])
	if r.inForce.name != "one" || r.inForce.listen[0].String() != "tcp://127.0.0.1:3000" {
		t.Errorf("what holds for the life of the instance is %s on %v", r.inForce.name, r.inForce.listen)
	}
}

func TestDifferenceOfVariablesTellsTheirNamesAlone(t *testing.T) {
	path := configured(t, "env = {PASSWORD = 'one', EMPTY = ''}\n")
	r := rereadable(t, path)
	reconfigure(t, path, "[env]\nPASSWORD = 'two'\n")
	s, lines := read(t, r)
	expectLines(t, lines, "env: PASSWORD=***,EMPTY -> PASSWORD=*** ("+path+":1)")
	if !slices.Equal(s.Program.Extra, []string{"PASSWORD=two"}) {
		t.Errorf("workers get %q", s.Program.Extra)
	}
}

func TestWrongFileIsRefusedWholeAndWhatIsInForceStays(t *testing.T) {
	path := configured(t, "workers = 2\n")
	r := rereadable(t, path)
	reconfigure(t, path, "workers = 3\ndrain-timeout = 10\nchoas = true\nlisten = '3000'\n")
	_, _, err := r.reread()
	for _, want := range []string{path + ":2:17: drain-timeout: a number where text belongs", path + ":3:1: choas: there is no such setting (did you mean chaos?)", path + ":4:10: listen 3000: "} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in %v", want, err)
		}
	}
	r.applied() // nothing was read
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.reread(); err == nil || !strings.Contains(err.Error(), "--config "+path+": cannot read the configuration: no such file") {
		t.Errorf("without the file: %v", err)
	}
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.reread(); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a pipe in place of the file: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	reconfigure(t, path, "workers = 2\n")
	_, lines := read(t, r)
	expectLines(t, lines)
}

func TestTokenIsReadAgainOnlyWhenAnotherFileIsNamed(t *testing.T) {
	dir := t.TempDir()
	one, two := filepath.Join(dir, "one"), filepath.Join(dir, "two")
	reconfigure(t, one, "first")
	reconfigure(t, two, "second")
	path := configured(t, "chaos-token-file = '"+one+"'\n")
	r := rereadable(t, path)
	r.inForce.tokenPath = "kept by the keeper"
	tokenOf := func() string {
		s, _ := read(t, r)
		for _, arg := range s.Program.Args {
			if file, is := strings.CutPrefix(arg, "--chaos-token-file="); is {
				if text, err := os.ReadFile(file); err == nil {
					return string(text)
				}
				return file
			}
		}
		return ""
	}
	reconfigure(t, one, "changed")
	if token := tokenOf(); token != "kept by the keeper" {
		t.Errorf("the same file: workers would read %q", token)
	}
	reconfigure(t, path, "chaos-token-file = '"+two+"'\n")
	if token := tokenOf(); token != "second" {
		t.Errorf("another file: workers would read %q", token)
	}
	before := len(descriptors(unix.Getpid()))
	for range 5 {
		_ = tokenOf()
		r.applied()
	}
	if token := tokenOf(); token != "second" || len(descriptors(unix.Getpid())) > before+1 {
		t.Errorf("after five times: %q, %d descriptors, before %d", token, len(descriptors(unix.Getpid())), before)
	}
	reconfigure(t, path, "")
	if token := tokenOf(); token != "" {
		t.Errorf("no file: workers would read %q", token)
	}
	r.applied()
	reconfigure(t, path, "chaos-token-file = '/nonexistent'\n")
	if _, _, err := r.reread(); err == nil || !strings.Contains(err.Error(), path+":1:20: chaos-token-file /nonexistent: cannot read the token") {
		t.Errorf("a missing file: %v", err)
	}
}
