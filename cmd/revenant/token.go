package main

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// tokenIn reads the token from a file, "" when there is none to read.
func tokenIn(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("cannot read the token: %w (name a file that this user can read)", cause(err))
	}
	token := strings.TrimSpace(string(text))
	if token == "" {
		return "", fmt.Errorf("the file holds no token (write one line into it)")
	}
	return token, nil
}

// keepToken returns the command line of masters: in place of the operator's file
// it names a copy in this process's memory. So the file is read once in the life
// of an instance, and may then change or be gone: masters and workers that are
// started years later read what the first one did. Nobody gets the token by an
// argument or a variable, which others could see; /proc/PID/fd is open to the
// instance's own user and root, like the control socket. The copy lives as long
// as the keeper, and so as long as anybody who could want it.
func keepToken(o instanceOptions, args []string) ([]string, error) {
	if o.token == "" {
		return args, nil
	}
	fd, err := unix.MemfdCreate("revenant-token", unix.MFD_CLOEXEC)
	if err == nil {
		_, err = unix.Write(fd, []byte(o.token))
	}
	if err != nil {
		return nil, fmt.Errorf("cannot keep the token: %w", err)
	}
	copied := fmt.Sprintf("--chaos-token-file=/proc/%d/fd/%d", os.Getpid(), fd)
	return append(append([]string(nil), args...), copied), nil
}
