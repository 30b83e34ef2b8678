// Package cgroup knows how much of the machine the instance may use: CPUs,
// memory, and whether the kernel has killed for want of it. It says for each
// figure which rule decided, because "why two workers?" is the first question.
//
// go.uber.org/automaxprocs reads the CPU quota of the own cgroup and is asked
// for it. It does not see a tighter ancestor, nor the CPU affinity, nor a
// version 2 hierarchy that is mounted anywhere but at /sys/fs/cgroup, and it
// never looks again; all that is done here, each time it is asked.
package cgroup

import (
	"errors"
	"io/fs"
	"os"
	"runtime"
	"sync"
	"syscall"

	"go.uber.org/automaxprocs/maxprocs"
	"golang.org/x/sys/unix"
)

// Host is the machine as one process sees it.
type Host struct {
	files    fs.FS
	affinity func() int
	ownQuota func() (quota float64, ok bool)
}

// Self is the machine as this process sees it.
func Self() Host {
	return Host{files: os.DirFS("/"), affinity: affinity, ownQuota: automaxprocsQuota}
}

// affinity counts the CPUs that this process may run on, a cpuset included.
func affinity() int {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil || set.Count() == 0 {
		return runtime.NumCPU() // more CPUs than the set can hold
	}
	return set.Count()
}

// automaxprocs holds the environment and GOMAXPROCS still for one reading.
var automaxprocs sync.Mutex

// automaxprocsQuota learns the quota from the function that would round it and
// leaves GOMAXPROCS as it was. The variable GOMAXPROCS, which our own master
// has, would keep automaxprocs from looking.
func automaxprocsQuota() (quota float64, ok bool) {
	automaxprocs.Lock()
	defer automaxprocs.Unlock()
	const variable = "GOMAXPROCS"
	fixed, isFixed := os.LookupEnv(variable)
	if isFixed {
		os.Unsetenv(variable)
		defer os.Setenv(variable, fixed)
	}
	undo, err := maxprocs.Set(maxprocs.RoundQuotaFunc(func(v float64) int {
		quota, ok = v, v > 0
		return runtime.GOMAXPROCS(0)
	}))
	undo()
	if ok && !isFixed {
		// A call of runtime.GOMAXPROCS, even to the same value, ends the
		// runtime's own updates; this brings them back.
		runtime.SetDefaultGOMAXPROCS()
	}
	return quota, ok && err == nil
}

func isAbsent(err error) bool {
	// ENODEV: the controller was switched off while we looked.
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ENODEV)
}
