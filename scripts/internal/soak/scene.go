package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"revenant/nginx"
	"revenant/scripts/internal/stage"
)

// scene is the instances and the front of one soak.
type scene struct {
	dir       string
	binaries  [2]string
	journal   string
	instances []*stage.Instance
	watches   []*stage.Watch
	front     *stage.Front
}

// newScene makes a folder. The script has built two versions beside this program.
func newScene() (*scene, error) {
	one, err := stage.Binary()
	if err != nil {
		return nil, err
	}
	two := one + "-next"
	if _, err := os.Stat(two); err != nil {
		return nil, fmt.Errorf("cannot find another version to upgrade to: %w", err)
	}
	// Short, for the paths of sockets; nginx's user passes through.
	dir, err := os.MkdirTemp("", "soak")
	if err == nil {
		err = os.Chmod(dir, 0o711)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot make a folder: %w", err)
	}
	return &scene{dir: dir, binaries: [2]string{one, two}, journal: filepath.Join(dir, "journal")}, nil
}

// start adds an instance of two workers that keep the journal.
func (s *scene) start(ctx context.Context, flags ...string) (*stage.Instance, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	ports, err := stage.FreePorts(1)
	if err != nil {
		return nil, err
	}
	i := &stage.Instance{
		Binary: s.binaries[0], Name: fmt.Sprintf("i%d", len(s.instances)+1), RuntimeDir: filepath.Join(s.dir, "run"), Listen: stage.Target(ports[0]),
	}
	if err := i.Start(ctx, nil, s.flags(self, flags)...); err != nil {
		return nil, err
	}
	s.instances = append(s.instances, i)
	return i, nil
}

func (s *scene) flags(self string, flags []string) []string {
	return append(append([]string{"--workers", "2", "--log-format", "json"}, flags...), "--", self, workerVerb, s.journal)
}

// watch follows an instance.
func (s *scene) watch(ctx context.Context, i *stage.Instance) (*stage.Watch, error) {
	w, err := i.Watch(ctx)
	if err == nil {
		s.watches = append(s.watches, w)
	}
	return w, err
}

// behindFront starts nginx with production.conf before the instances; with one
// instance it is both.
func (s *scene) behindFront(ctx context.Context) error {
	ports, err := stage.FreePorts(3)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(s.dir, "nginx")
	if err != nil {
		return err
	}
	s.front = &stage.Front{Config: "production.conf", Dir: dir, Ports: nginx.Ports{Front: ports[0], Status: ports[1]}}
	s.front.Ports.Instances[2] = ports[2] // the standby: nobody
	for n := range 2 {
		listen := s.instances[min(n, len(s.instances)-1)].Listen
		if _, err := fmt.Sscanf(listen, "tcp://127.0.0.1:%d", &s.front.Ports.Instances[n]); err != nil {
			return err
		}
	}
	return s.front.Start(ctx)
}

// end stops everything.
func (s *scene) end() error {
	for _, w := range s.watches {
		w.Close()
	}
	var err error
	if s.front != nil {
		err = s.front.Stop()
	}
	for _, i := range s.instances {
		err = errors.Join(err, i.Stop())
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}

// command runs a verb of the instance; its error holds what it said.
func command(ctx context.Context, i *stage.Instance, verb string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if out, err := i.Command(ctx, verb, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("revenant %s: %w\n%s", verb, err, bytes.TrimSpace(out))
	}
	return nil
}

// settle waits until the instance has the workers that it wants and no former
// ones, so that what comes next begins from rest.
func settle(ctx context.Context, i *stage.Instance) (stage.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return i.AwaitReady(ctx)
}
