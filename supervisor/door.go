package supervisor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor/notify"
)

// The door is a private connection to one worker. Requests on the shared socket
// are answered by whoever accepts first; through its door exactly this worker
// answers. Package worker asks for it in its HELLO question, serves HTTP on it,
// and counts nothing there. Any other program has none.

// doorKey stands in the question of a worker that has a door to serve, and in an
// answer whose last descriptor is one.
const doorKey = "X_REVENANT_DOOR"

// openDoor makes the connection and returns the end for the worker, -1 when it
// has one already or none can be made. Answering HELLO matters more.
func (c *child) openDoor() int {
	if c.door >= 0 {
		return -1
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1
	}
	c.door = pair[0]
	return pair[1]
}

// holdKey stands in an answer after which a worker waits for another one before it
// takes connections; it says READY before.
const (
	holdKey   = "X_REVENANT_HOLD"
	acceptKey = "X_REVENANT_ACCEPT"
)

// hold keeps the question of a worker that shall wait.
func (c *child) hold(msg notify.Message) bool {
	if len(msg.Files) == 0 {
		return false
	}
	fd, err := notify.Detach(msg.Files[0])
	if err == nil {
		c.letAccept()
		c.held = fd
	}
	return err == nil
}

// letAccept lets a worker take connections; one that does not wait does already.
func (c *child) letAccept() {
	if c.held != 0 {
		_ = notify.Reply(c.held, nil, acceptKey+"=1")
		_ = unix.Close(c.held)
		c.held = 0
	}
}

func (c *child) closeDoor() {
	if c.door >= 0 {
		_ = unix.Close(c.door)
		c.door = -1
	}
}

// hello hands a worker of package worker its scoreboard, the keeper's lifeline
// when there is one, and a door when it knows what that is.
func (m *Master) hello(c *child, msg notify.Message) {
	fds, said := []int{c.board.FD()}, []string{helloKey + "=1"}
	if m.cfg.Lifeline >= 0 {
		fds = append(fds, m.cfg.Lifeline)
	}
	if _, ok := msg.Value(doorKey); ok {
		if theirs := c.openDoor(); theirs >= 0 {
			defer unix.Close(theirs)
			fds, said = append(fds, theirs), append(said, doorKey+"=1")
		}
	}
	if m.candidate() && c.door >= 0 && c.hold(msg) {
		said = append(said, holdKey+"=1")
	}
	if msg.Answer(fds, said...) != nil { // an asker that has gone needs no answer
		c.closeDoor()
	}
}

// goneSoon is how long after the end of a worker's connection its death may be
// heard of: a process closes its descriptors before it can be reaped.
const goneSoon = 3 * time.Second

// probe has a worker answer a request through its door, until the deadline, and
// tells the loop. A worker without a door is taken at its word: READY is enough.
func (m *Master) probe(c *child, deadline time.Time, then func(error)) {
	if c.door < 0 {
		then(nil)
		return
	}
	m.question(c, http.MethodGet, m.cfg.ProbePath, deadline, func(err error) {
		if err != nil {
			err = fmt.Errorf("worker %d does not answer GET %s: %w", c.id, m.cfg.ProbePath, err)
		}
		then(err)
	})
}

// question asks a worker through its door, which must be there, when those who
// asked before have their answers.
func (m *Master) question(c *child, method, path string, deadline time.Time, then func(error)) {
	own, err := unix.FcntlInt(uintptr(c.door), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		then(fmt.Errorf("it cannot be asked: %w", err))
		return
	}
	// Ends at the deadline at the latest; nobody waits for it.
	go func() {
		c.atDoor.Lock()
		err := request(own, method, path, deadline)
		c.atDoor.Unlock()
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
			wait := time.NewTimer(goneSoon)
			select { // its exit says more
			case <-c.gone:
			case <-wait.C:
			}
			wait.Stop()
		}
		m.send(func() { then(err) })
	}()
}

// StatusError says that a worker answered with a status that is none of a worker
// that can serve.
type StatusError struct{ Status int }

func (e *StatusError) Error() string {
	return fmt.Sprintf("status %d %s", e.Status, http.StatusText(e.Status))
}

// answerLimit is how much of an answer is read.
const answerLimit = 1 << 20

// request asks over a descriptor, which it owns.
func request(fd int, method, path string, deadline time.Time) error {
	f := os.NewFile(uintptr(fd), "door")
	conn, err := net.FileConn(f)
	_ = f.Close()
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(deadline)
	r, err := probeRequest(context.Background(), method, path)
	if err != nil {
		return err
	}
	return roundTrip(conn, r)
}

// probeRequest is what a worker is asked.
func probeRequest(ctx context.Context, method, path string) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, method, "http://localhost"+path, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("User-Agent", "revenant-probe")
	return r, nil
}

// roundTrip sends a request and reads the answer. It is good when it is whole (or
// long) and its status is below 500. Of a long one the rest would be in the way of
// the next answer: a door ends with it.
func roundTrip(conn net.Conn, r *http.Request) error {
	if err := r.Write(conn); err != nil {
		return err
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), r)
	if err != nil {
		return fmt.Errorf("no answer: %w", err)
	}
	defer answer.Body.Close()
	n, err := io.Copy(io.Discard, io.LimitReader(answer.Body, answerLimit))
	if door, is := conn.(*net.UnixConn); is && (n == answerLimit || err != nil) {
		_ = door.CloseWrite()
	}
	if answer.StatusCode >= http.StatusInternalServerError {
		return &StatusError{answer.StatusCode}
	}
	if err != nil {
		return fmt.Errorf("its answer is cut: %w", err)
	}
	return nil
}
