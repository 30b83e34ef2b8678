package app

import (
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	leakStep     = 8 << 20
	leakInterval = 125 * time.Millisecond // 64 MiB a second
	leakLimit    = 1 << 30
)

// leaked is reachable for ever, and untouched by the collector.
var leaked [][]byte

func exit() { os.Exit(1) }

func panics() { panic("asked to panic by /workerKiller") }

func kill() {
	unix.Kill(os.Getpid(), unix.SIGKILL)
	select {} // the kernel is about to act
}

// segv dies of SIGSEGV. Go handles the signal, and turns it into a traceback and exit code 2; so its handler is
// taken away first, behind the runtime's back, which does not live to miss it.
func segv() {
	noCore := unix.Rlimit{}
	unix.Setrlimit(unix.RLIMIT_CORE, &noCore)
	var defaultAction [4]uintptr // struct kernel_sigaction: handler SIG_DFL, no flags, nothing masked
	const maskSize = 8
	unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(unix.SIGSEGV), uintptr(unsafe.Pointer(&defaultAction)), 0, maskSize, 0, 0)
	var nowhere *int
	*nowhere = 1
}

// hang waits for the requests in flight and then blocks every later one, and itself, for ever.
func (a *app) hang() {
	a.gate.Lock()
	a.gate.Lock()
}

// leak takes memory and writes to each page of it, so that the kernel has to find it.
func leak() {
	page := os.Getpagesize()
	ticker := time.NewTicker(leakInterval)
	defer ticker.Stop()
	for taken := 0; taken < leakLimit; taken += leakStep {
		block := make([]byte, leakStep)
		for i := 0; i < leakStep; i += page {
			block[i] = 1
		}
		leaked = append(leaked, block)
		<-ticker.C
	}
}

func spin() {
	for range runtime.GOMAXPROCS(0) {
		go func() { // never ends: that is what was asked for
			for {
			}
		}()
	}
}
