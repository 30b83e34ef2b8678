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
	doorQuestion  = "X_REVENANT_DOOR"
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

// greeting is what a master answers to hello. Each may be nil: a worker serves without them.
type greeting struct {
	board    *scoreboard.Board
	lifeline *os.File
	door     *os.File
	hold     *notify.Question // brings the word that it may take connections
}

// hello fetches the scoreboard, nil without one, a channel that is closed when the keeper is gone, and one
// that brings the door, if there is one. A master that does not answer in time may do so later, when it is no longer stopped: too late to count, but
// the worker must not outlive the instance. So there is one question, which stays open until it is answered
// or nobody is left who could.
func hello(client *notify.Client, log *slog.Logger) welcome {
	early, late, gone, door := make(chan greeting), make(chan struct{}), make(chan struct{}), make(chan *os.File, 1)
	// Lives until there is no answer to be had, else as long as the process, like the lifeline; nobody waits
	// for it.
	go func() {
		g := greet(client, log)
		if g.door != nil {
			door <- g.door
		}
		select {
		case early <- g:
		case <-late:
			if g.board != nil {
				g.board.Close()
			}
			if g.hold != nil {
				g.hold.Close()
			}
		}
		if g.lifeline != nil && hold(g.lifeline) {
			close(gone)
		}
	}()
	limit := time.NewTimer(helloTimeout)
	defer limit.Stop()
	select {
	case g := <-early:
		return welcome{g, gone, door}
	case <-limit.C:
		close(late)
		log.Warn("master did not greet back, serving uncounted", "waited", helloTimeout.String())
		return welcome{greeting{}, gone, door}
	}
}

// greet asks until there is an answer or none can come.
func greet(client *notify.Client, log *slog.Logger) greeting {
	question := []string{helloQuestion + "=1", doorQuestion + "=1"}
	answer, q, err := ask(client, question)
	for pause := helloTimeout; errors.Is(err, unix.EAGAIN); pause = min(2*pause, time.Minute) {
		// The master's queue is full: the question did not even reach it.
		<-time.After(pause)
		answer, q, err = ask(client, question)
	}
	if err != nil {
		if !errors.Is(err, notify.ErrNoAnswer) && !errors.Is(err, notify.ErrNoSupervisor) {
			log.Warn("cannot greet the master, serving uncounted", "err", err)
		}
		return greeting{}
	}
	var g greeting
	if _, ok := answer.Value(holdKey); ok {
		g.hold = q
	} else {
		q.Close()
	}
	if _, ok := answer.Value(doorQuestion); ok && len(answer.Files) > 1 {
		last := len(answer.Files) - 1
		g.door, answer.Files = answer.Files[last], answer.Files[:last]
	}
	if len(answer.Files) < 1 || len(answer.Files) > 2 {
		answer.Close()
		log.Warn("master greeted without scoreboard, serving uncounted", "files", len(answer.Files))
		return g
	}
	defer answer.Files[0].Close()
	if len(answer.Files) == 2 {
		g.lifeline = answer.Files[1]
	}
	if g.board, err = openBoard(answer.Files[0]); err != nil {
		log.Warn("cannot use the master's scoreboard, serving uncounted", "err", err)
	}
	return g
}

// ask returns the first answer, and the question, on which another one may come.
func ask(client *notify.Client, question []string) (notify.Message, *notify.Question, error) {
	q, err := client.Open(question...)
	if err != nil {
		return notify.Message{}, nil, err
	}
	answer, err := q.Next(context.Background())
	if err != nil {
		q.Close()
	}
	return answer, q, err
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
