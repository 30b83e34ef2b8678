package notify

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// MainPID is the key by which a process says that it is to become the master.
const MainPID = "MAINPID"

// Succeed tells the keeper that this process is to follow upon the master that started it, and returns
// what the keeper stored: bare numbers, close-on-exec, the caller's. On the question, which is the
// caller's too, comes what earlier masters still store (FDSTORE=1) and remove (FDSTOREREMOVE=1); it
// ends (ErrNoAnswer) when none of them lives any more.
func (c *Client) Succeed(ctx context.Context, generation int) (stored []NamedFile, later *Question, err error) {
	q, err := c.Open(fmt.Sprintf("%s=%d", MainPID, os.Getpid()), fmt.Sprintf("%s=%d", GenerationVariable, generation))
	if err != nil {
		return nil, nil, err
	}
	for more := true; more; {
		answer, err := q.Next(ctx)
		if err == nil {
			stored, err = appendStored(stored, answer)
		}
		if err != nil {
			q.Close()
			return nil, nil, fmt.Errorf("cannot take over what the keeper stored: %w", err)
		}
		more = answer.Says(MoreVariable + "=1")
	}
	return stored, q, nil
}

func appendStored(stored []NamedFile, answer Message) ([]NamedFile, error) {
	defer answer.Close()
	text, _ := answer.Value(NamesVariable)
	names := strings.Split(text, ":")
	if len(names) != len(answer.Files) {
		return nil, fmt.Errorf("%d names for %d descriptors", len(names), len(answer.Files))
	}
	for i, f := range answer.Files {
		fd, err := Detach(f)
		if err != nil {
			return nil, err
		}
		stored = append(stored, NamedFile{UnescapeName(names[i]), fd})
	}
	return stored, nil
}

// Detach returns a duplicate of the descriptor of f, close-on-exec, which nothing watches and whose
// description is as it was: File.Fd would make it block for all who share it.
func Detach(f *os.File) (fd int, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	control := raw.Control(func(old uintptr) { fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 3) })
	if err = errors.Join(control, err); err != nil {
		return -1, fmt.Errorf("cannot duplicate a descriptor: %w", err)
	}
	return fd, nil
}
