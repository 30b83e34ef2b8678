package watch

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// tree is what was there at one moment.
type tree struct {
	files   map[string]stamp
	folders map[string]uint64 // their inodes
}

// stamp is by what a changed file is known.
type stamp struct {
	modified, size int64
	inode          uint64 // a file that was renamed into place may have an older time
}

// changed lists the files that are not the same in both.
func (t tree) changed(now tree) []string {
	var paths []string
	for path, s := range now.files {
		if former, had := t.files[path]; !had || former != s {
			paths = append(paths, path)
		}
	}
	for path := range t.files {
		if _, has := now.files[path]; !has {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	return paths
}

// scan reads the whole tree.
func (w *Watcher) scan() (tree, error) {
	t := tree{files: map[string]stamp{}, folders: map[string]uint64{}}
	for _, root := range w.config.Roots {
		info, err := os.Stat(root)
		switch {
		case err == nil && !info.IsDir():
			// Its folder is watched, for editors replace files and inotify follows the old one.
			t.add(root)
			t.folders[filepath.Dir(root)] = inode(filepath.Dir(root))
		case err == nil:
			t.walk(root, rulesFor(root, w.config.Ignore))
		case w.last.files == nil || !errors.Is(err, fs.ErrNotExist):
			return t, fmt.Errorf("cannot watch %s: %w", root, cause(err))
		}
	}
	return t, nil
}

func cause(err error) error {
	if p := new(fs.PathError); errors.As(err, &p) {
		return p.Err
	}
	return err
}

// walk adds a folder. What cannot be read, or goes away meanwhile, is not there.
func (t *tree) walk(dir string, above *rules) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	t.folders[dir] = inode(dir)
	r := above.in(dir)
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch {
		case r.ignore(path, e.IsDir()):
		case e.IsDir():
			t.walk(path, r)
		default:
			t.add(path)
		}
	}
}

// add adds a file, or what a link to one leads to. Sockets and pipes are not files.
func (t *tree) add(path string) {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return
	}
	t.files[path] = stamp{modified: info.ModTime().UnixNano(), size: info.Size(), inode: inodeOf(info)}
}

// inode is the number of a file or folder, 0 when it is gone.
func inode(path string) uint64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return inodeOf(info)
}

func inodeOf(info fs.FileInfo) uint64 {
	if system, is := info.Sys().(*syscall.Stat_t); is {
		return system.Ino
	}
	return 0
}
