package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor/event"
	"revenant/supervisor/listen"
	"revenant/supervisor/notify"
	"revenant/supervisor/output"
	"revenant/worker/scoreboard"
)

// Config is what a master is told. Of all this only Settings changes while it
// runs, by a reload.
type Config struct {
	Settings
	// Reread reads the settings again and says what differs, a line each; nil
	// when there is nothing to read. It is called outside the loop, once at a
	// time. An error refuses the whole: nothing changes.
	Reread func() (Settings, []string, error)
	// Applied is called when what Reread returned last is in force: a reload has
	// ended well; and when a master that was started by the one before is in charge.
	// It may be nil. It runs in the loop.
	Applied func()
	// InForce lists the settings in force, for operators. It may be nil. It runs in
	// the loop.
	InForce func() []Setting

	Instance   string // UUID, for the life of the instance
	Name       string // what operators call it
	Version    string // of the program, for status
	Generation int    // of this master
	KeeperPID  int    // parent of orphaned workers; 0 without a keeper
	// Notify is NOTIFY_SOCKET for the workers.
	Notify string
	// Sockets are shared by all workers. They belong to the master from New on.
	Sockets []*listen.Socket
	// Flip starts successors; nil when there shall be none.
	Flip *Flip
	// Succession is of a master that was started by the one before it, else nil.
	Succession *Succession
	// Executable is the file to upgrade to unless another one is named.
	Executable string
	// Previous is a descriptor of the program before this one, -1 without one.
	Previous int
	// Probation is how long after an upgrade workers that crash again and again
	// are a reason to return to the program before. 0 for never.
	Probation time.Duration
	// RolledBack says why an upgrade was undone just now, "" when none was.
	RolledBack string
	// Fault is for tests.
	Fault Faults
	// Lifeline is the read end of the keeper's pipe, shared with the workers that
	// ask for it; -1 without one.
	Lifeline int
	// Above tells that the keeper has somebody above it who wants to know how the
	// instance is; Watchdog, how often that one wants to hear that it works, 0 for
	// never.
	Above    bool
	Watchdog time.Duration
}

// Errors of Run. Each has an exit code of its own in cmd/revenant.
var (
	// ErrNoWorkerReady ends an instance none of whose workers ever served: its
	// environment must see that, not a process that tries for ever.
	ErrNoWorkerReady = errors.New("no worker became ready")
	// ErrCrashLoop ends an instance when Policy.ExitOnCrashLoop is set.
	ErrCrashLoop = errors.New("every worker crashes again and again")
)

// KilledError ends an instance that was told to stop a second time.
type KilledError struct{ Signal unix.Signal }

func (e *KilledError) Error() string {
	return fmt.Sprintf("stopped at once by a second signal (%s)", signalName(e.Signal))
}

// Master supervises the workers of one generation. One goroutine, Run, owns all
// state below; the exported methods send it their wishes. See doc.go.
type Master struct {
	cfg      Config
	platform platform
	events   *event.Bus
	output   *output.Ring
	state    *statePage
	board    func(scoreboard.Identity) (*scoreboard.Board, error)

	size     int // how many workers are wanted
	seats    []*seat
	children map[uint64]*child // every living worker of ours, by id
	byPID    map[int]*child
	orphans  map[uint64]*orphan // workers of older generations that the keeper drains
	oom      oomKills
	guard    guard
	dead     []Report // the newest
	vigil    vigil
	probing  context.Context // ends when no worker is probed any more
	unprobe  context.CancelFunc

	began         time.Time
	phase         instancePhase
	operation     *Operation // under way; nil mostly
	roll          *roll      // the replacing that it does, if it does any
	begun         uint64     // how many operations there were
	stopping      string     // why, once the phase is not running
	leaveAt       time.Time  // when the pre-stop delay ends
	cut           int        // requests that were cut since then
	looked        time.Time  // when the limits of recycling were last looked at
	turn          int        // the slot that is looked at first
	committed     bool       // the keeper was told READY: older generations may go
	degraded      bool       // and said so
	told          string     // the level above: how many workers serve
	signals       int        // requests to stop that came as signals
	outcome       error
	upgrade       *upgrade       // under way; nil mostly
	lastUpgrade   *UpgradeStatus // nil when there was none
	yielded       bool           // another master is to follow: Run ends, and leaves the workers alone
	alone         bool           // no earlier master lives
	keeperGone    bool
	inChargeSince time.Time
	hurry         context.CancelFunc // ends the first step of a stop early

	commands chan func()
	exits    chan exit
	inbox    chan struct{} // something to read from the workers
	hangups  chan struct{} // a socket was shut down
	emptied  chan struct{}
	done     chan struct{} // closed when Run returns
	inCharge chan struct{} // closed when this master speaks for the instance
}

// instancePhase is where the instance stands.
type instancePhase int

const (
	running  instancePhase = iota
	leaving                // says that it is not ready, and still takes connections
	emptying               // no new connections; workers accept what is queued
	draining               // workers were asked to finish
)

// seat is a slot with what the master remembers of it.
type seat struct {
	slot      slot
	n         int
	worker    *child    // nil when there is none
	successor *child    // of the worker, while it is replaced on purpose
	failure   string    // why the successor cannot take over
	spared    time.Time // until when it is not recycled, after a successor that could not
	starts    int
	lastExit  *LastExit
}

// New makes a master of inherited descriptors (the state page and the boards of
// older generations, by name) and a configuration. Run starts it.
func New(cfg Config, stored []notify.NamedFile, workers *notify.Server, keeper *notify.Client) (*Master, error) {
	m := newMaster(cfg, systemPlatform(workers, keeper))
	var err error
	if m.state, err = openState(stored, m.platform.store); err != nil {
		return nil, err
	}
	for _, s := range cfg.Sockets {
		if !s.Borrowed() { // the keeper was given those before us
			m.platform.store(s.Name().String(), s.FD())
		}
	}
	if cfg.Succession != nil {
		m.events.Hold()
		go m.awaitAlone(stored) // ends when no earlier master lives, or with this process
		return m, nil
	}
	m.alone = true
	close(m.inCharge)
	m.events.Continue(m.state.newestEvent())
	m.adoptBoards(stored, m.adoptOutputs(stored))
	return m, nil
}

func newMaster(cfg Config, p platform) *Master {
	cfg.Settings = cfg.Settings.withDefaults()
	probing, unprobe := context.WithCancel(context.Background())
	return &Master{
		probing: probing, unprobe: unprobe,
		cfg: cfg, platform: p, events: new(event.Bus), output: output.NewRing(outputKept), state: new(statePage), board: scoreboard.Create,
		children: make(map[uint64]*child), byPID: make(map[int]*child), orphans: make(map[uint64]*orphan),
		commands: make(chan func()), exits: make(chan exit), inbox: make(chan struct{}), hangups: make(chan struct{}),
		emptied: make(chan struct{}), done: make(chan struct{}), hurry: func() {}, inCharge: make(chan struct{}),
	}
}

// Events is the stream of what happens.
func (m *Master) Events() *event.Bus { return m.events }

// Run supervises until the instance has been stopped and every worker is gone.
// It returns nil after a drain; otherwise one of the errors above. When ctx
// ends (the keeper is gone), it stops as if told to. Signals are those that the
// keeper forwards.
func (m *Master) Run(ctx context.Context, signals <-chan os.Signal) error {
	defer close(m.done)
	defer m.unprobe()
	m.began = time.Now()
	m.beginOOM()
	go m.watchInbox() // ends when the server is closed or m.done is
	defer m.watchSockets()()
	if m.cfg.Watchdog > 0 {
		go m.feedWatchdog() // ends when m.done is closed
	}
	size := m.state.sizeOr(m.cfg.Workers)
	m.publish(event.Event{Kind: event.MasterStarted, PID: os.Getpid(), Count: size})
	if why := m.cfg.RolledBack; why != "" {
		m.lastUpgrade = &UpgradeStatus{Outcome: "rolled back", Time: m.began, Message: why}
		m.publish(event.Event{Kind: event.InstanceRolledBack, Message: why})
	}
	m.resize(size)

	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	gone := ctx.Done()
	for {
		m.review()
		if m.over() {
			m.publish(event.Event{Kind: event.InstanceStopped, Count: m.cut, Message: fmt.Sprintf("%d requests cut", m.cut)})
			return m.outcome
		}
		if m.yielded {
			m.leaveOutput()
			return m.outcome
		}
		m.setTimer(timer)
		select {
		case <-m.inbox:
			m.readInbox()
		case x := <-m.exits:
			m.readInbox() // what it said before it ended counts
			m.exited(x)
		case do := <-m.commands:
			do()
		case s := <-signals:
			m.signal(s)
		case <-m.hangups:
			m.repairSockets("while all lived")
		case <-m.emptied:
			m.drainAll()
		case <-timer.C:
			m.tick()
		case <-gone:
			gone, m.keeperGone = nil, true
			m.stop("the keeper is gone")
		}
	}
}

// over tells whether everybody is gone. Workers of earlier generations are waited
// for too, to say how they end, where the keeper sees to it that they do: when it
// was told that this generation serves, and they leave in good order.
func (m *Master) over() bool {
	orphans := len(m.orphans)
	if !m.committed || m.keeperGone || m.outcome != nil {
		orphans = 0
	}
	return m.phase == draining && len(m.children)+orphans == 0
}

func (m *Master) publish(e event.Event) {
	if e.Generation == 0 {
		e.Generation = m.cfg.Generation
	}
	if id := m.events.Publish(e).ID; id != 0 {
		m.state.setNewestEvent(id)
	}
}

// setTimer arms the one timer for the next deadline of anything.
func (m *Master) setTimer(timer *time.Timer) {
	var next time.Time
	sooner := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	for _, s := range m.seats {
		sooner(s.slot.deadline(m.cfg.Policy))
	}
	for _, c := range m.children {
		sooner(c.deadline)
		sooner(c.permit)
		sooner(c.life.killAt)
	}
	sooner(m.watchDue())
	sooner(m.recycleAt())
	if m.phase == leaving {
		sooner(m.leaveAt)
	}
	sooner(m.guardDue())
	// Once it has passed, the first READY commits, and needs no timer.
	if late := m.began.Add(m.cfg.Policy.StartTimeout); !m.committed && time.Now().Before(late) {
		sooner(late)
	}
	m.vigil.due = next
	if next.IsZero() {
		timer.Stop()
		return
	}
	timer.Reset(max(0, time.Until(next)))
}

// tick acts on every deadline that has passed.
func (m *Master) tick() {
	now := time.Now()
	m.punctual(now)
	m.keepWatch(now)
	if m.phase == leaving && !now.Before(m.leaveAt) {
		m.closeDown()
	}
	m.recycle(now)
	m.guardSockets(now)
	for _, s := range m.seats {
		if d := s.slot.deadline(m.cfg.Policy); !d.IsZero() && !now.Before(d) {
			m.step(s, tick)
		}
	}
	for _, c := range m.children {
		if !c.deadline.IsZero() && !now.Before(c.deadline) {
			m.kill(c, causeDrainTimeout)
		}
		if !c.permit.IsZero() && !now.Before(c.permit) {
			m.takeBack(c)
		}
	}
}

// step moves a slot and does what the move asks for.
func (m *Master) step(s *seat, t trigger) {
	next, todo, legal := s.slot.step(time.Now(), t, m.cfg.Policy)
	if !legal {
		m.publish(event.Event{Kind: event.Warning, Slot: &s.n, Message: fmt.Sprintf("%v cannot happen in phase %v; ignored", t, s.slot.phase)})
		return
	}
	former, successor := s.worker, s.successor
	switch t {
	case unwant, leaves, leavesCrowd:
		if s.slot.phase != killing || t == unwant {
			s.worker = nil
		}
	case exitPlanned, exitKilled, exitCrashed:
		s.worker = nil
	}
	s.slot = next
	for _, a := range todo {
		m.do(s, former, successor, a)
	}
}

func (m *Master) do(s *seat, former, successor *child, a action) {
	switch a {
	case actStart:
		c, err := m.start(s)
		if s.worker = c; err != nil {
			m.cannotStart(s, err)
			m.step(s, startFailed)
			m.notStarted(s, err)
		}
	case actSuccessor:
		c, err := m.start(s)
		if s.successor = c; err != nil {
			m.cannotStart(s, err)
			m.fail(s, "cannot start a worker: "+err.Error())
		}
	case actProve:
		m.prove(s, successor)
	case actPromote:
		s.worker, s.successor = successor, nil
	case actOverdue:
		m.overdue(s, successor)
	case actDismiss:
		s.successor = nil
		m.dismiss(s, successor)
	case actRetire:
		m.retire(former, m.reason())
	case actKill:
		former.detail = "it was waited for " + m.expectedOf(former)
		m.kill(former, causeStartTimeout)
	case actWait:
		if s.slot.fails > 1 {
			next := s.slot.next
			m.publish(event.Event{Kind: event.WorkerBackoff, Slot: &s.n, Count: s.slot.fails, NextStart: &next,
				Message: fmt.Sprintf("%d failures in a row", s.slot.fails)})
		}
	}
}

func (m *Master) cannotStart(s *seat, err error) {
	s.lastExit = &LastExit{Generation: m.cfg.Generation, Cause: "cannot start: " + err.Error(), Time: time.Now()}
	m.publish(event.Event{Kind: event.Warning, Slot: &s.n, Message: fmt.Sprintf("cannot start worker: %v", err)})
}

// resize makes the number of slots n. The highest slots go first. The new size
// is known before the first start: each worker gets its share of it.
func (m *Master) resize(n int) {
	m.size = n
	for len(m.seats) < n {
		s := &seat{n: len(m.seats)}
		m.seats = append(m.seats, s)
		m.step(s, want)
	}
	for len(m.seats) > n {
		s := m.seats[len(m.seats)-1]
		m.seats = m.seats[:len(m.seats)-1]
		m.step(s, unwant)
	}
}
