// Package keeper is the first process of an instance: it starts the master, forwards signals to it,
// keeps descriptors for its successor, starts a successor when it dies, reaps orphans, and exits
// when everything below it is gone. The rest of the instance may crash; this must not, so it has no
// configuration, no HTTP, and no state but what one goroutine holds.
//
// Whoever lives below follows the keeper: the lifeline, a pipe whose write end only the keeper has,
// reads end-of-file when the keeper is gone.
package keeper

import (
	"fmt"
	"log/slog"
	"math"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"revenant/supervisor/notify"
)

// ExitGaveUp is the exit code when no master ever became ready.
const ExitGaveUp = 1

const (
	haste      = time.Second            // from a second stop signal to SIGKILL for everything
	killAgain  = 100 * time.Millisecond // as those appear whose parents were killed
	maxWishes  = 64
	leaveAfter = 5 * time.Second // from the first SIGKILL for everything to leaving without what survives it
)

// Variables, for tests that cannot wait.
var (
	masterGrace = 10 * time.Second      // beyond the drain timeout, for a master that was asked to stop
	lookAgain   = time.Second           // after a commit, for orphans that hid from the first look
	limboPause  = 20 * time.Millisecond // before the next look at one between fork and exec
	limboLimit  = 10 * time.Second      // for one to become a worker, or to say that it is a candidate
)

// Config says what to keep. Args are the arguments without the program's name.
type Config struct {
	Instance   string
	Executable string // default /proc/self/exe, which outlives its file
	Args       []string
	Environ    []string
	// Stored are descriptors for masters from the first one on, the keeper's from
	// now on, as if a master had handed them over.
	Stored       []notify.NamedFile
	DrainTimeout time.Duration
	Probation    time.Duration  // after an upgrade, for a return to the program before; 0 for none
	StopSignal   syscall.Signal // asks a worker to drain; default SIGTERM
	Logger       *slog.Logger   // default: discard
}

// keeper is the state of Run's goroutine; nothing else touches it.
type keeper struct {
	Config
	server   *notify.Server
	above    above
	lifeline [2]int
	store    store

	master    master
	candidate master            // started by the master, to succeed it
	leaving   map[int]time.Time // masters that were succeeded, by pid, until they are reaped; when they are killed
	started   int               // the latest generation
	committed int               // the latest generation that was ready, 0 for none
	deaths    int               // since a master last proved stable
	kills     int               // of ready masters from outside, since then
	startAt   time.Time         // of the next master, zero while one lives

	trial      time.Time // until when the program of the last upgrade has to prove itself
	rolledBack string    // why that of the last upgrade was given up, "" when it was not

	orphans    map[int]*orphan // by pid, until they are reaped
	ends       []end           // the newest, oldest first
	lookAt     time.Time
	limboPause time.Duration
	limbo      map[int]time.Time // what a dead master had begun and is nothing yet, by pid; when it is killed

	ignored   map[syscall.Signal]bool // that came, and had no meaning
	wishes    []syscall.Signal        // that wait for a master which can hear
	stops     int                     // stop signals so far
	ending    bool
	childless bool
	code      int
	killAt    time.Time
	leaveAt   time.Time
	cut       int // processes that were killed at the end, of those we reaped

	gone chan int      // pids of candidates that died
	done chan struct{} // closed when loop returns
}

// Run keeps an instance until it ends and returns the exit code: 128 and its number after a second
// stop signal; ExitGaveUp; else that of the master that said STOPPING=1. Of one that was killed then,
// or after a stop signal, it is 0: the stop goes on without it, and what does not drain in time is
// killed, which is a warning in the log and no failure. It takes over the signals and
// children of the whole process: nothing else in it may start or wait for one.
func Run(config Config) int {
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(25) // a heap of 1 MiB and not of 4, for what messages leave behind
	runtime.LockOSThread() // and never unlocked: the caller writes as we do
	blockTTOU(unix.SIG_BLOCK)
	k := &keeper{Config: config, orphans: map[int]*orphan{}, leaving: map[int]time.Time{}, ignored: map[syscall.Signal]bool{},
		gone: make(chan int), done: make(chan struct{})}
	if k.Logger == nil {
		k.Logger = slog.New(slog.DiscardHandler)
	}
	if k.StopSignal == 0 {
		k.StopSignal = syscall.SIGTERM
	}
	if k.Executable == "" {
		k.Executable = "/proc/self/exe"
	}
	// Before the first fork, or a first process is deaf to all signals and a master may die unseen.
	signals, deaths := make(chan os.Signal, 64), make(chan os.Signal, 1)
	signal.Notify(signals, caught()...)
	signal.Notify(deaths, syscall.SIGCHLD)
	if err := k.open(); err != nil {
		k.Logger.Error("cannot keep an instance", "err", err)
		return ExitGaveUp
	}
	defer k.close()
	return k.loop(signals, deaths)
}

// open makes what every master is given.
func (k *keeper) open() (err error) {
	// Whatever else we were started with is not for those below.
	unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	for _, f := range notify.Inherited(os.Getenv) {
		k.store = append(k.store, stored{notify.EscapeName(AboveName + f.Name), f.FD})
	}
	for _, f := range k.Stored {
		k.store.put(notify.EscapeName(f.Name), []int{f.FD})
	}
	k.openAbove(time.Now())
	if os.Getpid() != 1 {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("cannot become the parent of orphans: %w", err)
		}
	}
	if err := unix.Pipe2(k.lifeline[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return fmt.Errorf("cannot make the lifeline: %w", err)
	}
	k.server, err = notify.Listen(fmt.Sprintf("revenant/%s/keeper/%d", k.Instance, os.Getpid()))
	if err != nil {
		unix.Close(k.lifeline[0])
		unix.Close(k.lifeline[1])
	}
	return err
}

func (k *keeper) close() {
	k.server.Close()
	k.store.clear()
	unix.Close(k.lifeline[0])
	unix.Close(k.lifeline[1])
}

// loop owns all state. It returns when the instance has ended and no child is left.
func (k *keeper) loop(signals, deaths <-chan os.Signal) int {
	arrivals := make(chan struct{})
	defer close(k.done)
	// Ends when loop has returned and the server is closed; it holds nothing.
	go func() {
		for k.server.Wait() == nil {
			select {
			case arrivals <- struct{}{}:
			case <-k.done:
				return
			}
		}
	}()
	k.start(time.Now())
	timer := time.NewTimer(0)
	for !k.ending || !k.childless {
		timer.Reset(k.wait(time.Now()))
		select {
		case s := <-signals:
			k.signal(s.(syscall.Signal), time.Now())
		case <-arrivals:
			k.read(time.Now())
		case <-deaths:
			k.reap(time.Now())
		case pid := <-k.gone:
			k.departed(pid, time.Now())
		case <-timer.C:
		}
		if !k.due(time.Now()) {
			break
		}
	}
	if k.cut > 0 && k.stops < 2 {
		k.Logger.Warn("stopped, but not everything had drained", "killed", k.cut, "drain_timeout", humane(k.DrainTimeout))
	}
	return k.code
}

// wait is the time until something is due.
func (k *keeper) wait(now time.Time) time.Duration {
	wait := time.Hour
	next := func(t time.Time) {
		if !t.IsZero() {
			wait = max(0, min(wait, t.Sub(now)))
		}
	}
	next(k.startAt)
	next(k.lookAt)
	next(k.killAt)
	next(k.leaveAt)
	next(k.above.feedAt)
	for _, o := range k.orphans {
		next(o.killAt)
	}
	for _, killAt := range k.leaving {
		next(killAt)
	}
	return wait
}

// due does what the time has come for. It returns false to leave at once.
func (k *keeper) due(now time.Time) bool {
	k.feed(now)
	passed := func(t time.Time) bool { return !t.IsZero() && !now.Before(t) }
	if passed(k.startAt) && k.stops == 0 && !k.ending {
		k.start(now)
	}
	look := passed(k.lookAt)
	for _, o := range k.orphans {
		look = look || passed(o.killAt)
	}
	if look {
		k.look(now)
	}
	for pid, killAt := range k.leaving {
		if passed(killAt) {
			k.Logger.Warn("former master killed: it did not leave", "pid", pid)
			k.leaving[pid] = now.Add(time.Second)
			unix.Kill(pid, syscall.SIGKILL)
		}
	}
	if passed(k.leaveAt) {
		k.Logger.Error("leaving processes that do not die", "processes", children())
		return false
	}
	if passed(k.killAt) {
		if k.leaveAt.IsZero() {
			k.leaveAt = now.Add(leaveAfter)
			k.Logger.Warn("killing everything that is left", "processes", len(children()))
		}
		k.killAt = now.Add(killAgain)
		killAll()
	}
	return true
}

// end begins the end of the instance: no master is left, and all others must go. Once the workers
// are asked to drain, which empties the listeners' queues, the stored listeners are closed, so that
// late clients are refused and do not wait for nobody.
func (k *keeper) end(code int, now time.Time) {
	k.ending, k.code, k.startAt = true, code, time.Time{}
	k.killBy(now.Add(k.DrainTimeout))
	if k.candidate.pid != 0 {
		unix.Kill(k.candidate.pid, syscall.SIGKILL)
		k.candidateDied(k.candidate.pid, now)
	}
	k.master.hangUp()
	k.master.store.clear()
	k.look(now)
	k.store.clear()
	k.reap(now)
}

// killBy makes sure that everything is killed at t or earlier.
func (k *keeper) killBy(t time.Time) {
	if k.killAt.IsZero() || t.Before(k.killAt) {
		k.killAt = t
	}
}
