package command

import (
	"bufio"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Find looks a program up as a shell does: a name with a slash is a path,
// relative to dir; another one is searched for in the folders of a PATH. The
// error says what is wrong and what to do.
func Find(name, path, dir string) (string, error) {
	if name == "" {
		return "", errors.New("the command is empty (write its name behind --)")
	}
	if strings.Contains(name, "/") {
		found := in(dir, name)
		return found, executable(found)
	}
	var refused error
	for _, folder := range filepath.SplitList(path) {
		found := filepath.Join(in(dir, folder), name)
		err := executable(found)
		if err == nil {
			return found, nil
		}
		if refused == nil && !errors.Is(err, fs.ErrNotExist) {
			refused = err
		}
	}
	if refused != nil {
		return "", refused
	}
	return "", fmt.Errorf("cannot find %s in PATH, which is %q (install it, or give its whole path)", name, path)
}

func in(dir, path string) string {
	if dir == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// executable tells what keeps a file from being executed, as far as that can be
// seen without doing it.
func executable(path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("cannot execute %s: %w (check the spelling, or install it)", path, unix.ENOENT)
	case err != nil:
		return fmt.Errorf("cannot execute %s: %w", path, reason(err))
	case !info.Mode().IsRegular():
		return fmt.Errorf("cannot execute %s: it is no regular file (name the program in it)", path)
	}
	if err := unix.Access(path, unix.X_OK); err != nil {
		return explain(path, err)
	}
	if by := interpreter(path); by != "" {
		if _, err := os.Stat(by); errors.Is(err, fs.ErrNotExist) {
			return explain(path, unix.ENOENT)
		}
	}
	return nil
}

// explain makes a sentence of what exec(2) said, whose words mean several things.
func explain(path string, err error) error {
	remedy := ""
	switch {
	case errors.Is(err, unix.ENOENT):
		remedy = "check the spelling, or install it"
		if by := interpreter(path); by != "" {
			return fmt.Errorf("cannot execute %s: its interpreter %s: %w (install that, or change what the file names)", path, by, err)
		}
	case errors.Is(err, unix.EACCES):
		remedy = "make it executable with chmod +x, and its folders open for this user; a file system mounted noexec does not do"
	case errors.Is(err, unix.ENOEXEC):
		remedy = "a script needs a first line like #!/bin/sh; a binary must be made for this machine"
	case errors.Is(err, unix.ETXTBSY):
		remedy = "something is writing to it: move new versions into place"
	case errors.Is(err, unix.EAGAIN):
		remedy = "its user has more processes than the limit nproc allows: raise that"
	case errors.Is(err, unix.E2BIG):
		remedy = "arguments and environment are too long"
	}
	if remedy != "" {
		return fmt.Errorf("cannot execute %s: %w (%s)", path, err, remedy)
	}
	return fmt.Errorf("cannot execute %s: %w", path, err)
}

// interpreter is what the kernel starts in a file's place: that of a script's
// first line, or a binary's dynamic linker; "" for none.
func interpreter(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	line, _ := bufio.NewReaderSize(f, 512).ReadSlice('\n')
	if script, is := strings.CutPrefix(string(line), "#!"); is {
		words := strings.Fields(script)
		if len(words) == 0 {
			return ""
		}
		return words[0]
	}
	binary, err := elf.NewFile(f)
	if err != nil {
		return ""
	}
	for _, p := range binary.Progs {
		if p.Type == elf.PT_INTERP && p.Filesz < 4096 {
			name := make([]byte, p.Filesz)
			_, _ = p.ReadAt(name, 0)
			return strings.TrimRight(string(name), "\x00")
		}
	}
	return ""
}

// reason is the cause of a file system error without operation and path.
func reason(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}
