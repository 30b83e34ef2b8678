package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"revenant/scripts/internal/stage"
	"revenant/scripts/ledger"
)

// container upgrades the instance in a container, whose PID 1 is the keeper. The
// image is made here, of nothing but three programs.
func container(ctx context.Context, args []string) (v verdict, err error) {
	count, rate := 0, 0.0
	err = flags("container", args, func(f *flag.FlagSet) {
		f.IntVar(&count, "count", 20, "upgrades")
		f.Float64Var(&rate, "rate", 200, "requests per second")
	})
	if err != nil {
		return v, err
	}
	s, err := newScene()
	if err != nil {
		return v, err
	}
	defer func() { err = errors.Join(err, s.end()) }()
	sweep(ctx)
	b, err := s.box(ctx)
	if b != nil {
		defer func() { err = errors.Join(err, b.remove()) }()
	}
	if err != nil {
		return v, err
	}
	before, err := b.state(ctx)
	if err != nil {
		return v, err
	}
	over := make(chan struct{})
	load := ledger.Load{Target: b.target, Duration: 24 * time.Hour, Stop: over, Clients: 4, Rate: rate / 2, Post: 16 << 10, Timeout: 30 * time.Second, ConnectTimeout: 30 * time.Second}
	kept := load
	kept.KeepAlive = true
	crowd := begin(ctx, load, kept)
	upgradeErr := b.upgrades(ctx, count)
	close(over)
	report, loadErr := crowd.end()
	if err := errors.Join(upgradeErr, loadErr); err != nil {
		return v, err
	}
	after, err := b.state(ctx)
	if err != nil {
		return v, err
	}
	v.add(before == after, fmt.Sprintf("the container after %d upgrades", count), "the same process, never restarted", "pid and start %s, was %s", after, before)
	return v, v.judge(report, s.journal)
}

// box is the container.
type box struct {
	name, target string
}

// box makes the image and starts it. What it returns is to be removed, also
// after an error.
func (s *scene) box(ctx context.Context) (*box, error) {
	ports, err := stage.FreePorts(1)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	context := filepath.Join(s.Dir, "image")
	if err := os.Mkdir(context, 0o755); err != nil {
		return nil, err
	}
	for name, from := range map[string]string{"revenant": s.binaries[0], "revenant-next": s.binaries[1], "soak": self} {
		program, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(filepath.Join(context, name), program, 0o755)
		}
		if err != nil {
			return nil, err
		}
	}
	file := "FROM scratch\nCOPY revenant revenant-next soak /\nSTOPSIGNAL SIGTERM\nENTRYPOINT [\"/revenant\", \"run\"]\n"
	if err := os.WriteFile(filepath.Join(context, "Dockerfile"), []byte(file), 0o644); err != nil {
		return nil, err
	}
	b := &box{name: fmt.Sprintf("%s%d", boxes, os.Getpid()), target: stage.Target(ports[0])}
	if _, err := docker(ctx, "build", "-q", "-t", b.name, context); err != nil {
		return b, err
	}
	// The journal is a file of this machine, in a folder that the container sees.
	journal := filepath.Join(s.Dir, "books")
	if err := os.Mkdir(journal, 0o777); err != nil {
		return b, err
	}
	s.journal = filepath.Join(journal, "journal")
	_, err = docker(ctx, "run", "--detach", "--name", b.name, "--read-only",
		"--user", fmt.Sprintf("%d:%d", os.Getuid(), os.Getgid()),
		"--tmpfs", fmt.Sprintf("/run/revenant:uid=%d,gid=%d,mode=0700", os.Getuid(), os.Getgid()),
		"--publish", fmt.Sprintf("127.0.0.1:%d:3000", ports[0]), "--volume", journal+":/books", b.name,
		"--listen", "tcp://0.0.0.0:3000", "--runtime-dir", "/run/revenant", "--workers", "2", "--log-format", "json", "--", "/soak", workerVerb, "/books/journal")
	if err == nil {
		err = b.await(ctx)
	}
	return b, err
}

// boxes begins the name of every box, before the pid of its soak.
const boxes = "revenant-soak-"

// sweep removes the boxes of soaks that were killed.
func sweep(ctx context.Context) {
	names, _ := docker(ctx, "ps", "--all", "--filter", "name="+boxes, "--format", "{{.Names}}")
	for name := range strings.FieldsSeq(names) {
		if _, err := os.Stat("/proc/" + strings.TrimPrefix(name, boxes)); err != nil {
			fmt.Println("removing what a killed soak has left:", name)
			_ = (&box{name: name}).remove()
		}
	}
}

func docker(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "docker", args...)
	cmd.Env = append(os.Environ(), "DOCKER_BUILDKIT=0")
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("docker %s: %w\n%s%s", args[0], err, out, bytes.TrimSpace(said.Bytes()))
	}
	return strings.TrimSpace(string(out)), nil
}

// revenant runs a command of the instance.
func (b *box) revenant(ctx context.Context, args ...string) (string, error) {
	return docker(ctx, append([]string{"exec", b.name, "/revenant", args[0], "--runtime-dir", "/run/revenant"}, args[1:]...)...)
}

// await waits until the instance rests.
func (b *box) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		var status stage.Status
		text, err := b.revenant(ctx, "ps", "-o", "json")
		if err == nil {
			err = json.Unmarshal([]byte(text), &status)
		}
		switch {
		case err == nil && status.KeeperPID != 1:
			return fmt.Errorf("the keeper has pid %d in the container, want 1", status.KeeperPID)
		case err == nil && status.State == "ready" && len(status.Workers) == status.Desired:
			return nil
		}
		if late := stage.Pause(ctx, 50*time.Millisecond); late != nil {
			return fmt.Errorf("the container is not ready: %w", errors.Join(late, err))
		}
	}
}

func (b *box) upgrades(ctx context.Context, count int) error {
	for n := range count {
		program := []string{"/revenant-next", "/revenant"}[n%2]
		if _, err := b.revenant(ctx, "upgrade", "--binary", program); err != nil {
			return fmt.Errorf("upgrade %d of %d: %w", n+1, count, err)
		}
		if err := b.await(ctx); err != nil {
			return fmt.Errorf("after upgrade %d of %d: %w", n+1, count, err)
		}
	}
	return nil
}

// state names the process that the container is.
func (b *box) state(ctx context.Context) (string, error) {
	return docker(ctx, "inspect", "--format", "{{.State.Pid}} {{.State.StartedAt}} {{.RestartCount}}", b.name)
}

func (b *box) remove() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err := docker(ctx, "rm", "--force", "--volumes", b.name)
	_, err2 := docker(ctx, "rmi", "--force", b.name)
	return errors.Join(err, err2)
}
