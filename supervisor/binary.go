package supervisor

import (
	"bytes"
	"cmp"
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor/event"
	"revenant/supervisor/notify"
)

// Takeover is the version of what a master and its successor, or its keeper, must
// understand of each other. A program of another one cannot take over a running
// instance.
const Takeover = 1

// About is what a program says of itself (revenant version -o json).
type About struct {
	Version  string `json:"version"`
	Takeover int    `json:"takeover"`
}

// program is one that may be started: open, so that it cannot become another one
// by a rename.
type program struct {
	file    *os.File
	path    string // for people
	version string
}

const (
	// answersWithin bounds how long a program may take to say who it is.
	answersWithin = 5 * time.Second
	answerBytes   = 64 << 10
)

// openProgram opens a program and makes sure, as far as it can be without running
// an instance of it, that it may take over this one. Each error says what to do.
func openProgram(ctx context.Context, path string) (*program, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		var cause *fs.PathError
		if errors.As(err, &cause) {
			err = cause.Err
		}
		return nil, fmt.Errorf("%s: %w (name a file with --binary)", path, err)
	}
	p := &program{file: f, path: path}
	if target, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd())); err == nil {
		p.path = target
	}
	if err := p.examine(ctx); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("%s %w", p.path, err)
	}
	return p, nil
}

func (p *program) examine(ctx context.Context) error {
	info, err := p.file.Stat()
	switch {
	case err != nil:
		return fmt.Errorf("cannot be looked at: %w", err)
	case !info.Mode().IsRegular():
		return fmt.Errorf("is not a file: %s (name a program)", info.Mode())
	case info.Mode().Perm()&0o111 == 0, unix.Faccessat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", p.file.Fd()), unix.X_OK, 0) != nil:
		return fmt.Errorf("is not executable, its mode is %s (chmod +x it, and mind a filesystem that is mounted noexec)", info.Mode())
	}
	if err := p.fits(info.Size()); err != nil {
		return err
	}
	about, err := p.ask(ctx)
	if err != nil {
		return err
	}
	if about.Takeover != Takeover {
		return fmt.Errorf("is version %s, which speaks takeover %d with masters where this one speaks %d (stop the instance and start it anew)", about.Version, about.Takeover, Takeover)
	}
	p.version = about.Version
	return nil
}

// fits reads the headers: for this kind of machine, and all there.
func (p *program) fits(size int64) error {
	theirs, err := elf.NewFile(p.file)
	if err != nil {
		return fmt.Errorf("is not a program for this machine, or is cut short: %w (build or copy it anew)", err)
	}
	ours, err := elf.Open("/proc/self/exe")
	if err != nil {
		return nil // the kernel will tell
	}
	defer ours.Close()
	if theirs.Class != ours.Class || theirs.Machine != ours.Machine {
		return fmt.Errorf("is for another machine, %s, and this one is %s (take the program for this machine)", machine(theirs), machine(ours))
	}
	end := uint64(0)
	for _, s := range theirs.Progs {
		end = max(end, s.Off+s.Filesz)
	}
	for _, s := range theirs.Sections {
		if s.Type != elf.SHT_NOBITS {
			end = max(end, s.Offset+s.FileSize)
		}
	}
	if uint64(size) < end {
		return fmt.Errorf("is cut short: %d bytes of %d (copy it anew)", size, end)
	}
	return nil
}

// machine is what a program is made for, as "aarch64, 64 bits".
func machine(f *elf.File) string {
	kind := strings.ToLower(strings.TrimPrefix(f.Machine.String(), "EM_"))
	return kind + ", " + strings.TrimPrefix(f.Class.String(), "ELFCLASS") + " bits"
}

// ask runs the program for a moment and has it say who it is.
func (p *program) ask(ctx context.Context) (about About, err error) {
	ctx, cancel := context.WithTimeout(ctx, answersWithin)
	defer cancel()
	c := exec.CommandContext(ctx, "/proc/self/fd/3", "version", "-o", "json")
	c.ExtraFiles = []*os.File{p.file}
	c.Env = notify.Clean(os.Environ())
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return unix.Kill(-c.Process.Pid, unix.SIGKILL) }
	c.WaitDelay = time.Second
	var out, errs limited
	c.Stdout, c.Stderr = &out, &errs
	err = c.Run()
	switch {
	case ctx.Err() != nil:
		return about, fmt.Errorf("does not say its version within %s (is it revenant?)", event.Humane(answersWithin))
	case err != nil:
		return about, fmt.Errorf("does not say its version: %w %q (is it revenant?)", err, cmp.Or(errs.line(), out.line()))
	case json.Unmarshal(out.text.Bytes(), &about) != nil || about.Takeover == 0:
		return about, fmt.Errorf("is not a revenant that can take over: asked for its version it says %q (name another file with --binary)", out.line())
	}
	return about, nil
}

// limited keeps the beginning of what is written to it.
type limited struct{ text bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	_, _ = io.CopyN(&l.text, bytes.NewReader(p), int64(max(0, min(len(p), answerBytes-l.text.Len()))))
	return len(p), nil
}

func (l *limited) line() string {
	line, _, _ := strings.Cut(strings.TrimSpace(l.text.String()), "\n")
	return line[:min(len(line), 200)]
}
