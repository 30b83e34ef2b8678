// Package scripts holds what people run. Its tests run it as they do.
package scripts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"revenant/scripts/internal/stage"
)

const patience = time.Minute

// output collects what a script says while it runs.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// picture is an environment in which scripts meet nobody else's instances.
type picture struct {
	environ  []string
	ports    []int // one, two, standby, front, status
	runtime  string
	tempDirs string
}

func newPicture(t *testing.T) picture {
	t.Helper()
	ports, err := stage.FreePorts(5)
	if err != nil {
		t.Fatal(err)
	}
	// Not t.TempDir: the path of a unix socket must be short.
	base, err := os.MkdirTemp("", "scripts")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	if err := os.Chmod(base, 0o711); err != nil { // nginx's user passes through
		t.Fatal(err)
	}
	p := picture{ports: ports, runtime: filepath.Join(base, "run"), tempDirs: filepath.Join(base, "tmp")}
	if err := os.Mkdir(p.tempDirs, 0o711); err != nil {
		t.Fatal(err)
	}
	p.environ = append(os.Environ(), "REVENANT_RUNTIME_DIR="+p.runtime, "TMPDIR="+p.tempDirs)
	for i, name := range []string{stage.PortOneVariable, stage.PortTwoVariable, stage.PortStandbyVariable, stage.PortFrontVariable, stage.PortStatusVariable} {
		p.environ = append(p.environ, fmt.Sprintf("%s=%d", name, ports[i]))
	}
	return p
}

func (p picture) command(ctx context.Context, script string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "./"+script, args...)
	cmd.Env = p.environ
	return cmd
}

// start runs scripts/demo until the test ends it, or its end.
func (p picture) start(t *testing.T, args ...string) *show {
	t.Helper()
	if _, err := stage.FrontPath(); err != nil {
		t.Skipf("SKIPPED, NOT TESTED: %v", err)
	}
	said := &output{}
	demo := p.command(context.Background(), "demo", args...)
	demo.Stdout, demo.Stderr = said, said
	if err := demo.Start(); err != nil {
		t.Fatal(err)
	}
	d := &show{cmd: demo, done: make(chan struct{})}
	// Ends with the demo; the cleanup waits for it.
	go func() {
		defer close(d.done)
		d.err = demo.Wait()
	}()
	t.Cleanup(func() {
		demo.Process.Signal(syscall.SIGTERM)
		<-d.done
		if t.Failed() {
			t.Logf("the demo said:\n%s", said)
		}
	})
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !strings.Contains(said.String(), "Ctrl-C ends all"); {
		select {
		case <-d.done:
			t.Fatalf("the demo has ended before it was ready: %v", d.err)
		case <-tick.C:
			if time.Now().After(deadline) {
				t.Fatalf("the demo is not ready after %v", patience)
			}
		}
	}
	return d
}

// show is a demo that was started.
type show struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // after done
}

// interrupt is Ctrl-C.
func (d *show) interrupt() error {
	d.cmd.Process.Signal(syscall.SIGINT)
	<-d.done
	return d.err
}

func exitCode(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	default:
		return -1
	}
}

func TestDemoServesSurvivesAStormAndLeavesNothingBehind(t *testing.T) {
	p := newPicture(t)
	demo := p.start(t)

	response, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/", p.ports[3]))
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(response.Body)
	response.Body.Close()
	if form := regexp.MustCompile(`^Hello, I am worker \[\d+\] of server \[[0-9a-f-]{36}\]\.`); !form.Match(body) {
		t.Errorf("the front answers %q, want the tutorial's greeting", body)
	}

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, err := p.command(ctx, "chaos", "--duration", "3s").CombinedOutput()
	if exitCode(err) != 0 || !bytes.Contains(out, []byte("The promise was kept.")) {
		t.Errorf("scripts/chaos: %v\n%s", err, out)
	}
	for _, line := range []string{`sent +[1-9]\d+`, `answered +[1-9]\d+`, `failed +0 \(none\)`, `kills +[1-9]\d*`, `longest gap +\d`} {
		if !regexp.MustCompile(`(?m)^` + line).Match(out) {
			t.Errorf("scripts/chaos says no %q:\n%s", line, out)
		}
	}

	if err := demo.interrupt(); err != nil {
		t.Errorf("the demo ended with %v, want 0 after Ctrl-C", err)
	}
	for _, port := range p.ports {
		if conn, err := net.DialTimeout("tcp", "127.0.0.1:"+strconv.Itoa(port), time.Second); err == nil {
			conn.Close()
			t.Errorf("somebody still listens on %d", port)
		}
	}
	for _, dir := range []string{filepath.Join(p.runtime, "one"), filepath.Join(p.runtime, "two"), filepath.Join(p.tempDirs, "*")} {
		if left, _ := filepath.Glob(dir); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
}

// The twin: with the tutorial's front the same storm breaks the promise, and
// chaos sees it.
func TestChaosSeesTheTutorialsFrontFail(t *testing.T) {
	p := newPicture(t)
	p.start(t, "--tutorial", "--quiet")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, err := p.command(ctx, "chaos", "--duration", "3s").CombinedOutput()
	if exitCode(err) != 1 || !bytes.Contains(out, []byte("THE PROMISE IS BROKEN")) {
		t.Errorf("scripts/chaos: %v, want 1\n%s", err, out)
	}
}

func TestChaosOnOneInstanceExplainsEachFailure(t *testing.T) {
	p := newPicture(t)
	p.start(t, "--quiet")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, err := p.command(ctx, "chaos", "--duration", "3s", "--direct", "--every", "100ms").CombinedOutput()
	if exitCode(err) != 0 || !bytes.Contains(out, []byte(" 0 unexplained")) {
		t.Errorf("scripts/chaos --direct: %v\n%s", err, out)
	}
}

func TestChaosWithoutADemoSaysSo(t *testing.T) {
	p := newPicture(t)
	if _, err := os.Stat("../bin/revenant"); err != nil {
		t.Log("scripts/chaos builds the binary first")
	}
	out, err := p.command(t.Context(), "chaos").CombinedOutput()
	if exitCode(err) != 2 || !bytes.Contains(out, []byte("is scripts/demo running?")) {
		t.Errorf("scripts/chaos: %v, want 2 and a question\n%s", err, out)
	}
}

func TestDemoSaysWhichPortIsTaken(t *testing.T) {
	if _, err := stage.FrontPath(); err != nil {
		t.Skipf("SKIPPED, NOT TESTED: %v", err)
	}
	for name, taken := range map[string]int{"an instance's": 1, "the front's": 3} {
		t.Run(name, func(t *testing.T) {
			p := newPicture(t)
			ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p.ports[taken]))
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			out, err := p.command(ctx, "demo", "--quiet").CombinedOutput()
			for _, want := range []string{strconv.Itoa(p.ports[taken]), "address already in use", fmt.Sprintf("pid %d", os.Getpid())} {
				if !bytes.Contains(out, []byte(want)) {
					t.Errorf("the demo does not say %q", want)
				}
			}
			if exitCode(err) != 1 || t.Failed() {
				t.Errorf("scripts/demo: %v, want 1\n%s", err, out)
			}
			if left, _ := filepath.Glob(filepath.Join(p.tempDirs, "*")); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestWrongPortNamesItsVariable(t *testing.T) {
	p := newPicture(t)
	for _, script := range []string{"demo", "chaos"} {
		cmd := p.command(t.Context(), script)
		cmd.Env = append(cmd.Env, stage.PortFrontVariable+"=http")
		out, err := cmd.CombinedOutput()
		if want := `DEMO_PORT_FRONT="http": not a port`; exitCode(err) <= 0 || !bytes.Contains(out, []byte(want)) {
			t.Errorf("scripts/%s: %v, want %q\n%s", script, err, want, out)
		}
	}
}

func TestBenchSaysTargetFigureAndVerdict(t *testing.T) {
	p := newPicture(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, err := p.command(ctx, "bench", "memory").CombinedOutput()
	// A machine that is busy with other tests may miss it; it must be measured.
	if code := exitCode(err); code != 0 && code != 1 || bytes.Contains(out, []byte("NOT MEASURED")) {
		t.Errorf("scripts/bench memory: %v\n%s", err, out)
	}
	for _, line := range []string{`memory +keeper and master together, PSS`, `  target +<= 24 MiB`, `  measured \d+\.\d MiB`, `  verdict +(kept|MISSED)`} {
		if !regexp.MustCompile(`(?m)^` + line).Match(out) {
			t.Errorf("scripts/bench says no %q:\n%s", line, out)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(p.tempDirs, "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestBenchKnowsItsRows(t *testing.T) {
	p := newPicture(t)
	out, err := p.command(t.Context(), "bench", "--list").CombinedOutput()
	if rows := bytes.Count(out, []byte("\n")); err != nil || rows < 10 {
		t.Errorf("scripts/bench --list: %v, %d rows\n%s", err, rows, out)
	}
	out, err = p.command(t.Context(), "bench", "speed").CombinedOutput()
	if exitCode(err) != 2 || !bytes.Contains(out, []byte(`there is no row "speed"`)) {
		t.Errorf("scripts/bench speed: %v, want 2\n%s", err, out)
	}
}
