package keeper

import (
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"revenant/supervisor/notify"
)

// orphan is a child we did not start: it became ours when its parent died.
type orphan struct {
	worker, slot string
	generation   int
	asked        syscall.Signal // to leave, by this signal; 0 until then
	killed       bool           // because it did not leave in time
	killAt       time.Time      // zero until it was asked to leave
}

// reap collects every child that has died. Nothing else waits for children, but for one that a master
// asks for.
func (k *keeper) reap(now time.Time) {
	look := false
	for {
		pid, err := nextDead()
		k.childless = err == syscall.ECHILD
		if err != nil || pid <= 0 {
			break
		}
		status, began, ok := k.take(pid)
		if !ok {
			continue
		}
		if pid == k.master.pid {
			k.exited(status, now)
			look = true
			continue
		}
		if _, ours := k.leaving[pid]; ours {
			k.left(pid, status)
			look = true // its workers are ours now
			continue
		}
		k.candidateDied(pid, now)
		look = k.buried(pid, began, status, now) || look
	}
	if look || len(k.orphans) > 0 || k.ending && !k.childless {
		k.look(now)
	}
}

// buried notes the end of a child that was no master. It tells whether that was a worker, whose own
// children may be ours now.
func (k *keeper) buried(pid int, began uint64, status syscall.WaitStatus, now time.Time) bool {
	o := k.orphans[pid]
	delete(k.orphans, pid)
	k.remember(pid, began, status, o, now)
	if o == nil || o.generation == 0 {
		k.Logger.Debug("orphan reaped", "pid", pid, cause(status))
		return false
	}
	k.Logger.Info("former worker exited", append(o.facts(pid), cause(status), "asked", o.asked != 0)...)
	return true
}

// look finds the orphans anew and asks those to leave that have no business any more. Once is
// never enough: orphans appear whenever a parent dies, and one between fork and exec still looks
// like the master it was, or is a candidate that has not said so.
func (k *keeper) look(now time.Time) {
	k.lookAt = time.Time{}
	limbo := map[int]time.Time{}
	for _, pid := range children() {
		if k.isMaster(pid) || k.orphans[pid] != nil {
			continue
		}
		o, unborn := identify(pid, k.Instance)
		// A stranger is none of our business before the end.
		if o.generation > 0 || k.ending {
			k.orphans[pid] = &o
		} else if unborn {
			limbo[pid] = k.await(pid, now)
		}
	}
	k.limbo = limbo
	k.lookAgain(now)
	for pid, o := range k.orphans {
		if !k.wanted(o) {
			k.retire(pid, o, now)
		}
	}
}

// await is when a process in limbo is killed, which is now when it is late: what its
// master was to hear nobody hears any more, and nobody else would ever end it.
func (k *keeper) await(pid int, now time.Time) (killAt time.Time) {
	killAt, known := k.limbo[pid]
	switch {
	case !known:
		return now.Add(limboLimit)
	case !now.Before(killAt):
		k.Logger.Warn("process of a dead master killed: it has become neither a worker nor a candidate", "pid", pid, "within", humane(limboLimit))
		kill(pid)
		return now.Add(time.Second)
	}
	return killAt
}

// lookAgain plans the next look at those in limbo, if there are any.
func (k *keeper) lookAgain(now time.Time) {
	if len(k.limbo) == 0 {
		return
	}
	k.lookAt = now.Add(k.limboPause)
	k.limboPause = min(2*k.limboPause, longestStep)
	for _, killAt := range k.limbo {
		if killAt.Before(k.lookAt) {
			k.lookAt = killAt
		}
	}
}

func (k *keeper) isMaster(pid int) bool {
	_, leaving := k.leaving[pid]
	return leaving || pid == k.master.pid || pid == k.candidate.pid
}

// wanted tells whether an orphan may go on: it belongs to the generation that serves until the next
// is ready, to the living master's, or to the candidate's.
func (k *keeper) wanted(o *orphan) bool {
	return !k.ending && (o.generation == k.committed || k.master.pid != 0 && o.generation == k.master.generation ||
		k.candidate.pid != 0 && o.generation == k.candidate.generation)
}

// retire asks an orphan to leave, once, and kills it and its group when it has not in time. What was
// dead before did not end by that.
func (k *keeper) retire(pid int, o *orphan, now time.Time) {
	facts := o.facts(pid)
	switch {
	case o.killAt.IsZero() && !dead(pid):
		k.Logger.Info("former worker asked to leave", append(facts, "kill_in", humane(k.DrainTimeout))...)
		o.killAt, o.asked = now.Add(k.DrainTimeout), k.stopSignal(o)
		unix.Kill(pid, o.asked)
	case !o.killAt.IsZero() && !now.Before(o.killAt):
		k.Logger.Warn("former worker killed: it did not leave in time", facts...)
		o.killAt, o.killed = now.Add(time.Second), o.killed || !dead(pid)
		kill(pid)
	}
}

// stopSignal is that of workers; strangers know SIGTERM.
func (k *keeper) stopSignal(o *orphan) syscall.Signal {
	if o.generation > 0 {
		return k.StopSignal
	}
	return syscall.SIGTERM
}

func (o *orphan) facts(pid int) []any {
	if o.generation == 0 {
		return []any{"pid", pid}
	}
	return []any{"worker", o.worker, "slot", o.slot, "generation", o.generation, "pid", pid}
}

// introduce takes the master's word for who a child of ours is: a program that sets its title
// writes over its environment.
func (k *keeper) introduce(who string, now time.Time) {
	var pid int
	var o orphan
	if _, err := fmt.Sscan(who, &pid, &o.generation, &o.worker, &o.slot); err != nil || o.generation < 1 {
		k.Logger.Warn("the master introduced an orphan in words that are not known", "words", who)
		return
	}
	known := k.orphans[pid]
	if k.isMaster(pid) || !slices.Contains(children(), pid) || known != nil && known.generation > 0 {
		return
	}
	k.orphans[pid] = &o
	k.look(now)
}

// identify reads who a child is from the environment it was started with. One that is in limbo,
// between fork and exec, has its dead master's.
func identify(pid int, instance string) (o orphan, limbo bool) {
	vars := environOf(pid)
	if vars[notify.WorkerInstanceVariable] != instance {
		return orphan{}, vars[notify.InstanceVariable] == instance
	}
	generation, err := strconv.Atoi(vars[notify.WorkerGenerationVariable])
	if err != nil || generation < 1 {
		return orphan{}, false
	}
	return orphan{worker: vars[notify.WorkerVariable], slot: vars[notify.WorkerSlotVariable], generation: generation}, false
}

// environOf is the environment that a process was started with, empty when it is not to be had.
func environOf(pid int) map[string]string {
	environ, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	vars := map[string]string{}
	for entry := range strings.SplitSeq(string(environ), "\x00") {
		name, value, _ := strings.Cut(entry, "=")
		vars[name] = value
	}
	return vars
}

// statOf is what the kernel tells of a process, from its state on: "pid (any name) state parent …".
func statOf(pid int) []string {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
}

// parentOf is a process's parent, 0 when unknown.
func parentOf(pid int) int {
	fields := statOf(pid)
	if len(fields) < 2 {
		return 0
	}
	parent, _ := strconv.Atoi(fields[1])
	return parent
}

// children lists our children, dead ones included. The kernel's list may skip some while others are
// removed from it; only we remove them, by reaping.
func children() (pids []int) {
	lists := 0
	for _, task := range numbered("/proc/self/task") {
		text, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/children", task))
		if err != nil {
			continue
		}
		lists++
		for field := range strings.FieldsSeq(string(text)) {
			if pid, err := strconv.Atoi(field); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	if lists == 0 {
		return childrenByParent()
	}
	return pids
}

// childrenByParent is for kernels without the list: it asks every process for its parent.
func childrenByParent() (pids []int) {
	for _, pid := range numbered("/proc") {
		if parentOf(pid) == os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids
}

// numbered lists the entries of a directory that are numbers.
func numbered(directory string) (numbers []int) {
	entries, _ := os.ReadDir(directory)
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil {
			numbers = append(numbers, n)
		}
	}
	return numbers
}

// humane is a duration as a fact of a log line, which would else be a number of nanoseconds.
func humane(d time.Duration) string { return d.Round(time.Millisecond).String() }

// cause is how a process ended, as a fact of a log line.
func cause(status syscall.WaitStatus) slog.Attr {
	if status.Signaled() {
		return slog.String("signal", unix.SignalName(status.Signal()))
	}
	return slog.Int("exit_code", status.ExitStatus())
}
