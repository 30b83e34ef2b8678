package docker

import (
	"os/exec"
	"strings"
	"testing"
	"time"

	"revenant/supervisor/supervisortest"
)

// golang is the public image that the Dockerfile is built on.
const golang = "golang:1.26-bookworm"

// The README's commands, as they stand there. A public base image that is not
// here is a stand-in by its name.
func TestDockerCommandsOfTheReadmeWork(t *testing.T) {
	p := newProject(t, "v1")
	nameStandIn(t, golang, goStandIn(t))
	if exec.Command("docker", "image", "inspect", "revenant").Run() == nil {
		t.Skip("SKIPPED, NOT TESTED: there is an image named revenant, which the README's command would replace")
	}
	images["revenant"] = true
	t.Cleanup(func() { _, _ = p.shell("docker-compose -f docker/compose.yaml down") })
	ran := 0
	for _, command := range supervisortest.ReadmeCommands(t) {
		if !strings.HasPrefix(command, "docker") {
			continue
		}
		if out, err := p.shell(command); err != nil {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
		ran++
		if strings.HasSuffix(command, "--detach") {
			eventually(t, time.Minute, "an answer on "+p.front, func() bool { return who(p.front) != "" })
		}
	}
	if ran != 3 {
		t.Errorf("%d commands of the README were run, want 3", ran)
	}
}

// shell runs a command as a reader would, from the top of the tree. The run
// stage is that of the Dockerfile.
func (p *project) shell(command string) (string, error) {
	cmd := exec.Command("sh", "-c", command)
	cmd.Dir = supervisortest.Root()
	for _, line := range p.env {
		if !strings.HasPrefix(line, "RUN_IMAGE=") {
			cmd.Env = append(cmd.Env, line)
		}
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// nameStandIn gives a stand-in a public image's name, where nobody has that.
func nameStandIn(t *testing.T, name, standIn string) {
	t.Helper()
	if exec.Command("docker", "image", "inspect", name).Run() == nil {
		return
	}
	docker(t, "tag", standIn, name)
	images[name] = true
}
