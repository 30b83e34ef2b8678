package docker

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// config is what an image says of how it wants to run.
type config struct {
	User, StopSignal, WorkingDir string
	Entrypoint, Cmd, Env         []string
	Healthcheck                  *struct{ Test []string }
}

func imageConfig(t *testing.T, image string) (c config, text string) {
	t.Helper()
	text = docker(t, "image", "inspect", "--format", "{{json .Config}}", image)
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return c, string(out)
}

func TestImageIsOneStaticBinaryWithoutRoot(t *testing.T) {
	image := classic.instance(t)
	c, _ := imageConfig(t, image)
	if uid, _, _ := strings.Cut(c.User, ":"); uid == "0" || !isNumber(uid) {
		t.Errorf("user %q, want a number that is not root's", c.User)
	}
	if !slices.Equal(c.Entrypoint, []string{"/revenant", "run"}) || c.StopSignal != "SIGTERM" {
		t.Errorf("entrypoint %q, stop signal %q", c.Entrypoint, c.StopSignal)
	}
	if c.Healthcheck == nil || !slices.Equal(c.Healthcheck.Test, []string{"CMD", "/revenant", "health"}) {
		t.Errorf("health check %+v, want one that needs no shell", c.Healthcheck)
	}
	if !slices.Contains(c.Env, "REVENANT_LISTEN=tcp://0.0.0.0:3000") {
		t.Errorf("environment %q, want it to listen on all addresses of the container", c.Env)
	}
	size, err := strconv.Atoi(docker(t, "image", "inspect", "--format", "{{.Size}}", image))
	if err != nil || size > 24<<20 {
		t.Errorf("%d bytes (%v), want less than 24 MiB with the probe", size, err)
	}
	t.Logf("%.1f MB, of which the probe of the stand-in is some 6", float64(size)/1e6)
	name := docker(t, "create", image)
	defer docker(t, "rm", name)
	for line := range strings.Lines(docker(t, "diff", name)) {
		t.Errorf("a container differs from its image: %s", line)
	}
}

func isNumber(s string) bool {
	_, err := strconv.Atoi(s)
	return err == nil
}

func TestBuildKitBuildsTheSameImage(t *testing.T) {
	for _, of := range []func(builder, *testing.T) string{
		func(b builder, t *testing.T) string { return b.instance(t) },
		func(b builder, t *testing.T) string { return b.front(t) },
	} {
		_, with := imageConfig(t, of(buildkit, t))
		if _, without := imageConfig(t, of(classic, t)); with != without {
			t.Errorf("BuildKit's image is another:\n%s\n%s", with, without)
		}
	}
}

func TestContainerServesWithNoRightsAtAll(t *testing.T) {
	image := classic.instance(t)
	c := startContainer(t, image, hardened)
	c.untilHealthy()
	if code, body := get(c.url); code != 200 || !strings.HasPrefix(body, "Hello, I am worker [") {
		t.Errorf("GET /: %d %q", code, body)
	}
	if code, _ := get(c.url + "/workerKiller"); code != 404 {
		t.Errorf("GET /workerKiller: %d, want 404 without --chaos", code)
	}
	s := c.status()
	if s.KeeperPID != 1 || s.Ready < 2 {
		t.Errorf("keeper has pid %d and %d workers are ready, want 1 and at least 2", s.KeeperPID, s.Ready)
	}
	for line := range strings.Lines(docker(t, "top", c.name, "-o", "pid,uid,args")) {
		if fields := strings.Fields(line); fields[0] != "PID" && fields[1] != "65532" {
			t.Errorf("a process of another user: %s", line)
		}
	}
}

func TestContainerServesWithoutATmpfs(t *testing.T) {
	c := startContainer(t, classic.instance(t), soon[:2])
	c.untilHealthy()
	if out, err := c.exec("/revenant", "health"); err != nil {
		t.Errorf("revenant health: %v: %s", err, out)
	}
}

func TestDockerStopDrainsAndExitsWithZero(t *testing.T) {
	c := startContainer(t, classic.instance(t), soon)
	c.untilHealthy()
	began := time.Now()
	docker(t, "stop", c.name)
	if took := time.Since(began); took > 9*time.Second {
		t.Errorf("docker stop took %v, want less than the 10 s after which it kills", took)
	} else {
		t.Logf("docker stop: %v", took.Round(time.Millisecond))
	}
	if got := c.inspect("{{.State.ExitCode}} {{.State.OOMKilled}}"); got != "0 false" {
		t.Errorf("exit code and OOM: %s, want 0 false", got)
	}
}

func TestWorkersKilledInAContainerComeBack(t *testing.T) {
	c := startContainer(t, classic.instance(t), soon, "--workers", "2")
	c.untilHealthy()
	for range 5 {
		before := c.status()
		for _, w := range before.Workers {
			if out, err := c.exec("/probe", "signal", fmt.Sprint(w.PID), "9"); err != nil {
				t.Fatalf("kill worker %d: %v: %s", w.Worker, err, out)
			}
		}
		// No wait: the listening socket outlives its workers, so this is queued, not refused.
		if code, body := get(c.url); code != 200 {
			t.Errorf("GET / after all workers were killed: %d %s", code, body)
		}
		eventually(t, 10*time.Second, "two other workers are ready", func() bool {
			now := c.status()
			return now.Ready == 2 && now.Workers[0].Worker > before.Workers[0].Worker && now.Workers[1].Worker > before.Workers[1].Worker
		})
	}
	c.stayed()
}

func TestMasterKilledInAContainerIsReplaced(t *testing.T) {
	c := startContainer(t, classic.instance(t), soon, "--workers", "2")
	c.untilHealthy()
	for range 3 {
		before := c.status()
		if out, err := c.exec("/probe", "signal", fmt.Sprint(before.MasterPID), "9"); err != nil {
			t.Fatalf("kill the master: %v: %s", err, out)
		}
		if code, body := get(c.url); code != 200 {
			t.Errorf("GET / after the master was killed: %d %s", code, body)
		}
		eventually(t, 10*time.Second, "another master is in charge", func() bool {
			now := c.status()
			return now.Ready == 2 && now.MasterPID != before.MasterPID && now.Generation > before.Generation &&
				now.Instance == before.Instance && now.KeeperPID == 1
		})
	}
	c.stayed()
}

// stayed asserts that the container is the same one all along.
func (c *container) stayed() {
	c.t.Helper()
	if got := c.inspect("{{.State.Running}} {{.RestartCount}}"); got != "true 0" {
		c.t.Errorf("running, restarts: %s, want true 0", got)
	}
}
