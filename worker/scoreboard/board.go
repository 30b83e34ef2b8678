package scoreboard

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Identity says whose page this is.
type Identity struct {
	Worker     uint64
	Slot       int
	Generation int
}

const (
	magic   = 0x6472616f42767652 // "RvvBoard" as the bytes lie in memory
	version = 1
	size    = 4096
	seals   = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL
)

// page is the layout, the same for writer and reader as long as version is. What every connection touches
// and what every request touches lie on cache lines of their own.
type page struct {
	magic      atomic.Uint64
	version    atomic.Uint64
	worker     atomic.Uint64
	slot       atomic.Int64
	generation atomic.Int64
	pid        atomic.Int64
	began      atomic.Uint64 // this and the next are 0 on pages of programs that did not know them
	asked      atomic.Int64

	accepting atomic.Int64
	accepted  atomic.Uint64
	places    [placeCount]atomic.Int64 // by State
	_         [1]uint64

	requests     [classes]atomic.Uint64
	lastActivity atomic.Int64
	latencySum   atomic.Int64

	latency [LatencyBuckets]atomic.Uint64
}

const _ = size - unsafe.Sizeof(page{}) // does not compile when the layout outgrows the page

// ErrNotABoard is wrapped by the errors of [Open] for a descriptor that is something else.
var ErrNotABoard = errors.New("not a scoreboard")

// Board is a mapping of one page. The methods that write are for the worker, may be called from many
// goroutines, allocate nothing, and do nothing on a nil Board, so that a worker without a supervisor needs
// no ifs. Close must not run beside any other method.
type Board struct {
	id   Identity
	fd   int
	page *page
	mem  []byte
}

// Create makes the page of one worker, all counters at 0.
func Create(id Identity) (*Board, error) {
	fd, err := createSealable(fmt.Sprintf("revenant-worker-%d", id.Worker))
	if err != nil {
		return nil, fmt.Errorf("cannot create scoreboard of worker %d: %w", id.Worker, err)
	}
	if err := unix.Ftruncate(fd, size); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("cannot size scoreboard of worker %d: %w", id.Worker, err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("cannot seal scoreboard of worker %d: %w", id.Worker, err)
	}
	b, err := mapped(fd)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	b.id = id
	p := b.page
	p.worker.Store(id.Worker)
	p.slot.Store(int64(id.Slot))
	p.generation.Store(int64(id.Generation))
	p.version.Store(version)
	p.magic.Store(magic)
	return b, nil
}

// createSealable asks for a page that can never be executed; kernels before 6.3 do not know the flag.
func createSealable(name string) (int, error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate(name, flags|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) {
		fd, err = unix.MemfdCreate(name, flags)
	}
	return fd, err
}

// Open maps a page that another process created and owns fd from then on: it is closed when Open fails, and
// by Close otherwise. A worker opens what its master sent; a new master opens what the keeper kept for it,
// and finds the worker by Identity and PID. Both were written by the old master into memory that the worker
// can write too, so before it acts on them the new master checks them against what the kernel says.
func Open(fd int) (*Board, error) {
	if err := check(fd); err != nil {
		unix.Close(fd)
		return nil, err
	}
	b, err := mapped(fd)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	p := b.page
	if m, v := p.magic.Load(), p.version.Load(); m != magic || v != version {
		b.Close()
		return nil, fmt.Errorf("cannot open scoreboard: magic %x, version %d, want %x, %d: %w", m, v, uint64(magic), version, ErrNotABoard)
	}
	b.id = Identity{Worker: p.worker.Load(), Slot: int(p.slot.Load()), Generation: int(p.generation.Load())}
	return b, nil
}

// check refuses what could fault a reader later: a file that is too short, or that can still be shortened.
func check(fd int) error {
	unix.CloseOnExec(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("cannot open scoreboard: descriptor %d: %w", fd, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size != size {
		return fmt.Errorf("cannot open scoreboard: mode %o, %d bytes, want a file of %d: %w", st.Mode, st.Size, size, ErrNotABoard)
	}
	have, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil || have&seals != seals {
		return fmt.Errorf("cannot open scoreboard: seals %#x, want %#x (%v): %w", have, seals, err, ErrNotABoard)
	}
	return nil
}

func mapped(fd int) (*Board, error) {
	mem, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("cannot map scoreboard: %w", os.NewSyscallError("mmap", err))
	}
	return &Board{fd: fd, mem: mem, page: (*page)(unsafe.Pointer(unsafe.SliceData(mem)))}, nil
}

// FD is the descriptor to send to the worker and to the keeper. It stays the board's own.
func (b *Board) FD() int { return b.fd }

// Identity is whose page it was when it was created or opened.
func (b *Board) Identity() Identity { return b.id }

// SetPID notes the worker's process, for a master that comes after.
func (b *Board) SetPID(pid int) { b.page.pid.Store(int64(pid)) }

// PID is what SetPID noted last, 0 before, and a hint only: the worker can write it too.
func (b *Board) PID() int { return int(max(b.page.pid.Load(), 0)) }

// SetBegan notes when the worker's process began, in clock ticks since the machine booted: a number of a
// process is used again, the two together are not.
func (b *Board) SetBegan(ticks uint64) { b.page.began.Store(ticks) }

// Began is what SetBegan noted, 0 when nobody did, and a hint only.
func (b *Board) Began() uint64 { return b.page.began.Load() }

// SetAsked notes by which signal the master wanted the worker to end, for one that comes after.
func (b *Board) SetAsked(signal unix.Signal) { b.page.asked.Store(int64(signal)) }

// Asked is what SetAsked noted last, 0 when nobody did, and a hint only.
func (b *Board) Asked() unix.Signal { return unix.Signal(b.page.asked.Load()) }

// Close takes the mapping and the descriptor away. The page goes with the last of its descriptors and mappings.
func (b *Board) Close() error {
	if b == nil || b.page == nil {
		return nil
	}
	b.page = nil
	return errors.Join(unix.Munmap(b.mem), unix.Close(b.fd))
}
