package notify

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Ended is how a child of the keeper ended that the keeper did not start: a worker whose master was
// gone. Nobody else can know it.
type Ended struct {
	Status unix.WaitStatus
	Asked  unix.Signal // by which the keeper asked it to leave, 0 when it did not
	Killed bool        // by the keeper, because it did not leave in time
	Time   time.Time
}

// endedKey is in the question ("PID BEGAN") and in its answer ("STATUS ASKED KILLED MICROSECONDS").
const endedKey = "X_REVENANT_ENDED"

// HowEnded asks the keeper how a process ended that is dead, and that began so many clock ticks after
// the machine (a number of a process is used again, the two together are not). The error is
// ErrNoAnswer when the keeper does not know.
func (c *Client) HowEnded(ctx context.Context, pid int, began uint64) (e Ended, err error) {
	answer, err := c.Ask(ctx, fmt.Sprintf("%s=%d %d", endedKey, pid, began))
	if err != nil {
		return Ended{}, err
	}
	defer answer.Close()
	text, _ := answer.Value(endedKey)
	var us int64
	if _, err := fmt.Sscan(text, &e.Status, &e.Asked, &e.Killed, &us); err != nil {
		return Ended{}, fmt.Errorf("cannot understand how process %d ended, %q: %w", pid, text, err)
	}
	e.Time = time.UnixMicro(us)
	return e, nil
}

// AsksEnd tells whether a message is the question of HowEnded, and of which process.
func (m Message) AsksEnd() (pid int, began uint64, ok bool) {
	text, ok := m.Value(endedKey)
	if !ok {
		return 0, 0, false
	}
	_, err := fmt.Sscan(text, &pid, &began)
	return pid, began, err == nil
}

// Assignment is the answer to the question of HowEnded.
func (e Ended) Assignment() string {
	return fmt.Sprintf("%s=%d %d %t %d", endedKey, e.Status, e.Asked, e.Killed, e.Time.UnixMicro())
}
