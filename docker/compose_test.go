package docker

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// The compose tools there are: the plugin (v2) and the older program.
var composeTools = map[string][]string{
	"v2": {"docker", "compose"},
	"v1": {"docker-compose"},
}

// project is the shipped compose file, running under a name and on ports of its own.
type project struct {
	t    *testing.T
	tool []string
	name string
	env  []string

	front, one, two, standby string // where they are published
	site                     string // a copy of the shipped one, with the addresses of a network that is free
}

// newProject needs the tool; nothing is started yet.
func newProject(t *testing.T, version string) *project {
	t.Helper()
	needEngine(t)
	tool := composeTools[version]
	if out, err := exec.Command(tool[0], append(tool[1:len(tool):len(tool)], "version")...).CombinedOutput(); err != nil {
		t.Skipf("SKIPPED, NOT TESTED: no %s: %v: %s", strings.Join(tool, " "), err, out)
	}
	p := &project{t: t, tool: tool, name: prefix + "-" + version}
	address := func() string { return fmt.Sprintf("127.0.0.1:%d", freePort(t)) }
	p.front, p.one, p.two, p.standby = address(), address(), address(), address()
	instance, front := p.name+"-instance", p.name+"-front"
	images[instance], images[front] = true, true
	network := freeNetwork(t)
	p.site = siteOn(t, network)
	p.env = append(os.Environ(),
		"DOCKER_BUILDKIT=0", "COMPOSE_DOCKER_CLI_BUILD=0",
		"COMPOSE_PROJECT_NAME="+p.name,
		"GO_IMAGE="+goStandIn(t), "RUN_IMAGE="+runStandIn(t), "NGINX_IMAGE="+nginxStandIn(t),
		"REVENANT_IMAGE="+instance, "NGINX_FRONT_IMAGE="+front,
		"NETWORK="+network, "SITE="+p.site,
		"FRONT="+p.front, "ONE="+p.one, "TWO="+p.two, "STANDBY="+p.standby,
		"REVENANT_CHAOS=true",
	)
	return p
}

// compose runs the tool on the shipped file.
func (p *project) compose(args ...string) string {
	p.t.Helper()
	out, err := p.try(args...)
	if err != nil {
		p.t.Fatalf("%s %s: %v\n%s", strings.Join(p.tool, " "), strings.Join(args, " "), err, out)
	}
	return out
}

func (p *project) try(args ...string) (string, error) {
	command := append(append(p.tool[1:len(p.tool):len(p.tool)], "-f", "compose.yaml"), args...)
	cmd := exec.Command(p.tool[0], command...)
	cmd.Env = p.env
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (p *project) up() {
	p.t.Helper()
	began := time.Now()
	p.t.Cleanup(func() {
		if p.t.Failed() {
			out, _ := p.try("logs", "--tail", "30")
			p.t.Log(out)
		}
		p.compose("--profile", "standby", "down", "-v", "-t", "10")
	})
	p.compose("up", "-d", "--build")
	p.t.Logf("up: %v", time.Since(began).Round(time.Second))
	p.settle("one", "two")
}

// settle waits until services are healthy.
func (p *project) settle(services ...string) {
	p.t.Helper()
	for _, service := range services {
		id := p.id(service)
		eventually(p.t, 60*time.Second, service+" is healthy", func() bool {
			return docker(p.t, "inspect", "--format", "{{.State.Health.Status}}", id) == "healthy"
		})
	}
}

func (p *project) id(service string) string {
	p.t.Helper()
	return docker(p.t, "ps", "-aq", "--filter", "label=com.docker.compose.project="+p.name,
		"--filter", "label=com.docker.compose.service="+service)
}

// who answers a GET / at an address: its instance, "" if it is no 200.
func who(address string) string {
	code, body := get("http://" + address + "/")
	_, instance, found := strings.Cut(body, "server [")
	if code != 200 || !found {
		return ""
	}
	return strings.TrimRight(instance, "].\n")
}

// tally counts who answers so many requests.
func (p *project) tally(requests int) (by map[string]int) {
	by = map[string]int{}
	for range requests {
		by[who(p.front)]++
	}
	return by
}

func TestComposeV1(t *testing.T) { testCompose(t, newProject(t, "v1")) }
func TestComposeV2(t *testing.T) { testCompose(t, newProject(t, "v2")) }

func testCompose(t *testing.T, p *project) {
	p.up()
	one, two := who(p.one), who(p.two)
	if one == "" || two == "" || one == two {
		t.Fatalf("the instances are %q and %q, want two", one, two)
	}

	t.Run("both instances answer through nginx", func(t *testing.T) {
		if by := p.tally(40); by[one] < 10 || by[two] < 10 || by[one]+by[two] != 40 {
			t.Errorf("40 requests were answered by %v, want all by %s and %s", by, one, two)
		}
	})
	t.Run("every container is without rights", p.hardened)
	t.Run("the machine may end workers, a container may not", func(t *testing.T) { p.kill(t, one, two) })
	t.Run("an instance may be stopped", func(t *testing.T) {
		docker(t, "stop", p.id("one"))
		began := time.Now()
		if by := p.tally(20); by[two] != 20 {
			t.Errorf("20 requests were answered by %v, want all by %s", by, two)
		}
		t.Logf("20 requests one after another with an instance gone: %v", time.Since(began).Round(time.Millisecond))
	})
	t.Run("the standby answers when both are gone", func(t *testing.T) {
		p.compose("--profile", "standby", "up", "-d", "standby")
		p.settle("standby")
		standby := who(p.standby)
		docker(t, "stop", p.id("two"))
		if by := p.tally(5); standby == "" || by[standby] != 5 {
			t.Errorf("5 requests were answered by %v, want all by %s", by, standby)
		}
	})
	t.Run("nginx ends in peace", func(t *testing.T) {
		id := p.id("nginx")
		docker(t, "stop", id)
		if code := docker(t, "inspect", "--format", "{{.State.ExitCode}}", id); code != "0" {
			t.Errorf("exit code %s, want 0", code)
		}
	})
}

func (p *project) hardened(t *testing.T) {
	for _, service := range []string{"one", "two", "nginx"} {
		var c struct {
			Config     struct{ User string }
			HostConfig struct {
				ReadonlyRootfs bool
				CapDrop        []string
				SecurityOpt    []string
			}
		}
		if err := json.Unmarshal([]byte(docker(t, "inspect", "--format", "{{json .}}", p.id(service))), &c); err != nil {
			t.Fatal(err)
		}
		if c.Config.User != "65532:65532" || !c.HostConfig.ReadonlyRootfs ||
			fmt.Sprint(c.HostConfig.CapDrop) != "[ALL]" || fmt.Sprint(c.HostConfig.SecurityOpt) != "[no-new-privileges:true]" {
			t.Errorf("%s: %+v", service, c)
		}
	}
}

// kill ends workers through nginx from the machine, and fails to from a container beside it.
func (p *project) kill(t *testing.T, instances ...string) {
	last := func() (sum int) { // how many workers there ever were
		for _, service := range []string{"one", "two"} {
			c := container{t: t, name: p.id(service)}
			for _, w := range c.status().Workers {
				sum = sum + w.Worker
			}
		}
		return sum
	}
	before := last()
	out, err := (&container{t: t, name: p.id("one")}).exec("/probe", "get", "http://nginx:3333/workerKiller")
	if err != nil || !strings.HasPrefix(out, "403") {
		t.Errorf("GET /workerKiller from a container: %v %s, want 403", err, out)
	}
	for _, path := range []string{"/workerKiller/", "/workerkiller", "/workerKiller;x"} {
		if code, _ := get("http://" + p.front + path); code != 404 {
			t.Errorf("GET %s: %d, want 404", path, code)
		}
	}
	if now := last(); now != before {
		t.Errorf("a worker died of a request that was refused")
	}
	for range 4 {
		if code, body := get("http://" + p.front + "/workerKiller?mode=kill"); code != 200 {
			t.Fatalf("GET /workerKiller: %d %s", code, body)
		}
		// One death is one successor, with the next number, in the place of the one that died.
		eventually(t, 10*time.Second, "all workers are ready again, one of them new", func() bool { return last() > before })
		before = last()
		if by := p.tally(4); by[""] != 0 {
			t.Errorf("after a death: %v", by)
		}
	}
}
