package supervisor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor/event"
	"revenant/supervisor/notify"
)

// An upgrade, as the master sees it that is to be succeeded. succession.go is the
// other side.

// upgrade is the one under way. The loop owns it.
type upgrade struct {
	op         *Operation
	generation atomic.Int64 // of the successor; set before it starts
	pid        int          // of the successor, once it spoke
	refusal    string       // why it gave up, by its own word
}

// UpgradeStatus is how the last upgrade went.
type UpgradeStatus struct {
	Outcome string    `json:"outcome"` // done, failed, rolled back
	Time    time.Time `json:"time"`
	Message string    `json:"message"`
}

// Upgrade starts another program in the place of this one: that at path, or with
// an empty path the one that is now in the file which this one was started from,
// or with back the one before. It returns when that has begun.
func (m *Master) Upgrade(ctx context.Context, path string, back bool, who string) (*Operation, error) {
	return m.operate(ctx, func() (*Operation, error) { return m.upgradeTo(path, back, who) })
}

// errNoFlip is what a master says that was not made to be upgraded.
var errNoFlip = errors.New("cannot upgrade: this master has no way to start a successor")

func (m *Master) upgradeTo(path string, back bool, who string) (*Operation, error) {
	switch {
	case m.cfg.Flip == nil:
		return nil, errNoFlip
	case !m.committed && m.phase == running:
		return nil, errors.New("cannot upgrade: the instance is not ready yet (wait for it, see revenant ps)")
	}
	if n := len(m.orphans) + m.drainers(); n >= m.crowd() {
		return nil, fmt.Errorf("cannot upgrade: %d workers of earlier upgrades still finish their requests (wait, for the drain timeout of %s at most)", n, event.Humane(m.cfg.Policy.DrainTimeout))
	}
	op, err := m.begin(opUpgrade, who)
	if err != nil {
		return nil, fmt.Errorf("cannot upgrade: %w", err)
	}
	u := &upgrade{op: op}
	m.upgrade = u
	m.progress(op, event.Event{Message: "checking the program"})
	// Ends with the upgrade, which has limits of its own; a stop cancels it.
	go func() {
		err := m.flip(u, path, back)
		m.send(func() { m.flipped(u, err) })
	}()
	return op, nil
}

// flip does what takes time. It returns nil when a successor is ready.
func (m *Master) flip(u *upgrade, path string, back bool) error {
	p, err := m.program(u.op.ctx, path, back)
	if err != nil {
		return err
	}
	defer p.file.Close()
	m.tell(u.op, fmt.Sprintf("program %s, version %s", p.path, p.version))
	m.cfg.Fault.At("before-fork")
	// Only a stop ends the operation before we return.
	defer context.AfterFunc(u.op.ctx, m.cfg.Flip.stop)()
	if err := m.cfg.Flip.awaitParent(u.op.ctx); err != nil {
		return err
	}
	u.generation.Store(int64(m.state.nextGeneration(m.cfg.Generation)))
	return m.cfg.Flip.start(p.file, map[string]string{
		notify.RoleVariable:        notify.RoleCandidate,
		notify.GenerationVariable:  fmt.Sprint(u.generation.Load()),
		notify.PredecessorVariable: m.cfg.Notify,
	})
}

// program opens and examines what to upgrade to.
func (m *Master) program(ctx context.Context, path string, back bool) (*program, error) {
	if !back {
		return openProgram(ctx, cmp.Or(path, m.cfg.Executable))
	}
	if m.cfg.Previous < 0 {
		return nil, errors.New("there is no program before this one: the instance was not upgraded, or was rolled back")
	}
	return openProgram(ctx, fmt.Sprintf("/proc/self/fd/%d", m.cfg.Previous))
}

// tell is progress from outside the loop.
func (m *Master) tell(op *Operation, text string) {
	m.send(func() { m.progress(op, event.Event{Message: text}) })
}

// flipped acts on the outcome.
func (m *Master) flipped(u *upgrade, err error) {
	m.readInbox() // its last words
	if m.upgrade == u {
		m.upgrade = nil
	}
	if err == nil {
		m.cfg.Fault.At("leaving")
		m.yield(u)
		return
	}
	if m.phase != running {
		return // a stop has ended it, and said so
	}
	err = m.because(u, err)
	m.lastUpgrade = &UpgradeStatus{Outcome: "failed", Time: time.Now(), Message: err.Error()}
	m.finish(u.op, fmt.Errorf("%w; generation %d goes on as before", err, m.cfg.Generation))
}

// because says why a successor did not come to be, in its own words if it had any.
func (m *Master) because(u *upgrade, err error) error {
	text := err.Error()
	switch {
	case u.refusal != "":
		return errors.New(u.refusal)
	case strings.Contains(text, "timed out"):
		return fmt.Errorf("the new master was not ready within the start timeout of %s and was killed", event.Humane(m.cfg.Policy.StartTimeout))
	case strings.Contains(text, "exited"):
		why := "exit status 0"
		if _, said, ok := strings.Cut(text, "exited: "); ok {
			why = said
		}
		return fmt.Errorf("the new master ended before it was ready: %s", why)
	}
	return err
}

// yield leaves the instance to a successor that is ready. Our workers are the
// keeper's from now on, which has them drain: so the next upgrade need not wait
// for the last of their connections.
func (m *Master) yield(u *upgrade) {
	m.yielded = true
	if m.phase != running {
		// A stop came when it was too late to cancel the upgrade.
		if u.pid != 0 {
			m.platform.kill(u.pid, unix.SIGTERM)
		}
		return
	}
	m.progress(u.op, event.Event{Message: fmt.Sprintf("generation %d serves; generation %d has %s to finish its requests", u.generation.Load(), m.cfg.Generation, event.Humane(m.cfg.Policy.DrainTimeout))})
	m.finish(u.op, nil)
}

// hear acts on what a successor says of itself.
func (m *Master) hear(msg notify.Message) {
	u := m.upgrade
	number, _ := msg.Value(notify.GenerationVariable)
	if u == nil || number != fmt.Sprint(u.generation.Load()) || msg.UID != uint32(os.Geteuid()) {
		return
	}
	// Of one that has died meanwhile nobody knows the parent any more.
	if m.platform.parent(msg.PID) == os.Getpid() {
		u.pid = msg.PID
	}
	if why, ok := msg.Value(refusalKey); ok {
		u.refusal = why
	}
	if text, ok := msg.Value("STATUS"); ok {
		m.progress(u.op, event.Event{PID: msg.PID, Message: text})
	}
}

// refusalKey is with what a successor says why it gives up.
const refusalKey = "X_REVENANT_REFUSAL"
