package keeper

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"revenant/supervisor/notify"
)

const (
	firstPause  = 100 * time.Millisecond // between the second and the third master
	longestStep = 5 * time.Second
	maxMasters  = 5 // to try before the first readiness
	firstStored = 4 // number of the first stored descriptor in a master
	// longestBreath bounds the pause after a master that was killed as soon as it
	// was ready: without one, no worker that dies is replaced.
	longestBreath = time.Second
)

// Variables, for tests that cannot wait.
var (
	stableAfter = 10 * time.Second // of readiness forgives the deaths before
	startShare  = 5                // one part in so many of the time may go into starting masters that are killed
)

// master is the current one, its pid 0 when there is none.
type master struct {
	pid        int
	generation int
	startedAt  time.Time
	readyAt    time.Time
	stopping   bool // it said so: its end is the instance's

	heard    bool   // it said something: from then on it knows what to do with signals
	unfit    string // why it says that its program is no good
	succeeds bool   // it was started by the master before it, as a candidate
	line     int    // its question, which ends when no earlier master lives; 0 for none
	store    store  // what it stored and we do not take for ours yet
}

// start starts the next master. A start that fails counts as a death.
func (k *keeper) start(now time.Time) {
	k.started++
	k.startAt = time.Time{}
	k.master = master{generation: k.started, startedAt: now}
	files := append([]uintptr{0, 1, 2, uintptr(k.lifeline[0])}, k.store.descriptors()...)
	argv := append([]string{fmt.Sprintf("revenant: master g%d", k.started)}, k.Args...)
	blockTTOU(unix.SIG_UNBLOCK) // or the master would have it blocked for ever
	program := k.executable()
	pid, err := syscall.ForkExec(program, argv, &syscall.ProcAttr{
		Env:   k.environ(),
		Files: files,
		// Not of the terminal's session: Ctrl-C is for the keeper, which then asks the master, and
		// "stty tostop" must not send the master SIGTTOU for each line it writes.
		Sys: &syscall.SysProcAttr{Setsid: true},
	})
	blockTTOU(unix.SIG_BLOCK)
	if err != nil {
		k.died(now, false, "err", fmt.Errorf("cannot start %s: %w", program, err))
		return
	}
	k.master.pid, k.childless = pid, false
	// It says so itself, and why when it cannot begin.
	k.Logger.Debug("master started", "generation", k.started, "pid", pid, "descriptors", len(k.store))
}

// environ is the next master's environment. It is built from a map: of a variable that stands
// twice, a program may believe the wrong one.
func (k *keeper) environ() []string {
	vars := map[string]string{}
	for _, entry := range notify.Clean(k.Environ) {
		name, value, ok := strings.Cut(entry, "=")
		if _, twice := vars[name]; ok && name != "" && !twice {
			vars[name] = value
		}
	}
	if operators, ok := vars["GOMAXPROCS"]; ok {
		vars[notify.GoProcsVariable] = operators
	}
	vars["GOMAXPROCS"] = "1"
	vars[notify.SocketVariable] = k.server.Address()
	vars[notify.FDsVariable] = strconv.Itoa(1 + len(k.store))
	vars[notify.NamesVariable] = strings.Join(append([]string{"lifeline"}, k.store.names()...), ":")
	vars[notify.RoleVariable] = notify.RoleMaster
	vars[notify.InstanceVariable] = k.Instance
	vars[notify.GenerationVariable] = strconv.Itoa(k.started)
	if k.above.client != nil {
		vars[notify.AboveVariable] = "1"
	}
	if k.above.watchdog > 0 { // what we feed it with
		vars[notify.WatchdogVariable] = strconv.FormatInt(k.above.watchdog.Microseconds(), 10)
	}
	vars[notify.KeeperPIDVariable] = strconv.Itoa(os.Getpid())
	if k.rolledBack != "" {
		vars[notify.RolledBackVariable] = k.rolledBack
	}
	environ := make([]string, 0, len(vars))
	for name, value := range vars {
		environ = append(environ, name+"="+value)
	}
	slices.Sort(environ)
	return environ
}

// read takes in every message that was sent. Masters are listened to, and those that say they are to
// be one.
func (k *keeper) read(now time.Time) {
	for {
		m, ok, err := k.server.TryReceive()
		if err != nil {
			k.Logger.Error("cannot read messages", "err", err)
		}
		if !ok {
			return
		}
		k.listen(m, now)
		m.Close()
	}
}

func (k *keeper) listen(m notify.Message, now time.Time) {
	_, leaving := k.leaving[m.PID]
	_, applies := m.Value(notify.MainPID)
	switch {
	case m.PID == 0:
	case m.PID == k.master.pid:
		k.hear(m, now)
		return
	case leaving:
		k.keep(m, &k.store)
		return
	case m.PID == k.candidate.pid:
		k.keep(m, &k.candidate.store)
		if m.Says(notify.Ready) {
			k.agree(m)
			k.promote(now)
			k.commit(now)
		}
		return
	case applies:
		k.apply(m, now)
		return
	}
	k.Logger.Debug("message of a stranger ignored", "pid", m.PID, "uid", m.UID)
}

// hear does what the master says.
func (k *keeper) hear(m notify.Message, now time.Time) {
	k.awake()
	k.keep(m, &k.store)
	k.agree(m)
	if who, ok := m.Value(notify.OrphanKey); ok {
		k.introduce(who, now)
	}
	k.tellEnd(m, now)
	k.relayAbove(m, now)
	if m.Says(notify.Ready) && k.master.readyAt.IsZero() {
		k.commit(now)
	}
	if why, ok := m.Value(notify.UnfitVariable); ok {
		k.master.unfit = why
	}
	if m.Says(notify.Stopping) {
		k.master.stopping = true
		limit, ok := m.ExtendTimeout()
		k.stoppingAbove(max(limit, k.DrainTimeout))
		// The settings that it ends by may be others than those that we began with. It is asked by a
		// signal, which we know of, or by an operator, of whom only it knows.
		if ok && k.stops <= 1 && !k.ending {
			k.killAt = now.Add(limit + masterGrace)
		}
	}
}

// agree takes over how workers leave, which a reload or an upgrade may have changed.
func (k *keeper) agree(m notify.Message) {
	terms, ok := m.Value(notify.TermsKey)
	if !ok {
		return
	}
	var us int64
	var signal syscall.Signal
	if _, err := fmt.Sscanf(terms, "%d %d", &us, &signal); err != nil || us <= 0 || us > int64(math.MaxInt64/time.Microsecond) || signal <= 0 || signal > 64 {
		k.Logger.Warn("cannot understand how workers leave", "terms", terms)
		return
	}
	k.DrainTimeout, k.StopSignal = time.Duration(us)*time.Microsecond, signal
}

// keep stores and removes descriptors. The program of a master that is not ready yet is set apart.
func (k *keeper) keep(m notify.Message, to *store) {
	name, _ := m.Value("FDNAME")
	if m.PID == k.master.pid && name == executableName && k.master.readyAt.IsZero() {
		to = &k.master.store
	}
	if m.Says(notify.StoreFD) && len(m.Files) > 0 {
		if err := to.keep(name, m.Files); err != nil {
			k.Logger.Error("descriptor not stored: it would be lost if the master died", "name", notify.UnescapeName(name), "err", err)
		} else if to == &k.store {
			k.relay(m.PID, to.find(name), notify.StoreFD, "FDNAME="+name)
		}
	}
	if m.Says(notify.RemoveFD) {
		to.remove(name)
		if to == &k.store && name != "" {
			k.relay(m.PID, nil, notify.RemoveFD, "FDNAME="+name)
		}
	}
}

// commit makes the master's generation the one that serves: older ones may go.
func (k *keeper) commit(now time.Time) {
	k.master.readyAt = now
	k.committed = k.master.generation
	k.rolledBack = "" // it knows, and tells it once
	k.settle(now)
	k.Logger.Debug("master ready", "generation", k.committed, "pid", k.master.pid, "took", humane(now.Sub(k.master.startedAt)))
	k.above.heard = now
	k.readyAbove()
	k.limboPause = limboPause
	k.look(now)
	if k.lookAt.IsZero() {
		k.lookAt = now.Add(lookAgain)
	}
}

// exited decides what a master's exit means.
func (k *keeper) exited(status syscall.WaitStatus, now time.Time) {
	// What was said before it died counts: descriptors, readiness, and that it would leave; also that
	// its successor is ready, and then it is the master no more.
	pid := k.master.pid
	k.read(now)
	if pid != k.master.pid {
		k.left(pid, status)
		return
	}
	code, level := status.ExitStatus(), slog.LevelDebug
	if status.Signaled() {
		code = 128 + int(status.Signal())
	}
	switch {
	case k.stops >= 2:
		code = k.code
	case !k.master.stopping && k.candidate.pid != 0 && running(k.candidate.pid):
		// It left for its successor, or was killed while there was one.
		k.Logger.Info("master left", "generation", k.master.generation, "pid", k.master.pid, cause(status), "successor", k.candidate.pid)
		k.master.hangUp()
		k.master.pid = 0
		k.promote(now)
		return
	case k.stops == 0 && !k.master.stopping:
		// One that leaves in good order, for a successor that was ready and died then, has not crashed.
		k.died(now, fromOutside(status) || status.Exited() && code == 0, cause(status))
		return
	case status.Signaled() && (k.stops == 1 || k.committed > 0):
		// It was killed while the instance stopped: by the signal that asks for it when it could
		// not hear yet, else from outside. The orphans drain without it.
		code = 0
		if k.master.stopping || status.Signal() != syscall.SIGTERM {
			level = slog.LevelWarn
		}
	}
	k.Logger.Log(context.Background(), level, "master left", "generation", k.master.generation, "pid", k.master.pid, cause(status), "code", code)
	k.master.pid = 0
	k.end(code, now)
}

// died plans the next master, or gives up when none has ever been ready. One that was ready and was
// killed is no crash: its successor starts at once, unless starting would eat the machine.
func (k *keeper) died(now time.Time, killed bool, why ...any) {
	m := k.master
	k.master.pid = 0
	k.master.hangUp()
	k.master.store.clear()
	if k.candidate.pid != 0 {
		k.candidateDied(k.candidate.pid, now) // else it would have been promoted
	}
	if !m.readyAt.IsZero() && now.Sub(m.readyAt) >= stableAfter {
		k.deaths, k.kills = 0, 0
	}
	var wait time.Duration
	if killed && !m.readyAt.IsZero() {
		k.kills++
		wait = breath(k.kills, m.readyAt.Sub(m.startedAt), now.Sub(m.readyAt))
	} else {
		k.deaths++
		wait = pause(k.deaths)
	}
	facts := append([]any{"generation", m.generation, "pid", m.pid, "uptime", humane(now.Sub(m.startedAt))}, why...)
	if k.stops > 0 { // nobody is to follow
		k.end(0, now)
		return
	}
	if !killed && k.rollBack(now, m.generation, cmp.Or(m.unfit, fmt.Sprint(why...))) {
		k.startAt = now
		k.Logger.Error("upgrade rolled back: the master fell over on probation", facts...)
		k.look(now)
		return
	}
	if k.committed == 0 && k.started >= maxMasters {
		k.Logger.Error("giving up: no master became ready", append(facts, "masters", k.started)...)
		k.end(ExitGaveUp, now)
		return
	}
	k.startAt = now.Add(wait)
	k.Logger.Warn("master died", append(facts, "restart_in", humane(wait))...)
	k.limboPause = limboPause
	k.look(now)
}

// fromOutside tells whether somebody else ended the process: a Go program does not raise these itself.
func fromOutside(status syscall.WaitStatus) bool {
	return status.Signaled() && slices.Contains([]syscall.Signal{syscall.SIGKILL, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP}, status.Signal())
}

// breath is the pause after a master that somebody killed, the nth in a row, which took boot to
// become ready and then was for so long: none, unless starting masters would eat the machine, which
// one kill does not, however long the boot.
func breath(kills int, boot, ready time.Duration) time.Duration {
	if kills <= 1 {
		return 0
	}
	return min(max(0, boot*time.Duration(startShare-1)-ready), longestBreath)
}

// pause is the time between the nth death in a row and the next start.
func pause(deaths int) time.Duration {
	if deaths <= 1 {
		return 0
	}
	return min(firstPause<<min(deaths-2, 16), longestStep)
}
