package docker

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"revenant/scripts/ledger"
)

// scripts/release, on the shipped compose file.
func TestReleaseOfContainersLosesNothing(t *testing.T) {
	version := "v1"
	if exec.Command("docker-compose", "version").Run() != nil {
		version = "v2"
	}
	p := newProject(t, version)
	p.up()
	// Another image with the same program, and one whose program never serves.
	next, sick := p.name+"-next", p.name+"-sick"
	p.derive(next, "REVENANT_WORKERS=3")
	p.derive(sick, "REVENANT_LISTEN=tcp://192.0.2.1:3000")
	before := map[string]string{"one": p.id("one"), "two": p.id("two"), "nginx": p.id("nginx")}
	site := read(t, filepath.Join(p.site, "servers.conf")) + read(t, filepath.Join(p.site, "standby.conf"))

	stop := p.beginLoad()
	out, err := p.release(sick)
	if code := new(exec.ExitError); !errors.As(err, &code) || code.ExitCode() != 1 || !strings.Contains(out, "Nothing was changed") || !strings.Contains(out, "cannot bind") {
		t.Errorf("a sick image: %v, want it refused with its words", err)
	}
	if p.id("one") != before["one"] || p.id("two") != before["two"] || p.id("standby") != "" {
		t.Error("a sick image has changed what runs")
	}
	if _, err := p.release(next); err != nil {
		t.Errorf("release: %v", err)
	}
	stop()

	for _, service := range []string{"one", "two"} {
		if image := docker(t, "inspect", "--format", "{{.Config.Image}}", p.id(service)); image != next {
			t.Errorf("%s runs %s, want %s", service, image, next)
		}
	}
	if p.id("nginx") != before["nginx"] || p.id("standby") != "" {
		t.Error("nginx is another one, or the standby is still there")
	}
	if now := read(t, filepath.Join(p.site, "servers.conf")) + read(t, filepath.Join(p.site, "standby.conf")); now != site {
		t.Errorf("nginx's files are not what they were:\n%s", now)
	}
}

// derive makes an image that differs from the instances' in a variable.
func (p *project) derive(image, variable string) {
	p.t.Helper()
	cmd := exec.Command("docker", "build", "-q", "-t", image, "-")
	cmd.Env = p.env
	cmd.Stdin = strings.NewReader("FROM " + p.name + "-instance\nENV " + variable + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		p.t.Fatalf("docker build: %v\n%s", err, out)
	}
	images[image] = true
}

func (p *project) release(image string) (string, error) {
	ctx, cancel := context.WithTimeout(p.t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "../scripts/release", "--image", image)
	cmd.Env = p.env
	out, err := cmd.CombinedOutput()
	p.t.Logf("scripts/release: %v\n%s", err, out)
	return string(out), err
}

// beginLoad has clients ask through nginx, until stop, which counts.
func (p *project) beginLoad() (stop func()) {
	end, reports := make(chan struct{}), make(chan ledger.Report, 2)
	for _, keep := range []bool{true, false} {
		load := ledger.Load{Target: "tcp://" + p.front, Duration: 10 * time.Minute, Stop: end, Clients: 2, Rate: 40, KeepAlive: keep,
			Post: 16 << 10, ConnectTimeout: time.Minute, Timeout: time.Minute,
			Right: func(_ ledger.Request, r ledger.Response) bool {
				return bytes.HasPrefix(r.Body, []byte("Hello, I am worker"))
			}}
		// Ends with end; stop waits for it.
		go func() {
			report, err := load.Run(context.Background())
			if err != nil {
				p.t.Error(err)
			}
			reports <- report
		}()
	}
	return func() {
		p.t.Helper()
		close(end)
		report := ledger.Merge(<-reports, <-reports)
		p.t.Log(report)
		if report.Failed() > 0 || report.Sent() == 0 {
			p.t.Errorf("%d of %d requests failed: %s: %v", report.Failed(), report.Sent(), report.Kinds(), report.Failures[:min(3, report.Failed())])
		}
	}
}
