package notify

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Message is what one datagram said, and who said it.
type Message struct {
	State []string   // the assignments, in order
	PID   int        // of the sender, by word of the kernel; 0 when it lives in a foreign PID namespace
	UID   uint32     // of the sender
	Files []*os.File // sent along; owned by the receiver
}

// Value is what the first assignment to key says.
func (m Message) Value(key string) (string, bool) {
	for _, s := range m.State {
		if name, value, ok := strings.Cut(s, "="); ok && name == key {
			return value, true
		}
	}
	return "", false
}

// Says tells whether the message holds exactly this assignment.
func (m Message) Says(assignment string) bool {
	key, value, _ := strings.Cut(assignment, "=")
	got, ok := m.Value(key)
	return ok && got == value
}

// ExtendTimeout is how much time the sender asks for, if it does.
func (m Message) ExtendTimeout() (time.Duration, bool) {
	value, _ := m.Value(extendVariable)
	us, err := strconv.ParseInt(value, 10, 64)
	if err != nil || us <= 0 || us > int64(math.MaxInt64/time.Microsecond) {
		return 0, false
	}
	return time.Duration(us) * time.Microsecond, true
}

// Close closes the files of the message.
func (m Message) Close() {
	for _, f := range m.Files {
		f.Close()
	}
}

// Answer replies to an Ask on the first file of the message and closes that file. It never waits:
// an asker that left no room for the reply gets none. The descriptors stay the caller's.
func (m Message) Answer(fds []int, state ...string) error {
	if len(m.Files) == 0 {
		return errors.New("cannot answer: the message brought no descriptor to answer on")
	}
	defer m.Files[0].Close()
	raw, err := m.Files[0].SyscallConn()
	if err != nil {
		return fmt.Errorf("cannot answer process %d: %w", m.PID, err)
	}
	var sent error
	err = raw.Control(func(fd uintptr) { sent = Reply(int(fd), fds, state...) })
	if err = errors.Join(err, sent); err != nil {
		return fmt.Errorf("cannot answer process %d: %w", m.PID, err)
	}
	return nil
}

func rights(fds []int) []byte {
	if len(fds) == 0 {
		return nil
	}
	return unix.UnixRights(fds...)
}

// receive reads one datagram without waiting. ok is false for one that was cut short, by our
// buffers or by our limit of open files, since half a message is none; and for an empty one, which
// is also what the end of a stream looks like.
func receive(fd int) (m Message, ok bool, err error) {
	text := make([]byte, maxMessage)
	oob := make([]byte, unix.CmsgSpace(unix.SizeofUcred)+unix.CmsgSpace(4*maxFiles))
	n, oobn, flags, _, err := unix.Recvmsg(fd, text, oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return Message{}, false, err
	}
	whole := flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) == 0
	controls, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		whole = false
	}
	for i := range controls {
		if cred, err := unix.ParseUnixCredentials(&controls[i]); err == nil {
			m.PID, m.UID = int(cred.Pid), cred.Uid
		}
		fds, _ := unix.ParseUnixRights(&controls[i])
		for _, fd := range fds {
			m.Files = append(m.Files, os.NewFile(uintptr(fd), "notified"))
		}
	}
	if !whole || n == 0 {
		m.Close()
		return Message{}, false, nil
	}
	for s := range strings.SplitSeq(string(text[:n]), "\n") {
		if s != "" {
			m.State = append(m.State, s)
		}
	}
	return m, true, nil
}
