package docker

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"revenant/scripts/ledger"
)

// upgrades is how many there are in a row; REVENANT_TEST_UPGRADES asks for more.
func upgrades(t *testing.T) int {
	t.Helper()
	text := os.Getenv("REVENANT_TEST_UPGRADES")
	if text == "" {
		return 3
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("REVENANT_TEST_UPGRADES=%s: not a number of upgrades", text)
	}
	return n
}

// release builds the binary of another version, as it is in an image.
func release(t *testing.T, version string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), version)
	build := exec.Command("go", "build", "-ldflags", "-s -w -X main.release="+version, "-o", path, "./cmd/revenant")
	build.Dir, build.Env = "..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

func TestUpgradeInAContainerKeepsItsFirstProcessAndEveryRequest(t *testing.T) {
	c := startContainer(t, classic.instance(t), soon[:2], "--workers", "2") // its files may be written to
	c.untilHealthy()
	before, started := c.status(), c.inspect("{{.State.Pid}} {{.State.StartedAt}}")
	docker(t, "cp", release(t, "second"), c.name+":/second")
	stop, reports := make(chan struct{}), make(chan ledger.Report, 2)
	for _, keep := range []bool{false, true} {
		load := ledger.Load{Target: "tcp://" + strings.TrimPrefix(c.url, "http://"), Clients: 2, KeepAlive: keep, Duration: 10 * time.Minute, Stop: stop,
			ConnectTimeout: 30 * time.Second, Timeout: 30 * time.Second}
		// Ends when stop is closed.
		go func() {
			report, err := load.Run(context.Background())
			if err != nil {
				t.Errorf("load: %v", err)
			}
			reports <- report
		}()
	}
	n := upgrades(t)
	for i := range n {
		args := []string{"/revenant", "upgrade", "--rollback"}
		if i%2 == 0 {
			args = []string{"/revenant", "upgrade", "--binary", "/second"}
		}
		if out, err := c.exec(args...); err != nil {
			t.Fatalf("upgrade %d: %v: %s", i+1, err, out)
		}
		eventually(t, 30*time.Second, "the next generation is ready", func() bool { s := c.status(); return s.Generation == before.Generation+i+1 && s.State == "ready" })
	}
	close(stop)
	report := ledger.Merge(<-reports, <-reports)
	t.Logf("%d upgrades: %v", n, report)
	if report.Failed() > 0 || report.Sent() == 0 {
		t.Errorf("%d of %d requests failed: %v", report.Failed(), report.Sent(), report.Failures)
	}
	after := c.status()
	if after.KeeperPID != 1 || after.Instance != before.Instance || after.MasterPID == before.MasterPID {
		t.Errorf("after the upgrades %+v, before them %+v", after, before)
	}
	if got := c.inspect("{{.State.Pid}} {{.State.StartedAt}}"); got != started {
		t.Errorf("the container is another one: %s, it was %s", got, started)
	}
	c.stayed()
}
