package scripts

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"revenant/nginx"
	"revenant/scripts/internal/stage"
	"revenant/scripts/ledger"
)

// fleet is two instances of version 1 behind nginx, which clients ask all the
// time.
type fleet struct {
	t      *testing.T
	p      picture
	dir    string // nginx's prefix and configuration
	front  *stage.Front
	stop   chan struct{}
	counts chan ledger.Report
}

// versions are two builds of this project, made when the first test wants one.
var versions struct {
	once sync.Once
	dir  string
	err  error
}

func version(t *testing.T, n int) string {
	t.Helper()
	versions.once.Do(func() {
		if versions.dir, versions.err = os.MkdirTemp("", "versions"); versions.err != nil {
			return
		}
		for i := 1; i <= 2; i++ {
			out, err := exec.Command("go", "build", "-ldflags", fmt.Sprintf("-X main.release=v%d", i),
				"-o", filepath.Join(versions.dir, fmt.Sprintf("revenant-%d", i)), "../cmd/revenant").CombinedOutput()
			if err != nil {
				versions.err = fmt.Errorf("%w\n%s", err, out)
			}
		}
	})
	if versions.err != nil {
		t.Fatal(versions.err)
	}
	return filepath.Join(versions.dir, fmt.Sprintf("revenant-%d", n))
}

func TestMain(m *testing.M) {
	code := m.Run()
	if versions.dir != "" {
		os.RemoveAll(versions.dir)
	}
	os.Exit(code)
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	if _, err := stage.FrontPath(); err != nil {
		t.Skipf("SKIPPED, NOT TESTED: %v", err)
	}
	// What is started here ends with this thread, should the test be killed.
	runtime.LockOSThread()
	f := &fleet{t: t, p: newPicture(t)}
	f.dir = filepath.Join(f.p.tempDirs, "front")
	if err := os.Mkdir(f.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	t.Cleanup(f.end)
	for _, name := range []string{"one", "two"} {
		i := f.instance(name)
		if err := i.Start(ctx, nil, "--workers", "2", "--log-format", "json"); err != nil {
			t.Fatal(err)
		}
	}
	f.front = &stage.Front{Config: "production.conf", Dir: f.dir, Ports: nginx.Ports{
		Front: f.p.ports[3], Status: f.p.ports[4], Instances: [3]int(f.p.ports[:3])}}
	if err := f.front.Start(ctx); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fleet) instance(name string) *stage.Instance {
	path := version(f.t, 1)
	n := slices.Index([]string{"one", "two", "standby"}, name)
	return &stage.Instance{Binary: path, Name: name, RuntimeDir: f.p.runtime, Listen: stage.Target(f.p.ports[n])}
}

// end stops what the test and the release have left, whoever started it.
func (f *fleet) end() {
	if f.front != nil {
		f.front.Stop()
	}
	for _, name := range []string{"one", "two", "standby"} {
		f.stopInstance(name)
	}
}

func (f *fleet) stopInstance(name string) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_ = f.instance(name).Command(ctx, "stop").Run() // it may not be running
}

// beginLoad has clients ask GET and POST in turn, some on kept connections.
func (f *fleet) beginLoad() {
	f.stop, f.counts = make(chan struct{}), make(chan ledger.Report, 2)
	for _, keep := range []bool{true, false} {
		load := ledger.Load{Target: f.front.Target(), Duration: 10 * time.Minute, Stop: f.stop, Clients: 3, Rate: 150, KeepAlive: keep,
			Post: 16 << 10, ConnectTimeout: patience, Timeout: patience,
			Right: func(_ ledger.Request, r ledger.Response) bool {
				return bytes.HasPrefix(r.Body, []byte("Hello, I am worker"))
			}}
		// Ends when stop is closed; endLoad waits for it.
		go func() {
			report, err := load.Run(context.Background())
			if err != nil {
				f.t.Error(err)
			}
			f.counts <- report
		}()
	}
}

func (f *fleet) endLoad() {
	f.t.Helper()
	close(f.stop)
	report := ledger.Merge(<-f.counts, <-f.counts)
	f.t.Log(report)
	if report.Failed() > 0 || report.Sent() == 0 {
		f.t.Errorf("%d of %d requests failed: %s: %v", report.Failed(), report.Sent(), report.Kinds(), report.Failures[:min(3, report.Failed())])
	}
}

func (f *fleet) release(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(f.t.Context(), 4*patience)
	defer cancel()
	out, err := f.p.command(ctx, "release", append([]string{"--nginx", filepath.Join(f.dir, "production.conf")}, args...)...).CombinedOutput()
	f.t.Logf("scripts/release: %v\n%s", err, out)
	return string(out), err
}

// runs says which version each instance is, "" for one that does not run.
func (f *fleet) runs() (all [3]string) {
	for i, name := range []string{"one", "two", "standby"} {
		if status, err := f.instance(name).PS(f.t.Context()); err == nil {
			all[i] = regexp.MustCompile(`v\d`).FindString(status.Version)
		}
	}
	return all
}

// site reads nginx's files.
func (f *fleet) site() string {
	f.t.Helper()
	var all []byte
	for _, name := range []string{"servers.conf", "standby.conf"} {
		text, err := os.ReadFile(filepath.Join(f.dir, "site", name))
		if err != nil {
			f.t.Fatal(err)
		}
		all = append(all, text...)
	}
	return string(all)
}

func TestReleaseReplacesBothInstancesWithoutALostRequest(t *testing.T) {
	f := newFleet(t)
	site := f.site()
	if out, err := f.release("--binary", version(t, 2), "--dry-run"); err != nil || strings.Count(out, "would: ") != 7 || f.runs() != [3]string{"v1", "v1", ""} {
		t.Fatalf("--dry-run: %v, %v, want 7 steps and nothing done\n%s", err, f.runs(), out)
	}
	f.beginLoad()
	_, err := f.release("--binary", version(t, 2))
	f.endLoad()
	if err != nil || f.runs() != [3]string{"v2", "v2", ""} {
		t.Errorf("%v: running are %v, want the new version and no standby", err, f.runs())
	}
	if f.site() != site {
		t.Errorf("nginx's files are not what they were:\n%s", f.site())
	}
	status, err := f.instance("one").PS(t.Context())
	if err != nil || len(status.Workers) != 2 {
		t.Errorf("%v: %d workers, want what the former instance was told", err, len(status.Workers))
	}
}

func TestStandbyThatStoodByIsReleasedToo(t *testing.T) {
	f := newFleet(t)
	if err := f.instance("standby").Start(t.Context(), nil, "--workers", "2"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.release("--binary", version(t, 2), "one"); err != nil || f.runs() != [3]string{"v2", "v1", "v2"} {
		t.Errorf("%v: running are %v, want v2, v1 and a standby with v2", err, f.runs())
	}
}

// What can go wrong, and that whoever served still does.
func TestFailedReleaseKeepsTheOldState(t *testing.T) {
	f := newFleet(t)
	site := f.site()
	dir := t.TempDir()
	// Programs that answer every command as version 1 does, but for run.
	program := func(name, run string) string {
		path := filepath.Join(dir, name)
		text := "#!/bin/sh\nif [ \"$1\" = run ]; then " + run + "; fi\nexec " + version(t, 1) + " \"$@\"\n"
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	names := filepath.Join(f.dir, "site", "names.conf")
	elsewhere := `case "$*" in *standby*) ;; *) %s;; esac`
	sick, ends := program("sick", "exec sleep 1000"), program("ends", "exit 10")
	fickle := program("fickle", fmt.Sprintf(elsewhere, "exit 10"))
	saboteur := program("saboteur", fmt.Sprintf(elsewhere, "echo 'nonsense;' >> "+names))
	f.beginLoad()
	defer f.endLoad()
	for _, test := range []struct {
		name string
		args []string
		says []string
	}{
		{"never healthy", []string{"--binary", sick, "--limit", "3s"}, []string{"standby does not come up", "not ready within", "Nothing was changed"}},
		{"ends at once", []string{"--binary", ends}, []string{"standby does not come up", "no worker became ready", "Nothing was changed"}},
		{"well as a standby only", []string{"--binary", fickle}, []string{"one does not come up", "it is back on " + version(t, 1), "every instance serves"}},
		{"no program", []string{"--binary", filepath.Join(dir, "gone")}, []string{"gone: no such file"}},
		{"an instance that does not run", []string{"--binary", version(t, 2), "one", "three"}, []string{"three", "is it running?", "Nothing was changed"}},
		{"the standby as an instance", []string{"--binary", version(t, 2), "one", "standby"}, []string{"standby is the standby"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, err := f.release(test.args...)
			if exitCode(err) <= 0 {
				t.Errorf("%v, want a failure", err)
			}
			for _, want := range test.says {
				if !strings.Contains(out, want) {
					t.Errorf("it does not say %q", want)
				}
			}
			if f.runs() != [3]string{"v1", "v1", ""} || f.site() != site {
				t.Errorf("running are %v, and nginx's files are\n%s", f.runs(), f.site())
			}
		})
	}
	t.Run("refused by nginx", func(t *testing.T) {
		good, err := os.ReadFile(names)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(names, append(good, "nonsense;\n"...), 0o644); err != nil {
			t.Fatal(err)
		}
		defer os.WriteFile(names, good, 0o644)
		out, err := f.release("--binary", version(t, 2))
		if exitCode(err) != 1 || !strings.Contains(out, `unknown directive "nonsense"`) || f.runs() != [3]string{"v1", "v1", ""} || f.site() != site {
			t.Errorf("%v: running are %v; want nginx's words\n%s", err, f.runs(), f.site())
		}
	})
	t.Run("marks that a killed release has left", func(t *testing.T) {
		servers := filepath.Join(f.dir, "site", "servers.conf")
		good, err := os.ReadFile(servers)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(servers, bytes.ReplaceAll(good, []byte("max_fails=0;"), []byte("max_fails=0 down;")), 0o644); err != nil {
			t.Fatal(err)
		}
		defer os.WriteFile(servers, good, 0o644)
		out, err := f.release("--binary", version(t, 2))
		if exitCode(err) != 1 || !strings.Contains(out, "take the mark away") {
			t.Errorf("%v, want what to do", err)
		}
	})
	t.Run("nginx refuses in the middle, and to go back", func(t *testing.T) { f.stuck(t, saboteur) })
}

// Nobody can go back when nginx takes no configuration any more: then whoever
// has a share keeps it.
func (f *fleet) stuck(t *testing.T, saboteur string) {
	out, err := f.release("--binary", saboteur)
	if exitCode(err) != 1 || !strings.Contains(out, "Every instance serves, and standby was left running") {
		t.Errorf("%v, want what to do", err)
	}
	if f.runs() != [3]string{"v1", "v1", "v1"} || strings.Contains(f.site(), "backup") {
		t.Errorf("running are %v, and nginx's files are\n%s", f.runs(), f.site())
	}
}

func TestReleaseWithoutNginxChangesNothing(t *testing.T) {
	f := newFleet(t)
	if err := f.front.Stop(); err != nil {
		t.Fatal(err)
	}
	out, err := f.release("--binary", version(t, 2))
	if exitCode(err) != 1 || !strings.Contains(out, "nginx is not running") || !strings.Contains(out, "Nothing was changed") || f.runs() != [3]string{"v1", "v1", ""} {
		t.Errorf("%v: running are %v", err, f.runs())
	}
}

func TestReleaseSaysWhatItNeeds(t *testing.T) {
	p := newPicture(t)
	for want, args := range map[string][]string{
		"either --binary or --image": nil,
		"--nginx is missing":         {"--binary", "./release"},
		"it is no program":           {"--binary", ".", "--nginx", "x"},
	} {
		if out, err := p.command(t.Context(), "release", args...).CombinedOutput(); exitCode(err) != 2 || !strings.Contains(string(out), want) {
			t.Errorf("%q: %v, want 2 and %q\n%s", args, err, want, out)
		}
	}
	out, err := p.command(t.Context(), "release", "--help").CombinedOutput()
	if exitCode(err) != 0 || !strings.Contains(string(out), "scripts/release --binary ./revenant-2 --nginx") {
		t.Errorf("--help: %v\n%s", err, out)
	}
}
