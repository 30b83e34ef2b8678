package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// prefix begins the name of everything these tests make.
var prefix = fmt.Sprintf("%s%d", anyRun, os.Getpid())

// anyRun begins the prefix of every run.
const anyRun = "revenant-test-"

// images are those made so far; TestMain removes them.
var images = map[string]bool{}

func TestMain(m *testing.M) {
	// One run at a time on a machine: then whatever another one has left is nobody's.
	lock, err := os.OpenFile(filepath.Join(os.TempDir(), "revenant-docker-test.lock"), os.O_CREATE|os.O_RDWR, 0o666)
	if err == nil {
		err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cannot lock out other runs of these tests:", err)
		os.Exit(1)
	}
	sweep()
	cache := buildCache()
	code := m.Run()
	if err := cleanUp(cache); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// cleanUp removes the images and what building them left: the stages without a name, known by the
// label they inherit from the stand-ins, and BuildKit's cache beyond what was there before.
func cleanUp(cache []string) error {
	for image := range images {
		if out, err := exec.Command("docker", "rmi", "-f", image).CombinedOutput(); err != nil {
			return fmt.Errorf("cannot remove image %s: %s", image, out)
		}
	}
	if len(images) > 0 {
		if out, err := exec.Command("docker", "image", "prune", "-f", "--filter", "label="+prefix).CombinedOutput(); err != nil {
			return fmt.Errorf("cannot remove stages: %s", out)
		}
	}
	// A record goes only when nothing is made from it, so the last ones take some rounds.
	for range 20 {
		left := 0
		for _, id := range buildCache() {
			if !slices.Contains(cache, id) {
				left++
				exec.Command("docker", "builder", "prune", "-af", "--filter", "id="+id).Run()
			}
		}
		if left == 0 {
			return nil
		}
	}
	return errors.New("cannot empty the build cache")
}

// buildCache are the ids of BuildKit's records; none without BuildKit.
func buildCache() (ids []string) {
	out, err := exec.Command("docker", "buildx", "du", "--verbose").Output()
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(out)) {
		if id, ok := strings.CutPrefix(line, "ID:"); ok {
			ids = append(ids, strings.TrimSpace(id))
		}
	}
	return ids
}

func needEngine(t testing.TB) {
	t.Helper()
	if out, err := exec.Command("docker", "version", "--format", "{{.Server.Version}}").CombinedOutput(); err != nil {
		t.Skipf("SKIPPED, NOT TESTED: no Docker engine: %s", out)
	}
}

// A builder is a way to build an image.
type builder struct {
	name     string
	buildkit string // of DOCKER_BUILDKIT
}

var (
	classic  = builder{"classic", "0"}
	buildkit = builder{"buildkit", "1"}
)

// build makes an image from a shipped file, on the stand-ins, with no network.
func (b builder) build(t testing.TB, file string, args ...string) string {
	t.Helper()
	if b == buildkit {
		if out, err := exec.Command("docker", "buildx", "version").CombinedOutput(); err != nil {
			t.Skipf("SKIPPED, NOT TESTED: no BuildKit in this docker client: %s", out)
		}
	}
	image := fmt.Sprintf("%s-%s-%s", prefix, strings.ToLower(strings.TrimSuffix(file, ".Dockerfile")), b.name)
	if images[image] {
		return image
	}
	command := []string{"build", "--network", "none", "--force-rm", "-f", file, "-t", image}
	for _, a := range args {
		command = append(command, "--build-arg", a)
	}
	began := time.Now()
	cmd := exec.Command("docker", append(command, "..")...)
	cmd.Env = append(os.Environ(), "DOCKER_BUILDKIT="+b.buildkit)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s build of %s: %v\n%s", b.name, file, err, out)
	}
	images[image] = true
	t.Logf("%s build of %s: %v", b.name, file, time.Since(began).Round(time.Second))
	return image
}

func (b builder) instance(t testing.TB) string {
	t.Helper()
	needEngine(t)
	return b.build(t, "Dockerfile", "GO_IMAGE="+goStandIn(t), "RUN_IMAGE="+runStandIn(t))
}

func (b builder) front(t testing.TB) string {
	t.Helper()
	needEngine(t)
	return b.build(t, "nginx.Dockerfile", "NGINX_IMAGE="+nginxStandIn(t))
}

// container is one that runs until the test ends.
type container struct {
	t    testing.TB
	name string
	url  string
}

// hardened are the flags of a container that may do nothing it need not.
var hardened = []string{"--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
	"--tmpfs", "/run/revenant:uid=65532,gid=65532,mode=0700"}

// soon asks for the health more often than the image does.
var soon = append([]string{"--health-interval", "500ms"}, hardened...)

func startContainer(t testing.TB, image string, flags []string, args ...string) *container {
	t.Helper()
	c := &container{t: t, name: fmt.Sprintf("%s-%d", prefix, time.Now().UnixNano())}
	port := freePort(t)
	c.url = fmt.Sprintf("http://127.0.0.1:%d", port)
	command := append([]string{"run", "-d", "--name", c.name, "-p", fmt.Sprintf("127.0.0.1:%d:3000", port)}, flags...)
	docker(t, append(append(command, image), args...)...)
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := exec.Command("docker", "logs", "--tail", "40", c.name).CombinedOutput()
			t.Logf("%s said:\n%s", c.name, out)
		}
		docker(t, "rm", "-f", "-v", c.name)
	})
	return c
}

// exec runs a program in the container.
func (c *container) exec(args ...string) (string, error) {
	out, err := exec.Command("docker", append([]string{"exec", c.name}, args...)...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// status is what `revenant ps -o json` says, as far as the tests ask.
type status struct {
	Instance   string
	Generation int
	State      string
	Ready      int
	KeeperPID  int `json:"keeper_pid"`
	MasterPID  int `json:"master_pid"`
	Workers    []struct {
		Worker, PID int
		State       string
	}
}

func (c *container) status() (s status) {
	c.t.Helper()
	out, err := c.exec("/revenant", "ps", "-o", "json")
	if err == nil {
		err = json.Unmarshal([]byte(out), &s)
	}
	if err != nil {
		c.t.Logf("revenant ps: %v: %s", err, out)
	}
	return s
}

// inspect reads a value of the container.
func (c *container) inspect(format string) string {
	c.t.Helper()
	return docker(c.t, "inspect", "--format", format, c.name)
}

func (c *container) untilHealthy() {
	c.t.Helper()
	eventually(c.t, 30*time.Second, "the container is healthy", func() bool {
		return c.inspect("{{.State.Health.Status}}") == "healthy"
	})
}

func docker(t testing.TB, args ...string) string {
	t.Helper()
	return output(t, "docker", args...)
}

// output runs a command that must succeed and returns what it printed.
func output(t testing.TB, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

// get asks with a new connection; a status of 0 is an error, in the body.
func get(url string) (int, string) {
	client := http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(body)
}

// eventually is the one place that polls.
func eventually(t testing.TB, limit time.Duration, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !holds(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

func freePort(t testing.TB) int {
	t.Helper()
	for range 100 {
		port := 20000 + int(time.Now().UnixNano()/1000%12000)
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			ln.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}
