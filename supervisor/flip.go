package supervisor

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/cloudflare/tableflip"
	"golang.org/x/sys/unix"
)

// Flip is this process's part in upgrades: tableflip, of which there is one in a
// process, and only in a master. It starts the successor, hears when that is
// ready, and lets a successor say so. Descriptors do not go through it; see
// doc.go.
type Flip struct {
	upgrader *tableflip.Upgrader
}

// hasParent is by what tableflip knows that it was started by itself; descriptors
// 3 and 4 are then its pipes.
const hasParent = "TABLEFLIP_HAS_PARENT_7DIU3"

// NewFlip is called once in a master, before it starts anything. A successor of
// this process that is not ready within the limit is killed.
func NewFlip(limit time.Duration) (*Flip, error) {
	if os.Getenv(hasParent) != "" {
		unix.CloseOnExec(3)
		unix.CloseOnExec(4)
	}
	upgrader, err := tableflip.New(tableflip.Options{UpgradeTimeout: limit})
	if err != nil {
		return nil, fmt.Errorf("cannot prepare for upgrades: %w", err)
	}
	return &Flip{upgrader}, os.Unsetenv(hasParent)
}

// highest and lower are numbers for the descriptor of a program, so high that
// what is placed in the child (standard streams, two pipes) does not overwrite it.
const (
	highest = 1 << 12
	lower   = 1 << 9
)

// start starts a successor from an open program, with more variables, and returns
// when it is ready: then this process has to leave. Otherwise the successor, if
// there was one, has been killed. It is called from one goroutine at a time.
func (f *Flip) start(program *os.File, vars map[string]string) error {
	fd, err := unix.FcntlInt(program.Fd(), unix.F_DUPFD_CLOEXEC, highest)
	if err != nil {
		fd, err = unix.FcntlInt(program.Fd(), unix.F_DUPFD_CLOEXEC, lower)
	}
	if err != nil {
		return fmt.Errorf("cannot keep the program open: %w", err)
	}
	defer unix.Close(fd)
	defer exchange(vars)()
	name := os.Args[0]
	defer func() { os.Args[0] = name }()
	os.Args[0] = fmt.Sprintf("/proc/self/fd/%d", fd)
	for {
		// One that has heard of its parent's end may still have to note it.
		if err := f.upgrader.Upgrade(); err == nil || !strings.Contains(err.Error(), "parent hasn't exited") {
			return err
		}
	}
}

// exchange sets variables of this process, and returns the way back.
func exchange(vars map[string]string) (restore func()) {
	former := map[string]string{}
	for key, value := range vars {
		if old, ok := os.LookupEnv(key); ok {
			former[key] = old
		}
		_ = os.Setenv(key, value)
	}
	return func() {
		for key := range vars {
			if old, ok := former[key]; ok {
				_ = os.Setenv(key, old)
			} else {
				_ = os.Unsetenv(key)
			}
		}
	}
}

// awaitParent returns when the master that started this one has left.
func (f *Flip) awaitParent(ctx context.Context) error {
	if err := f.upgrader.WaitForParent(ctx); ctx.Err() != nil && err != nil {
		return context.Cause(ctx)
	}
	return nil // how it ended is not ours to judge
}

// ready tells the master that started this one, if it lives, to leave. From now on
// this process may be succeeded itself. A nil Flip has nobody to tell.
func (f *Flip) ready() error {
	if f == nil {
		return nil
	}
	return f.upgrader.Ready()
}

// stop ends an upgrade that is under way, and allows none from now on.
func (f *Flip) stop() { f.upgrader.Stop() }
