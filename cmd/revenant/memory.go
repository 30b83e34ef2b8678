package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"

	"revenant/supervisor/notify"
)

// What the keeper has in memory for masters, besides what package supervisor
// does: files that were read when the instance started, or at a reload. A master
// that takes over from one that died goes on with these, and not with what the
// files say by then, if they are there at all: a crash changes nothing.
const (
	keptConfiguration = "configuration"          // the text of the configuration file at the start
	keptReloaded      = "reloaded configuration" // that of the last reload that came into force
	keptBefore        = "former configuration"   // what was in force before the last upgrade
	keptToken         = "token"                  // for /workerKiller
	keptPath          = "path of the program"    // where an upgrade looks for the next version
)

// keepFiles puts into memory what masters shall find there. Nobody gets a token
// by an argument or a variable, which others could see; /proc/PID/fd is open to
// the instance's own user and root, like the control socket.
func keepFiles(o instanceOptions) ([]notify.NamedFile, error) {
	var kept []notify.NamedFile
	var failed error
	keep := func(name string, text []byte) {
		f, err := inMemory(name, text)
		if failed = errors.Join(failed, err); err == nil {
			kept = append(kept, f)
		}
	}
	if o.settings.file != nil {
		keep(keptConfiguration, o.settings.file.Text)
	}
	if o.token != "" {
		keep(keptToken, []byte(o.token))
	}
	keep(keptPath, []byte(calledPath()))
	return kept, failed
}

// inMemory makes a descriptor from which a text can be read.
func inMemory(name string, text []byte) (notify.NamedFile, error) {
	fd, err := unix.MemfdCreate("revenant-"+name, unix.MFD_CLOEXEC)
	if err != nil {
		return notify.NamedFile{}, fmt.Errorf("cannot keep the %s: %w", name, err)
	}
	for len(text) > 0 && err == nil {
		var n int
		n, err = unix.Write(fd, text)
		text = text[max(n, 0):]
	}
	if err != nil {
		_ = unix.Close(fd)
		return notify.NamedFile{}, fmt.Errorf("cannot keep the %s: %w", name, err)
	}
	return notify.NamedFile{Name: name, FD: fd}, nil
}

// memoryPath is the path by which processes of our user can read a descriptor of
// this one.
func memoryPath(fd int) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd) }

// text reads what the keeper kept under a name, nil when it has nothing. The
// descriptor's offset is shared with others, and not used.
func (in inheritance) text(name string) ([]byte, error) {
	fd := named(in.stored, name)
	if fd < 0 {
		return nil, nil
	}
	f, err := os.Open(memoryPath(fd))
	if err != nil {
		return nil, fmt.Errorf("cannot read the kept %s: %w", name, err)
	}
	defer f.Close()
	text, err := io.ReadAll(f)
	if err != nil {
		return nil, fmt.Errorf("cannot read the kept %s: %w", name, err)
	}
	return text, nil
}

// keepText has the keeper keep a text under a name, in place of what it had. The
// keeper lives as long as we do, or our lifeline ends: an error is the beginning
// of that end.
func (in inheritance) keepText(name string, text []byte) {
	f, err := inMemory(name, text)
	if err != nil {
		slog.Warn("the next master would go on with an older file", "err", err)
		return
	}
	defer unix.Close(f.FD)
	_ = in.keeper.SendFiles([]int{f.FD}, notify.StoreFD, notify.FDName(name))
}
