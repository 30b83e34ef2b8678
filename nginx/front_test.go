package nginx

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const outsider = 65534 // nobody: what nginx runs as when the tests run as root

// front is a real nginx that runs a laid out copy of the shipped files.
type front struct {
	dir   string
	ports Ports
	url   string
	pid   int
}

func needNginx(t testing.TB) {
	if _, err := exec.LookPath("nginx"); err != nil {
		t.Skip("SKIPPED, NOT TESTED: nginx is not installed (Debian: nginx-light)")
	}
}

// startFront lays out the files in a folder of their own, lets edit change them, and starts nginx as
// an ordinary user on them.
func startFront(t testing.TB, conf string, instances [3]int, edit ...func(dir string)) *front {
	t.Helper()
	needNginx(t)
	f := &front{dir: prefix(t), ports: Ports{Front: freePort(t), Status: freePort(t), Instances: instances}}
	f.url = fmt.Sprintf("http://127.0.0.1:%d", f.ports.Front)
	if err := Layout(f.dir, f.ports); err != nil {
		t.Fatal(err)
	}
	for _, e := range edit {
		e(f.dir)
	}
	cmd := nginxCommand(f.dir, filepath.Join(f.dir, conf), "-g", "daemon off;")
	said := must(os.Create(filepath.Join(f.dir, "stderr")))
	defer said.Close()
	cmd.Stderr = said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	f.pid = cmd.Process.Pid
	done := make(chan struct{})
	// Ends when nginx does; the cleanup stops nginx and waits.
	go func() { defer close(done); cmd.Wait() }()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-done:
		case <-time.After(5 * time.Second):
			syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			t.Error("nginx does not stop")
		}
		if t.Failed() {
			said, _ := os.ReadFile(filepath.Join(f.dir, "stderr"))
			log, _ := os.ReadFile(filepath.Join(f.dir, "error.log"))
			t.Logf("nginx said: %s%s", said, log)
		}
	})
	eventually(t, 10*time.Second, "nginx listens", func() bool {
		conn, err := net.Dial("tcp", f.url[len("http://"):])
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return f
}

// prefix is a folder that an ordinary user may write to.
func prefix(t testing.TB) string {
	dir := t.TempDir()
	if os.Getuid() == 0 {
		if err := os.Chown(dir, outsider, outsider); err != nil {
			t.Fatal(err)
		}
		// The test's folders are closed to others above this one.
		if err := os.Chmod(filepath.Dir(dir), 0o711); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func nginxCommand(dir, conf string, args ...string) *exec.Cmd {
	cmd := exec.Command("nginx", append([]string{"-e", "stderr", "-p", dir, "-c", conf}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if os.Getuid() == 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: outsider, Gid: outsider}
	}
	return cmd
}

// use puts another file in the place of upstream.conf, as an operator would.
func use(t testing.TB, file string) func(dir string) {
	return func(dir string) {
		if err := os.Rename(filepath.Join(dir, file), filepath.Join(dir, "upstream.conf")); err != nil {
			t.Fatal(err)
		}
	}
}

// change replaces text in a laid out file; it must be there.
func change(t testing.TB, file, from, to string) func(dir string) {
	return func(dir string) {
		path := filepath.Join(dir, file)
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), from) {
			t.Fatalf("%s has no %q", file, from)
		}
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(string(text), from, to)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// An entry is a line of the access log.
type entry struct {
	Method, URI                  string
	Status                       int
	UpstreamAddr, UpstreamStatus string
}

// entries waits until the log has a line that matches, and returns all that do.
func (f *front) entries(t testing.TB, matches func(entry) bool) []entry {
	t.Helper()
	var found []entry
	eventually(t, 5*time.Second, "the access log has the line", func() bool {
		found = nil
		text, _ := os.ReadFile(filepath.Join(f.dir, "access.log"))
		for line := range strings.Lines(string(text)) {
			var e struct {
				Method, URI    string
				Status         int
				UpstreamAddr   string `json:"upstream_addr"`
				UpstreamStatus string `json:"upstream_status"`
			}
			if !strings.HasSuffix(line, "\n") {
				break
			}
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatalf("access log line %q: %v", line, err)
			}
			if matches(entry(e)) {
				found = append(found, entry(e))
			}
		}
		return len(found) > 0
	})
	return found
}

// client speaks from an address of this machine, one connection per request.
func client(from string) *http.Client {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	return &http.Client{
		Transport: &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true},
		Timeout:   20 * time.Second,
	}
}

var inside = client("127.0.0.1")

// get returns the status and the body of a GET.
func (f *front) get(t testing.TB, path string) (int, string) {
	t.Helper()
	return answer(t, inside, must(http.NewRequest("GET", f.url+path, nil)))
}

func answer(t testing.TB, c *http.Client, req *http.Request) (int, string) {
	t.Helper()
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// eventually is the one place that polls.
func eventually(t testing.TB, limit time.Duration, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// freePort is a port nobody listens on, from below those the kernel hands out by itself.
func freePort(t testing.TB) int {
	t.Helper()
	for range 100 {
		port := 20000 + int(time.Now().UnixNano()/1000%12000)
		ln, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err == nil {
			ln.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

// closedPort is a port that refuses connections for as long as the test runs: bound, not listening.
func closedPort(t testing.TB) int {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return name.(*syscall.SockaddrInet4).Port
}

// status is the URL of stub_status.
func (f *front) status() string {
	return fmt.Sprintf("http://127.0.0.1:%d/nginx_status", f.ports.Status)
}
