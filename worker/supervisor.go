package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor/notify"
	"revenant/worker/scoreboard"
)

// Questions that a worker asks, and the answers.
const (
	helloQuestion = "X_REVENANT_HELLO"
	chaosQuestion = "X_REVENANT_CHAOS"
	reasonKey     = "X_REVENANT_REASON"
	granted       = "granted"
	refused       = "refused"
)

// helloTimeout bounds the wait for a master that is busy or dead: serving matters more than being counted.
const helloTimeout = 2 * time.Second

// ErrNoSupervisor says that nothing above this process would revive it.
var ErrNoSupervisor = errors.New("no supervisor: nothing would revive this worker")

// RefusedError is the master's no, and why.
type RefusedError struct {
	Mode   string
	Reason string
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("the master refuses a death by %s: %s", e.Mode, e.Reason)
}

// Permit asks the master whether this worker may die in the way that mode names. A death it granted is a
// planned one. The error is a *RefusedError when it said no, ErrNoSupervisor when there is nobody to ask.
func Permit(ctx context.Context, mode string) error {
	above := level()
	if !above.identity.Supervised {
		return ErrNoSupervisor
	}
	answer, err := above.client.Ask(ctx, chaosQuestion+"="+mode)
	if errors.Is(err, notify.ErrNoAnswer) || errors.Is(err, notify.ErrNoSupervisor) {
		return ErrNoSupervisor
	}
	if err != nil {
		return fmt.Errorf("cannot ask the master: %w", err)
	}
	answer.Close()
	if said, _ := answer.Value(chaosQuestion); said == granted {
		return nil
	}
	reason, ok := answer.Value(reasonKey)
	if !ok {
		reason = "it gave no reason"
	}
	return &RefusedError{Mode: mode, Reason: reason}
}

// hello fetches the scoreboard and the lifeline. Either may be nil: a worker serves without them.
func hello(client *notify.Client, log *slog.Logger) (*scoreboard.Board, *os.File) {
	ctx, cancel := context.WithTimeout(context.Background(), helloTimeout)
	defer cancel()
	answer, err := client.Ask(ctx, helloQuestion+"=1")
	if errors.Is(err, notify.ErrNoAnswer) || errors.Is(err, notify.ErrNoSupervisor) {
		return nil, nil
	}
	if err != nil {
		log.Warn("master did not greet back, serving uncounted", "err", err)
		return nil, nil
	}
	if len(answer.Files) != 2 {
		answer.Close()
		log.Warn("master greeted without scoreboard and lifeline, serving uncounted", "files", len(answer.Files))
		return nil, nil
	}
	defer answer.Files[0].Close()
	board, err := openBoard(answer.Files[0])
	if err != nil {
		log.Warn("cannot use the master's scoreboard, serving uncounted", "err", err)
	}
	return board, answer.Files[1]
}

func openBoard(f *os.File) (*scoreboard.Board, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, err
	}
	return scoreboard.Open(fd)
}

// hold returns when the keeper is gone. Nobody ever writes to a lifeline, so anything but its end says
// nothing about the keeper.
func hold(lifeline *os.File) bool {
	_, err := io.Copy(io.Discard, lifeline)
	return err == nil
}
