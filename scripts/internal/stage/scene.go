package stage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"revenant/nginx"
)

// Scene is instances, whoever follows them, and a front where there is one. End
// ends them all.
type Scene struct {
	Dir       string // for runtime folders and those of nginx; its owner removes it
	Instances []*Instance
	Watches   []*Watch
	Front     *Front
}

// NewDir makes a folder for scenes: short, for the paths of sockets, and passable,
// for nginx serves as another user when root starts it.
func NewDir(name string) (string, error) {
	dir, err := os.MkdirTemp("", name)
	if err == nil {
		err = os.Chmod(dir, 0o711)
	}
	if err != nil {
		return "", fmt.Errorf("cannot make a folder: %w", err)
	}
	return dir, nil
}

// NewInstance is one on a free port, which is not started yet.
func (s *Scene) NewInstance(binary, name string) (*Instance, error) {
	ports, err := FreePorts(1)
	if err != nil {
		return nil, err
	}
	return &Instance{Binary: binary, Name: name, RuntimeDir: filepath.Join(s.Dir, "run"), Listen: Target(ports[0])}, nil
}

// Start starts an instance that is new to the scene. What it says goes to output,
// nil for nowhere.
func (s *Scene) Start(ctx context.Context, i *Instance, output io.Writer, flags ...string) error {
	if err := i.Start(ctx, output, flags...); err != nil {
		return err
	}
	s.Instances = append(s.Instances, i)
	return nil
}

// Watch follows an instance.
func (s *Scene) Watch(ctx context.Context, i *Instance) (*Watch, error) {
	w, err := i.Watch(ctx)
	if err == nil {
		s.Watches = append(s.Watches, w)
	}
	return w, err
}

// BehindFront starts nginx with production.conf before the instances; a single one
// is both.
func (s *Scene) BehindFront(ctx context.Context) error {
	ports, err := FreePorts(3)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(s.Dir, "nginx")
	if err != nil {
		return err
	}
	s.Front = &Front{Config: "production.conf", Dir: dir, Ports: nginx.Ports{Front: ports[0], Status: ports[1]}}
	s.Front.Ports.Instances[2] = ports[2] // the standby: nobody
	for n := range 2 {
		listen := s.Instances[min(n, len(s.Instances)-1)].Listen
		if _, err := fmt.Sscanf(listen, "tcp://127.0.0.1:%d", &s.Front.Ports.Instances[n]); err != nil {
			return err
		}
	}
	return s.Front.Start(ctx)
}

// End stops everything. What does not stop is an error.
func (s *Scene) End() error {
	for _, watch := range s.Watches {
		watch.Close()
	}
	var err error
	if s.Front != nil {
		err = s.Front.Stop()
	}
	for _, instance := range s.Instances {
		err = errors.Join(err, instance.Stop())
	}
	return err
}

// Pause waits, unless ctx ends first.
func Pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
