package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor"
	"revenant/supervisor/control"
	"revenant/supervisor/supervisortest"
)

// project is a folder of code under revenant dev.
type project struct {
	t       *testing.T
	dir     string
	runtime string
	log     supervisortest.Log
	cmd     *exec.Cmd
	client  *control.Client
	over    chan struct{}
}

// code is a program that answers with a text.
func code(text string) string { return `exec "$ACTOR" ` + asProgram + " say=" + text + " serve\n" }

// developing starts revenant dev in a folder with these files. The mark of its
// processes is the runtime folder.
func developing(t *testing.T, files map[string]string, args ...string) *project {
	t.Helper()
	p := &project{t: t, dir: t.TempDir(), runtime: openDir(t), over: make(chan struct{})}
	for name, text := range files {
		p.change(name, text)
	}
	actor, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd = exec.Command(supervisortest.Binary(t), append([]string{"dev", "--runtime-dir", p.runtime, "--listen=tcp://127.0.0.1:0"}, args...)...)
	p.cmd.Dir = p.dir
	p.cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", "ACTOR="+actor, marker+"="+p.runtime)
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(p.runtime, "dev")
	p.client = control.Dial(controlSocket(dir), func() bool { return claimed(dir) })
	// Ends with the process; end waits for it.
	go func() { _ = p.cmd.Wait(); close(p.over) }()
	t.Cleanup(p.end)
	return p
}

func (p *project) end() {
	_ = p.cmd.Process.Signal(unix.SIGTERM)
	_ = p.cmd.Process.Signal(unix.SIGTERM)
	p.wait()
	awaitTrue(p.t, "nothing of it is left", func() bool { return len(marked(p.t, p.runtime)) == 0 })
	if p.t.Failed() {
		p.t.Logf("log of dev:\n%s", p.log.String())
	}
}

func (p *project) wait() (code int) {
	p.t.Helper()
	select {
	case <-p.over:
	case <-time.After(supervisortest.Patience):
		p.t.Fatalf("dev does not end; log:\n%s", p.log.String())
	}
	return p.cmd.ProcessState.ExitCode()
}

// change writes a file in one step.
func (p *project) change(name, text string) {
	p.t.Helper()
	path, draft := filepath.Join(p.dir, name), filepath.Join(p.runtime, "draft")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(draft, []byte(text), 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.Rename(draft, path); err != nil {
		p.t.Fatal(err)
	}
}

// serves waits until the answer is a text. The program drops what it has in hand
// when it is asked to leave, so a request may fail.
func (p *project) serves(text string) supervisor.Status {
	p.t.Helper()
	var s supervisor.Status
	awaitTrue(p.t, "it answers "+text, func() bool {
		var err error
		s, err = p.client.Status(context.Background())
		return err == nil && s.Ready > 0 && answerOf(strings.TrimPrefix(s.Listeners[0], "tcp://")) == text+"\n"
	})
	return s
}

// answerOf is what a server answers, "" when it does not.
func answerOf(address string) string {
	c := http.Client{Timeout: supervisortest.Patience, Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := c.Get("http://" + address)
	if err != nil {
		return ""
	}
	defer r.Body.Close()
	body, _ := io.ReadAll(r.Body)
	return string(body)
}

// says waits for words in the log.
func (p *project) says(words string) {
	p.t.Helper()
	awaitTrue(p.t, "dev says "+words, func() bool { return strings.Contains(p.log.String(), words) })
}

func TestChangeIsServedAndABrokenOneIsShownAndNot(t *testing.T) {
	for name, args := range map[string][]string{"inotify": nil, "polling": {"--poll=10ms"}} {
		t.Run(name, func(t *testing.T) {
			p := developing(t, map[string]string{"app.sh": code("one"), ".gitignore": "*.txt\n"}, append(args, "--", "sh", "app.sh")...)
			p.serves("one")
			p.change("notes.txt", "ignored")
			p.change("app.sh", code("two"))
			p.serves("two")
			p.change("app.sh", "echo it is broken >&2; exit 7\n")
			p.says("it is broken")
			p.says("the change is not in force")
			p.serves("two")
			p.change("lib/more.sh", code("three"))
			p.says("lib/more.sh")
			p.change("app.sh", ". ./lib/more.sh\n")
			p.serves("three")
			p.change("lib/more.sh", code("four"))
			s := p.serves("four")
			if log := p.log.String(); strings.Contains(log, "notes.txt") || !strings.Contains(log, "exit 7") || s.Generation != 1 || s.State != "ready" {
				t.Errorf("generation %d is %s; log:\n%s", s.Generation, s.State, log)
			}
		})
	}
}

func TestFailedBuildShowsItsErrorAndTheFormerProgramGoesOn(t *testing.T) {
	const build = `sh -n source.sh && { echo '#!/bin/sh'; cat source.sh; } > ../app.new && chmod +x ../app.new && mv ../app.new bin/app`
	p := developing(t, map[string]string{"source.sh": code("one"), "bin/keep": ""}, "--build", build, "--", "bin/app")
	first := p.serves("one")
	p.change("source.sh", "if; then\n")
	p.says("source.sh: ") // the shell's own words
	p.says("the build failed")
	if s := p.serves("one"); s.Workers[0].Worker != first.Workers[0].Worker {
		t.Errorf("worker %d serves, before the failed build it was %d", s.Workers[0].Worker, first.Workers[0].Worker)
	}
	p.change("source.sh", code("two"))
	p.serves("two")
	if log := p.log.String(); strings.Contains(log, "files=bin/app\n") {
		t.Errorf("the build's own product is a change:\n%s", log)
	}
}

func TestBuildThatFailsAtFirstIsTriedAgainAtAChange(t *testing.T) {
	p := developing(t, map[string]string{"app.sh": "exit 1\n", "ok": ""}, "--build", "cat ok && ! grep -l wrong ok", "--", "sh", "app.sh")
	p.says("the instance has ended, waiting for a change")
	p.change("ok", "wrong\n")
	p.says("the build failed")
	p.change("app.sh", code("one"))
	p.change("ok", "right\n")
	p.serves("one")
}

// A start that hangs is not waited for when there is newer code.
func TestNewerCodeDoesNotWaitForAStartThatHangs(t *testing.T) {
	p := developing(t, map[string]string{"app.sh": "echo begins; exec \"$ACTOR\" " + asProgram + " hang\n"}, "--start-timeout=10m", "--", "sh", "app.sh")
	p.says("begins")
	p.change("app.sh", code("one"))
	p.serves("one")
}

func TestInterruptEndsTheInstanceToo(t *testing.T) {
	p := developing(t, map[string]string{"app.sh": code("one")}, "--", "sh", "app.sh")
	p.serves("one")
	signalNow(t, p.cmd.Process.Pid, unix.SIGINT)
	if code := p.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestInstanceDoesNotOutliveItsDeveloper(t *testing.T) {
	p := developing(t, map[string]string{"app.sh": code("one")}, "--", "sh", "app.sh")
	p.serves("one")
	signalNow(t, p.cmd.Process.Pid, unix.SIGKILL)
	p.wait() // and end looks for what is left
}

func TestInstanceThatAnOperatorStopsEndsItsDeveloper(t *testing.T) {
	p := developing(t, map[string]string{"app.sh": code("one")}, "--", "sh", "app.sh")
	p.serves("one")
	if _, errs, code := supervisortest.Run(t, nil, "stop", "--runtime-dir", p.runtime, "--name", "dev"); code != 0 {
		t.Errorf("stop: code %d, %s", code, errs)
	}
	if code := p.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestWhatTheBuildWritesEachTimeIsSoonNoChange(t *testing.T) {
	dir := t.TempDir()
	generated, edited := filepath.Join(dir, "generated"), filepath.Join(dir, "edited")
	b := &builder{command: "make", product: filepath.Join(dir, "app"), written: map[string]streak{}, own: map[string]bool{}}
	write := func(path string, at time.Time) {
		t.Helper()
		reconfigure(t, path, "")
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now()
	for n := 1; n <= 5; n++ {
		b.begin()
		b.began = now.Add(time.Duration(n) * time.Minute)
		b.ended = b.began.Add(10 * time.Second)
		write(generated, b.began.Add(time.Second))
		write(edited, b.ended.Add(time.Second))
		want := []string{generated, edited}
		if n >= itsOwn {
			want = []string{edited}
		}
		for range 2 { // asked again, as when it waited: the same answer
			if got := b.others([]string{generated, edited, b.product}); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("build %d: changes are %v, want %v", n, got, want)
			}
		}
	}
}
