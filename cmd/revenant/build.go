package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"revenant/supervisor/notify"
)

// builder runs the command that makes the program of its sources. The developer's
// loop owns it; run alone runs beside that, between begin and end.
type builder struct {
	command string // "" for none
	product string // the program, "" when it is none of the project's files
	builds  int
	began   time.Time
	ended   time.Time
	written map[string]streak // what was written during builds
	own     map[string]bool   // what the build writes each time
}

// streak is in how many builds in a row a file was written, and in which one last.
type streak struct{ length, build int }

// itsOwn is after how many builds a file that each of them has written is taken
// for what the build makes, and no longer for what somebody changes.
const itsOwn = 3

func newBuilder(o instanceOptions) *builder {
	b := &builder{command: o.settings.one("build"), written: map[string]streak{}, own: map[string]bool{}}
	if name := o.program.Args[0]; b.command != "" && strings.Contains(name, "/") {
		b.product, _ = filepath.Abs(filepath.Join(o.settings.one("chdir"), name))
	}
	return b
}

// run builds. What the command prints is for the developer.
func (b *builder) run(ctx context.Context) error {
	if b.command == "" {
		return nil
	}
	c := exec.CommandContext(ctx, "/bin/sh", "-c", b.command)
	c.Env = notify.Clean(os.Environ())
	c.Stdout, c.Stderr = os.Stderr, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	c.WaitDelay = time.Second
	if err := c.Run(); err != nil {
		return fmt.Errorf("%s: %w", b.command, err)
	}
	return nil
}

func (b *builder) begin() { b.builds, b.began, b.ended = b.builds+1, time.Now(), time.Time{} }
func (b *builder) end()   { b.ended = time.Now() }

// others leaves out what the build itself writes, or each build would be the
// reason for the next one: the program, and what several builds in a row wrote.
func (b *builder) others(paths []string) (others []string) {
	for _, path := range paths {
		isProduct := b.product != "" && (path == b.product || path == b.product+"-go-tmp-umask") // go build tries the mask with that
		if !isProduct && !b.writes(path) {
			others = append(others, path)
		}
	}
	return others
}

// coarse is how much the clock of file systems may be behind ours.
const coarse = 10 * time.Millisecond

func (b *builder) writes(path string) bool {
	if b.command == "" || b.own[path] {
		return b.own[path]
	}
	info, err := os.Stat(path)
	if err != nil || info.ModTime().Before(b.began.Add(-coarse)) || info.ModTime().After(b.ended) {
		return false
	}
	s := b.written[path]
	if s.build < b.builds-1 {
		s.length = 0
	}
	if s.build != b.builds {
		s.length++
	}
	s.build = b.builds
	b.written[path] = s
	if s.length < itsOwn {
		return false
	}
	b.own[path] = true
	slog.Warn("the build writes a file that is watched: its changes are ignored from now on (add it to .gitignore, or give --ignore)", "file", fromHere(path))
	return true
}
