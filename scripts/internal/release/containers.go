package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"revenant/nginx"
)

// containers are the services of a compose file. A successor is made by compose,
// with another image.
type containers struct {
	options *options
	tool    []string // docker compose, or docker-compose
	all     []member
	standby member
	present map[string]string // the image of each
	keep    map[string]string // that image by its ID, which no build takes away
}

// containers finds the project that runs.
func (o *options) containers(ctx context.Context) (fleet, *nginx.Site, error) {
	c := &containers{options: o, present: map[string]string{}, keep: map[string]string{}}
	var err error
	if c.tool, err = composeTool(ctx); err != nil {
		return nil, nil, err
	}
	if _, err := output(ctx, nil, "docker", "image", "inspect", "--format", "{{.Id}}", o.image); err != nil {
		return nil, nil, fmt.Errorf("there is no image %s (docker build -f docker/Dockerfile -t %s .): %w", o.image, o.image, err)
	}
	for _, name := range o.instances {
		m, err := c.find(ctx, name)
		if err != nil {
			return nil, nil, err
		}
		c.all = append(c.all, m)
	}
	if c.standby, err = c.find(ctx, o.standby); err != nil {
		c.standby = member{name: o.standby}
	}
	front, err := c.container(ctx, "nginx")
	if err != nil {
		return nil, nil, fmt.Errorf("nginx is not running: %w", err)
	}
	site := &nginx.Site{Dir: o.site, Running: &containerNginx{front}, Closing: filepath.Join(o.site, "closing")}
	return c, site, nil
}

func composeTool(ctx context.Context) ([]string, error) {
	var said error
	for _, tool := range [][]string{{"docker", "compose"}, {"docker-compose"}} {
		_, err := output(ctx, nil, append(tool[:len(tool):len(tool)], "version")...)
		if err == nil {
			return tool, nil
		}
		said = errors.Join(said, err)
	}
	return nil, fmt.Errorf("there is neither docker compose nor docker-compose: %w", said)
}

// output runs a command and returns what it prints; the error holds its words.
func output(ctx context.Context, env []string, command ...string) (string, error) {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = append(os.Environ(), env...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(command, " "), err, bytes.TrimSpace(said.Bytes()))
	}
	return strings.TrimSpace(string(out)), nil
}

func (c *containers) compose(ctx context.Context, image string, args ...string) (string, error) {
	command := append(c.tool[:len(c.tool):len(c.tool)], "-f", c.options.compose, "--profile", "standby")
	return output(ctx, []string{"REVENANT_IMAGE=" + image}, append(command, args...)...)
}

// container is the ID of a service's container, which runs.
func (c *containers) container(ctx context.Context, service string) (string, error) {
	id, err := c.compose(ctx, c.options.image, "ps", "-q", service)
	if err != nil {
		return "", err
	}
	state := ""
	if id != "" {
		state, err = output(ctx, nil, "docker", "inspect", "--format", "{{.State.Status}}", id)
	}
	if err == nil && state != "running" {
		err = fmt.Errorf("there is no running container of %s in %s (start it first, with compose)", service, c.options.compose)
	}
	return id, err
}

// inspection is what docker says of a container.
type inspection struct {
	Image  string
	Config struct{ Image string }
	State  struct {
		Status string
		Health *struct{ Status string }
	}
	RestartCount    int
	Path            string
	Args            []string
	NetworkSettings struct {
		Networks map[string]struct{ IPAddress string }
	}
}

func inspect(ctx context.Context, id string) (i inspection, err error) {
	text, err := output(ctx, nil, "docker", "inspect", "--format", "{{json .}}", id)
	if err == nil {
		err = json.Unmarshal([]byte(text), &i)
	}
	return i, err
}

func (c *containers) find(ctx context.Context, service string) (member, error) {
	id, err := c.container(ctx, service)
	if err != nil {
		return member{}, err
	}
	i, err := inspect(ctx, id)
	if err != nil {
		return member{}, err
	}
	m := member{name: service, runs: true}
	for _, network := range i.NetworkSettings.Networks {
		m.addresses = append(m.addresses, network.IPAddress+":3000")
	}
	c.present[service], c.keep[service] = i.Config.Image, i.Config.Image
	if now, err := output(ctx, nil, "docker", "image", "inspect", "--format", "{{.Id}}", i.Config.Image); err != nil || now != i.Image {
		c.keep[service] = i.Image
	}
	return m, nil
}

func (c *containers) members() []member         { return c.all }
func (c *containers) spare() member             { return c.standby }
func (c *containers) version() string           { return c.options.image }
func (c *containers) versionOf(m member) string { return c.present[m.name] }

func (c *containers) raise(ctx context.Context, _ string) error {
	if c.standby.runs {
		return c.swap(context.WithoutCancel(ctx), c.standby)
	}
	err := c.up(ctx, c.standby.name, c.options.image)
	if err != nil {
		err = errors.Join(err, c.lower(context.WithoutCancel(ctx)))
	}
	return err
}

func (c *containers) lower(ctx context.Context) error {
	if c.standby.runs {
		return nil
	}
	_, err := c.compose(ctx, c.options.image, "rm", "--stop", "--force", c.standby.name)
	return err
}

func (c *containers) swap(ctx context.Context, m member) error {
	err := c.up(ctx, m.name, c.options.image)
	if err == nil {
		return nil
	}
	if back := c.up(ctx, m.name, c.keep[m.name]); back != nil {
		return goneError{fmt.Errorf("%w; and the former version did not come back: %w", err, back)}
	}
	c.present[m.name] = c.keep[m.name]
	return fmt.Errorf("%w (it is back on %s)", err, c.keep[m.name])
}

// up has compose stop a service's container, which drains it, and make another
// one with an image; it waits until that one is healthy.
func (c *containers) up(ctx context.Context, service, image string) error {
	ctx, cancel := context.WithTimeout(ctx, c.options.limit)
	defer cancel()
	if _, err := c.compose(ctx, image, "up", "--detach", "--no-deps", "--no-build", "--force-recreate", service); err != nil {
		return fmt.Errorf("cannot start %s on %s: %w", service, image, err)
	}
	id, err := c.compose(ctx, image, "ps", "-q", service)
	if err == nil {
		err = awaitHealth(ctx, id)
	}
	if err != nil {
		said, _ := exec.Command("docker", "logs", "--tail", "5", id).CombinedOutput()
		return fmt.Errorf("%s does not come up on %s: %w\n%s", service, image, err, bytes.TrimSpace(said))
	}
	c.present[service] = image
	return nil
}

func awaitHealth(ctx context.Context, id string) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		i, err := inspect(ctx, id)
		health := "none"
		if i.State.Health != nil {
			health = i.State.Health.Status
		}
		switch {
		case err != nil:
			return err
		case i.State.Status == "running" && i.RestartCount == 0 && health == "healthy":
			return nil
		case i.RestartCount > 0 || i.State.Status == "exited" || health == "unhealthy" || health == "none":
			return fmt.Errorf("its container is %s and %s, and was restarted %d times", i.State.Status, health, i.RestartCount)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("it is not healthy within the limit, but %s", health)
		case <-tick.C:
		}
	}
}

// containerNginx is an nginx in a container. It is Running.
type containerNginx struct{ id string }

// Check runs nginx -t beside the running one, with the same arguments.
func (n *containerNginx) Check(ctx context.Context) error {
	i, err := inspect(ctx, n.id)
	if err != nil {
		return err
	}
	args := append([]string{"exec", n.id, i.Path}, i.Args...)
	return nginx.Refusal(exec.CommandContext(ctx, "docker", append(args, "-t", "-q")...).CombinedOutput())
}

// Reload sends HUP and waits for the change of processes.
func (n *containerNginx) Reload(ctx context.Context) error {
	processes, err := n.processes(ctx)
	if err != nil {
		return err
	}
	turn, since := nginx.Turn{Old: nginx.Workers(processes)}, time.Now()
	if _, err := output(ctx, nil, "docker", "kill", "--signal", "HUP", n.id); err != nil {
		return err
	}
	return turn.Await(ctx, func() (map[int]string, string, error) {
		processes, err := n.processes(ctx)
		log, _ := exec.CommandContext(ctx, "docker", "logs", "--since", since.Format(time.RFC3339Nano), n.id).CombinedOutput()
		return processes, nginx.Failures(log, 1), err
	})
}

// Waiting is not known: the status is on the loopback of the container alone.
func (n *containerNginx) Waiting(context.Context) (int, bool) { return 0, false }

// processes are the titles of all processes of the container, by a pid that is
// not the one inside.
func (n *containerNginx) processes(ctx context.Context) (map[int]string, error) {
	text, err := output(ctx, nil, "docker", "top", n.id, "-eo", "pid,args")
	if err != nil {
		return nil, err
	}
	titles := map[int]string{}
	for line := range strings.Lines(text) {
		var pid int
		var title string
		if fields := strings.Fields(line); len(fields) > 1 {
			_, _ = fmt.Sscan(fields[0], &pid)
			title = strings.Join(fields[1:], " ")
		}
		if pid > 0 {
			titles[pid] = title
		}
	}
	return titles, nil
}
