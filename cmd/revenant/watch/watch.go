// Package watch tells when files of a project change: what git would not ignore,
// in folders that come and go, by inotify, or by looking again and again where
// that is silent.
//
// Events say only that something happened; what has changed is found by comparing
// the tree with what it was. So editors that write by renaming, temporary files
// that come and go, and a queue of events that overflows need no care.
package watch

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

// Config says what to watch and how.
type Config struct {
	Roots  []string // folders, or files
	Ignore []string // patterns as in .gitignore, relative to each root; they win over those
	// Delay is how long nothing must happen before a change is told, so that a save
	// of many files is one. Default 100ms.
	Delay time.Duration
	// Poll makes the watcher look so often, and not wait for events. Default: only
	// on file systems that report no changes, every 500ms.
	Poll time.Duration
}

const (
	defaultDelay = 100 * time.Millisecond
	defaultPoll  = 500 * time.Millisecond
	patience     = 20 // delays, for a folder in which something always happens
)

// Watcher watches. It is used by one goroutine; Close ends it.
type Watcher struct {
	config   Config
	how      string
	last     tree
	notify   *fsnotify.Watcher // nil when polling
	watched  map[string]uint64 // folders, by what inode
	happened chan struct{}     // something did; holds one
}

// New looks at the tree as it is: changes from now on are told.
func New(config Config) (*Watcher, error) {
	if config.Delay <= 0 {
		config.Delay = defaultDelay
	}
	for i, root := range config.Roots {
		path, err := filepath.Abs(root)
		if err != nil {
			return nil, fmt.Errorf("cannot watch %s: %w", root, err)
		}
		config.Roots[i] = path
	}
	w := &Watcher{config: config, watched: map[string]uint64{}, happened: make(chan struct{}, 1)}
	if err := w.begin(); err != nil {
		return nil, err
	}
	var err error
	if w.last, err = w.look(); err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

// How says by what means the watcher works, and why when it polls.
func (w *Watcher) How() string { return w.how }

// Files is how many files are watched.
func (w *Watcher) Files() int { return len(w.last.files) }

// Close ends the watcher.
func (w *Watcher) Close() {
	if w.notify != nil {
		_ = w.notify.Close()
	}
}

// begin chooses between events and polling.
func (w *Watcher) begin() error {
	switch silent := silentRoot(w.config.Roots); {
	case w.config.Poll > 0:
		w.poll("as asked")
		return nil
	case silent != "":
		w.poll(silent)
		return nil
	}
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		w.poll(fmt.Sprintf("inotify cannot be had: %v", err))
		return nil
	}
	w.notify, w.how = notify, "inotify"
	// Ends with Close.
	go hear(notify, w.happened)
	return nil
}

// hear notes that something happened. An error means that events were lost.
func hear(notify *fsnotify.Watcher, happened chan<- struct{}) {
	for {
		select {
		case e, open := <-notify.Events:
			if !open {
				return
			}
			if e.Op == fsnotify.Chmod {
				continue
			}
		case _, open := <-notify.Errors:
			if !open {
				return
			}
		}
		select {
		case happened <- struct{}{}:
		default:
		}
	}
}

func (w *Watcher) poll(why string) {
	if w.config.Poll <= 0 {
		w.config.Poll = defaultPoll
	}
	w.Close()
	w.notify, w.how = nil, fmt.Sprintf("polling every %v: %s", w.config.Poll, why)
}

// Next waits until files have changed since it was called last, and nothing has
// happened for the delay. It returns their paths: of what is new, is different,
// or is gone.
func (w *Watcher) Next(ctx context.Context) ([]string, error) {
	for {
		if err := w.wait(ctx); err != nil {
			return nil, err
		}
		now, err := w.look()
		if err != nil {
			return nil, err
		}
		if changed := w.last.changed(now); len(changed) > 0 {
			w.last = now
			return changed, nil
		}
	}
}

// wait returns when there may be something to see.
func (w *Watcher) wait(ctx context.Context) error {
	if w.notify == nil {
		return w.waitPolling(ctx)
	}
	select {
	case <-w.happened:
	case <-ctx.Done():
		return ctx.Err()
	}
	limit := time.NewTimer(patience * w.config.Delay)
	defer limit.Stop()
	quiet := time.NewTimer(w.config.Delay)
	defer quiet.Stop()
	for {
		select {
		case <-w.happened:
			quiet.Reset(w.config.Delay)
		case <-quiet.C:
			return nil
		case <-limit.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// waitPolling looks until the tree differs, and then until it stays as it is.
func (w *Watcher) waitPolling(ctx context.Context) error {
	before, pause := w.last, w.config.Poll
	for range patience {
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
		now, err := w.scan()
		if err != nil {
			return err
		}
		if len(before.changed(now)) == 0 {
			return nil
		}
		before, pause = now, w.config.Delay
	}
	return nil
}

// look sees to it that every folder is watched, and returns the tree. What comes
// into a new folder before it is watched is in the tree of the next round.
func (w *Watcher) look() (tree, error) {
	for {
		now, err := w.scan()
		if err != nil || w.notify == nil {
			return now, err
		}
		added, err := w.follow(now.folders)
		if err != nil {
			w.poll(err.Error())
			continue
		}
		if !added {
			return now, nil
		}
	}
}

// follow watches these folders and no others. It tells whether one of them was
// not watched before. A folder that was replaced by another one of its name is
// another one: the kernel goes on watching the former, or has forgotten it.
func (w *Watcher) follow(folders map[string]uint64) (added bool, err error) {
	known := map[string]bool{}
	for _, path := range w.notify.WatchList() {
		known[path] = true
	}
	for path, number := range w.watched {
		if now, is := folders[path]; !is || now != number || !known[path] {
			_ = w.notify.Remove(path) // gone already, mostly
			delete(w.watched, path)
		}
	}
	for path, number := range folders {
		if _, is := w.watched[path]; is {
			continue
		}
		switch err := w.notify.Add(path); {
		case errors.Is(err, unix.ENOENT): // gone in this moment
			continue
		case errors.Is(err, unix.ENOSPC):
			return false, errors.New("there are more folders than fs.inotify.max_user_watches allows")
		case err != nil:
			return false, fmt.Errorf("inotify refuses %s: %w", path, err)
		}
		w.watched[path], added = number, true
	}
	return added, nil
}
