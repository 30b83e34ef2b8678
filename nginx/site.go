package nginx

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// A Running nginx can be asked to check its configuration and to read it again.
type Running interface {
	// Check runs nginx -t on the configuration as it lies there. The error holds what nginx says.
	Check(ctx context.Context) error
	// Reload has the configuration read again and returns when new processes serve with it and none of
	// the old ones takes a connection any more. After an error the old ones go on.
	Reload(ctx context.Context) error
	// Waiting is how many client connections wait for a request; known is false where nginx does not
	// tell.
	Waiting(ctx context.Context) (n int, known bool)
}

// A Site is the folder with what differs from place to place, and the nginx that has read it.
type Site struct {
	Dir     string
	Running Running

	// Closing is the file of site/closing.conf. A configuration that does not know it loses nothing by
	// it, but may lose requests on kept connections of clients in a reload. "" makes none.
	Closing string
	// Settle is how long answers close their connections before a reload, 1 s by default. Idle, 5 s by
	// default, is how long connections that stay silent are waited for beyond that.
	Settle, Idle time.Duration
}

// Change replaces files of the site, given by name, and has nginx read them. Where nothing differs
// nothing is done, and changed is false. When nginx refuses the new files, or does not come up with
// them, the old ones are put back: then nginx goes on as before.
func (s *Site) Change(ctx context.Context, files map[string][]byte) (changed bool, err error) {
	old, err := s.differing(files)
	if err != nil || len(old) == 0 {
		return false, err
	}
	asked := false
	if err = s.write(files, old); err == nil {
		asked, err = s.load(ctx)
	}
	if err == nil {
		return true, nil
	}
	if back := s.write(old, old); back != nil {
		return false, fmt.Errorf("%w; and the old files could not be put back into %s: %w", err, s.Dir, back)
	}
	if asked {
		// It may be on its way to the new files, only late. If it is not, this changes nothing.
		_ = s.Running.Reload(context.WithoutCancel(ctx))
	}
	return false, fmt.Errorf("%w (the old files are back in %s)", err, s.Dir)
}

// differing are the present contents of those files that would change.
func (s *Site) differing(files map[string][]byte) (old map[string][]byte, err error) {
	old = map[string][]byte{}
	for name, text := range files {
		present, err := os.ReadFile(filepath.Join(s.Dir, name))
		if err != nil {
			return nil, fmt.Errorf("cannot read nginx's file: %w", err)
		}
		if !bytes.Equal(present, text) {
			old[name] = present
		}
	}
	return old, nil
}

// write puts those of the files in place that are named in which.
func (s *Site) write(files, which map[string][]byte) error {
	for _, name := range slices.Sorted(maps.Keys(which)) {
		if err := replace(filepath.Join(s.Dir, name), files[name]); err != nil {
			return fmt.Errorf("cannot write nginx's file: %w", err)
		}
	}
	return nil
}

// load has nginx read the files. asked says whether it was told to.
func (s *Site) load(ctx context.Context) (asked bool, err error) {
	if err := s.Running.Check(ctx); err != nil {
		return false, err
	}
	open, err := s.closeConnections(ctx)
	defer open()
	if err != nil {
		return false, err
	}
	return true, s.Running.Reload(ctx)
}

// closeConnections makes every answer the last on its connection, until open. It returns when no
// client keeps one, or only such as say nothing.
func (s *Site) closeConnections(ctx context.Context) (open func(), err error) {
	if s.Closing == "" {
		return func() {}, nil
	}
	if err := os.WriteFile(s.Closing, nil, 0o644); err != nil {
		return func() {}, fmt.Errorf("cannot make the file that has clients connect anew before a reload: %w", err)
	}
	open = func() { _ = os.Remove(s.Closing) } // gone already is as good
	if err := pause(ctx, defaultTo(s.Settle, time.Second)); err != nil {
		return open, err
	}
	silent, cancel := context.WithTimeout(ctx, defaultTo(s.Idle, 5*time.Second))
	defer cancel()
	for {
		if n, known := s.Running.Waiting(silent); n == 0 || !known {
			return open, ctx.Err()
		}
		if pause(silent, 5*time.Millisecond) != nil {
			return open, ctx.Err()
		}
	}
}

// Tidy removes the closing file that a reload left which was killed.
func (s *Site) Tidy() error {
	if s.Closing == "" {
		return nil
	}
	if err := os.Remove(s.Closing); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot remove what a former reload left: %w", err)
	}
	return nil
}

// replace writes a file so that whoever reads it at any moment, after a crash too, finds the old or
// the new content and nothing else.
func replace(path string, text []byte) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(text)
	err = errors.Join(err, f.Chmod(info.Mode().Perm()), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func defaultTo(value, otherwise time.Duration) time.Duration {
	if value == 0 {
		return otherwise
	}
	return value
}

// pause waits, or ends early with the error of ctx.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
