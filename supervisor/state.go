package supervisor

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"revenant/supervisor/notify"
	"revenant/worker/scoreboard"
)

// statePage is what must outlive a master that is killed: a page in a memfd
// that the keeper holds for the next one. Numbers only, each written at once,
// so that there is no moment at which it is half written. Written by the loop of
// one master at a time; the zero page works and is forgotten.
type statePage struct {
	magic    uint64
	workers  atomic.Uint64 // newest worker id
	ready    atomic.Uint64 // 1 once a generation of this instance served
	size     atomic.Uint64 // workers wanted since somebody changed it, 0 before
	events   atomic.Uint64 // newest event's ID
	requests [6]atomic.Uint64
	// What came later stands behind: programs of two versions may share the page.
	generation atomic.Uint64 // newest one that was begun
	oomKills   atomic.Uint64 // one more than those that were accounted for, 0 before
}

const (
	stateName  = "state"
	stateMagic = 0x72657665_6e616e01 // "revenan", layout 1
)

// openState maps the page that the keeper kept, or makes one and hands it over.
func openState(stored []notify.NamedFile, store func(name string, fds ...int)) (*statePage, error) {
	for _, f := range stored {
		if f.Name == stateName {
			return mapState(f.FD)
		}
	}
	fd, err := unix.MemfdCreate("revenant-state", unix.MFD_CLOEXEC)
	if err == nil {
		err = unix.Ftruncate(fd, int64(unix.Getpagesize()))
	}
	if err != nil {
		return nil, fmt.Errorf("cannot make the state page: %w", err)
	}
	page, err := mapState(fd)
	if err != nil {
		return nil, err
	}
	page.magic = stateMagic
	store(stateName, fd)
	return page, nil
}

// mapState maps the page for the life of the process. The descriptor stays open
// as well: the next generation gets it.
func mapState(fd int) (*statePage, error) {
	memory, err := unix.Mmap(fd, 0, unix.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("cannot map the state page: %w", err)
	}
	page := (*statePage)(unsafe.Pointer(&memory[0]))
	if page.magic != 0 && page.magic != stateMagic {
		return nil, fmt.Errorf("the state page that the keeper kept is of another version (%#x)", page.magic)
	}
	return page, nil
}

// nextGeneration counts up for ever within an instance, from that of a master on:
// also past those that did not come to be.
func (p *statePage) nextGeneration(own int) int {
	for {
		newest := p.generation.Load()
		next := max(newest, uint64(own)) + 1
		if p.generation.CompareAndSwap(newest, next) {
			return int(next)
		}
	}
}

// nextWorker counts up for ever within an instance.
func (p *statePage) nextWorker() uint64 { return p.workers.Add(1) }

func (p *statePage) newestWorker() uint64 { return p.workers.Load() }

func (p *statePage) everReady() bool { return p.ready.Load() != 0 }
func (p *statePage) setReady()       { p.ready.Store(1) }

// sizeOr is the number of workers that an operator last asked for, or n.
func (p *statePage) sizeOr(n int) int {
	if size := p.size.Load(); size != 0 {
		return int(size)
	}
	return n
}

// setSize notes what an operator asked for; 0 is what the settings say.
func (p *statePage) setSize(n int) { p.size.Store(uint64(n)) }

// oomKillsOr is how many OOM kills were accounted for, or n: never more than that,
// which is how many there were.
func (p *statePage) oomKillsOr(n uint64) uint64 {
	if known := p.oomKills.Load(); known != 0 {
		return min(known-1, n)
	}
	return n
}

func (p *statePage) setOOMKills(n uint64) { p.oomKills.Store(n + 1) }

func (p *statePage) newestEvent() uint64      { return p.events.Load() }
func (p *statePage) setNewestEvent(id uint64) { p.events.Store(id) }

// addTotals keeps what a dead worker had answered, so that sums never fall.
func (p *statePage) addTotals(s scoreboard.Snapshot) {
	for class, n := range s.Requests {
		p.requests[class].Add(n)
	}
}

func (p *statePage) totals() [6]uint64 {
	var sums [6]uint64
	for class := range sums {
		sums[class] = p.requests[class].Load()
	}
	return sums
}
