package nginx

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// site is the laid out one of a front that runs.
func (f *front) site() *Site {
	return &Site{
		Dir: filepath.Join(f.dir, "site"), Closing: filepath.Join(f.dir, "closing"), Settle: 10 * time.Millisecond,
		Running: &Process{Path: "nginx", Prefix: f.dir, Config: filepath.Join(f.dir, "production.conf"), Status: f.status()},
	}
}

func (f *front) workers() []int {
	pids := Workers(processesOf(f.pid))
	slices.Sort(pids)
	return pids
}

// begun waits until nginx, which listens before it has any, has all its workers: one
// for each processor, as production.conf says.
func (f *front) begun(t *testing.T) []int {
	t.Helper()
	online := must(strconv.Atoi(strings.TrimSpace(string(must(exec.Command("getconf", "_NPROCESSORS_ONLN").Output())))))
	eventually(t, 10*time.Second, "nginx has its workers", func() bool { return len(f.workers()) == online })
	return f.workers()
}

// files reads the whole site.
func (f *front) files() map[string]string {
	all := map[string]string{}
	for _, entry := range must(os.ReadDir(filepath.Join(f.dir, "site"))) {
		all[entry.Name()] = string(must(os.ReadFile(filepath.Join(f.dir, "site", entry.Name()))))
	}
	return all
}

// down is servers.conf with the n-th instance marked.
func (f *front) down(t *testing.T, n int) map[string][]byte {
	t.Helper()
	servers := parsed(t, f.files()["servers.conf"])
	return map[string][]byte{"servers.conf": servers.With(servers.Addresses()[n], "down").Text()}
}

func TestChangedFilesAreInForceWhenChangeReturns(t *testing.T) {
	a, b, ports := twoInstances(t)
	f := startFront(t, "production.conf", ports)
	before := f.begun(t)
	for n, other := range []*backend{b, a} {
		up := f.files()["servers.conf"]
		changed, err := f.site().Change(t.Context(), f.down(t, n))
		if err != nil || !changed {
			t.Fatalf("Change: %v, %v", changed, err)
		}
		// Not one request more: the processes with the old file take none.
		for range 20 {
			if code, who := f.get(t, "/"); code != 200 || who != other.name {
				t.Fatalf("instance %d is down, and %q answers with %d", n, who, code)
			}
		}
		if _, err := f.site().Change(t.Context(), map[string][]byte{"servers.conf": []byte(up)}); err != nil {
			t.Fatal(err)
		}
	}
	if after := f.workers(); slices.Equal(after, before) {
		t.Errorf("the processes are still %v", after)
	}
	if left, _ := filepath.Glob(filepath.Join(f.dir, "site", ".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, err := os.Stat(filepath.Join(f.dir, "closing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the closing file is still there: %v", err)
	}
}

func TestFilesThatDoNotDifferReloadNothing(t *testing.T) {
	_, _, ports := twoInstances(t)
	f := startFront(t, "production.conf", ports)
	before := f.begun(t)
	same := map[string][]byte{}
	for name, text := range f.files() {
		same[name] = []byte(text)
	}
	if changed, err := f.site().Change(t.Context(), same); changed || err != nil {
		t.Errorf("Change: %v, %v", changed, err)
	}
	if after := f.workers(); !slices.Equal(after, before) {
		t.Errorf("the processes were %v and are %v", before, after)
	}
}

func TestRefusedFilesAreTakenBackAndNginxGoesOn(t *testing.T) {
	a, _, ports := twoInstances(t)
	f := startFront(t, "production.conf", ports)
	before, files := f.begun(t), f.files()
	for _, text := range []string{"server nonsense nonsense;\n", "}\n", "server 127.0.0.1:1 max_fails=zero;\n"} {
		changed, err := f.site().Change(t.Context(), map[string][]byte{"servers.conf": []byte(text), "standby.conf": []byte("# none\n")})
		if changed || err == nil || !strings.Contains(err.Error(), "[emerg]") || !strings.Contains(err.Error(), "servers.conf") {
			t.Errorf("%q: %v, %v: want what nginx says", text, changed, err)
		}
	}
	if now := f.files(); !reflect.DeepEqual(now, files) {
		t.Errorf("the files are not what they were: %v", now)
	}
	if after := f.workers(); !slices.Equal(after, before) {
		t.Errorf("the processes were %v and are %v", before, after)
	}
	if code, who := f.get(t, "/"); code != 200 {
		t.Errorf("%s answers with %d", who, code)
	}
	_ = a
}

// nginx -t accepts what the running nginx then cannot do: take a port that somebody else has.
func TestReloadThatFailsPutsTheFilesBack(t *testing.T) {
	_, _, ports := twoInstances(t)
	f := startFront(t, "production.conf", ports)
	before, names := f.begun(t), f.files()["names.conf"]
	taken := startBackend(t, "c")
	s := f.site()
	s.Running = &unchecked{s.Running.(*Process)}
	changed, err := s.Change(t.Context(), map[string][]byte{"names.conf": []byte(names + "listen 127.0.0.1:" + strconv.Itoa(taken.port) + ";\n")})
	if changed || err == nil || !strings.Contains(err.Error(), "[emerg]") {
		t.Errorf("Change: %v, %v: want what nginx says", changed, err)
	}
	if now := f.files()["names.conf"]; now != names {
		t.Errorf("the file is not what it was: %s", now)
	}
	if code, who := f.get(t, "/"); code != 200 {
		t.Errorf("%s answers with %d", who, code)
	}
	if len(f.workers()) == 0 {
		t.Errorf("no processes are left of %v", before)
	}
}

// unchecked is a Running whose check says yes.
type unchecked struct{ *Process }

func (u *unchecked) Check(context.Context) error { return nil }

func TestNginxThatIsNotRunningIsNamed(t *testing.T) {
	_, _, ports := twoInstances(t)
	f := startFront(t, "production.conf", ports)
	files := f.files()
	if err := syscall.Kill(f.pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	pidFile := filepath.Join(f.dir, "nginx.pid")
	eventually(t, 20*time.Second, "nginx ends", func() bool { _, err := os.Stat(pidFile); return err != nil })
	// A pid that was given to somebody else meanwhile is not nginx either.
	for name, text := range map[string]string{"no pid file": "", "a stranger's pid": strconv.Itoa(os.Getpid()), "no number": "nginx"} {
		if text != "" {
			if err := os.WriteFile(pidFile, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		_, err := f.site().Change(t.Context(), f.down(t, 0))
		if missing := new(NotRunningError); !errors.As(err, &missing) || !strings.Contains(err.Error(), pidFile) {
			t.Errorf("%s: %v, want that it does not run", name, err)
		}
		if now := f.files(); !reflect.DeepEqual(now, files) {
			t.Errorf("%s: the files are not what they were: %v", name, now)
		}
		_ = os.Remove(pidFile)
	}
}

func TestWhileTheClosingFileExistsEveryAnswerIsTheLastOfItsConnection(t *testing.T) {
	a, _, ports := twoInstances(t)
	f := startFront(t, "production.conf", [3]int{ports[0], ports[0], ports[2]})
	closing := filepath.Join(f.dir, "closing")
	ask := func(method, path, body string) (answer *http.Response) {
		t.Helper()
		req := must(http.NewRequest(method, f.url+path, strings.NewReader(body)))
		answer, err := (&http.Client{Transport: &http.Transport{}}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if text := string(must(io.ReadAll(answer.Body))); answer.StatusCode != 200 || text != "a" {
			t.Errorf("%s %s: %d %q", method, path, answer.StatusCode, text)
		}
		answer.Body.Close()
		return answer
	}
	for _, exists := range []bool{false, true, false} {
		if exists {
			if err := os.WriteFile(closing, nil, 0o644); err != nil {
				t.Fatal(err)
			}
		} else {
			_ = os.Remove(closing)
		}
		if got := ask("GET", "/", "").Close; got != exists {
			t.Errorf("closing file %v: the answer to a GET closes: %v", exists, got)
		}
		if got := ask("POST", "/post?id=p", strings.Repeat("x", 100<<10)).Close; got != exists {
			t.Errorf("closing file %v: the answer to a POST closes: %v", exists, got)
		}
	}
	if got := a.posted("p"); got != 3 {
		t.Errorf("3 POSTs arrived %d times", got)
	}
	// The path reaches the worker as the client wrote it, and /workerKiller stays closed.
	if err := os.WriteFile(closing, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if code, _ := f.get(t, "/workerKiller/"); code != 404 {
		t.Errorf("GET /workerKiller/: %d, want 404", code)
	}
	for _, path := range []string{"/a%2Fb?c=%20", "/closing"} {
		ask("GET", path, "")
	}
}

func TestAReloadWaitsForClientsThatKeepAConnection(t *testing.T) {
	_, _, ports := twoInstances(t)
	f := startFront(t, "production.conf", ports)
	kept := &http.Client{Transport: &http.Transport{}, Timeout: 20 * time.Second}
	get := func() *http.Response {
		resp := must(kept.Get(f.url + "/"))
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		return resp
	}
	get()
	s := f.site()
	s.Settle, s.Idle = time.Millisecond, time.Minute
	done := make(chan error, 1)
	// Ends when the client has no connection any more; received below.
	go func() { _, err := s.Change(t.Context(), f.down(t, 0)); done <- err }()
	eventually(t, 20*time.Second, "the closing file is there", func() bool { _, err := os.Stat(s.Closing); return err == nil })
	select {
	case err := <-done:
		t.Fatalf("it did not wait: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	if !get().Close {
		t.Error("the client may keep its connection")
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
