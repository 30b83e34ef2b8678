package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"revenant/scripts/internal/stage"
)

// scene is that of one soak, with two versions of the program, and the journal that
// the workers keep.
type scene struct {
	stage.Scene
	binaries [2]string
	journal  string
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
	dir, err := stage.NewDir("soak")
	if err != nil {
		return nil, err
	}
	return &scene{Scene: stage.Scene{Dir: dir}, binaries: [2]string{one, two}, journal: filepath.Join(dir, "journal")}, nil
}

// start adds an instance of two workers that keep the journal.
func (s *scene) start(ctx context.Context, flags ...string) (*stage.Instance, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	i, err := s.NewInstance(s.binaries[0], fmt.Sprintf("i%d", len(s.Instances)+1))
	if err != nil {
		return nil, err
	}
	return i, s.Start(ctx, i, nil, s.flags(self, flags)...)
}

func (s *scene) flags(self string, flags []string) []string {
	return append(append([]string{"--workers", "2", "--log-format", "json"}, flags...), "--", self, workerVerb, s.journal)
}

// end stops everything.
func (s *scene) end() error { return errors.Join(s.End(), os.RemoveAll(s.Dir)) }

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
