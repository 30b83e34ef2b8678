package keeper

import (
	"fmt"
	"strings"
	"time"
)

// Names in the store of the programs that masters are started from: a master says what it runs, and
// so the file may be replaced, or be gone, when one is started again.
const (
	executableName = "executable"
	previousName   = "executable-previous"
)

// executable is the path to start a master from: the stored descriptor, by the number it has in the
// child.
func (k *keeper) executable() string {
	for n, e := range k.store {
		if e.name == executableName {
			return fmt.Sprintf("/proc/self/fd/%d", firstStored+n)
		}
	}
	return k.Executable
}

// settle makes the program of a master that is ready the one that later masters are started from.
// That of a successor has to prove itself: the one before is kept, and until probation has passed, a
// master that falls over by itself is followed by one of the program before.
func (k *keeper) settle(now time.Time) {
	program := k.master.store.take(executableName)
	k.master.store.clear()
	if len(program) == 0 {
		return
	}
	if k.master.succeeds {
		k.store.put(previousName, k.store.take(executableName))
		k.trial, k.rolledBack = now.Add(k.Probation), ""
	}
	k.store.put(executableName, program)
}

// rollBack returns to the program before, and tells whether there was a reason and a way to.
func (k *keeper) rollBack(now time.Time, generation int, why string) bool {
	program := k.store.find(previousName)
	if k.trial.IsZero() || now.After(k.trial) || len(program) == 0 {
		return false
	}
	k.trial = time.Time{}
	k.store.put(executableName, k.store.take(previousName))
	k.rolledBack = strings.ReplaceAll(fmt.Sprintf("generation %d: %s", generation, why), "\n", " ")
	k.deaths, k.kills = 0, 0
	return true
}
