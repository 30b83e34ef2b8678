package output

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"
)

// What a Tail keeps: the newest lines, and of each so many bytes.
const (
	TailLines = 20
	tailText  = 400
)

// Tail keeps the last lines of one worker, of both its streams. The zero value
// is ready, and keeps them for this process alone. Its methods may be called from any goroutine.
type Tail struct {
	mu     sync.Mutex
	page   *tailPage
	mem    []byte // of the page, when it is that of a file
	closed bool
}

// tailPage outlives a master that is killed at any moment: a line is there once it
// was counted, and the place of the next one is that of none which is shown.
type tailPage struct {
	added atomic.Uint64
	lines [TailLines + 1]tailLine // line n stands at n % (TailLines + 1)
}

type tailLine struct {
	size uint32
	text [tailText]byte
}

// TailSize is that of a file for OpenTail, in bytes.
const TailSize = int(unsafe.Sizeof(tailPage{}))

// OpenTail keeps the lines in a file, from where another process has come to, if
// one has: so they outlive this process. The descriptor stays the caller's, and is
// not needed any more.
func OpenTail(fd int) (*Tail, error) {
	var st syscall.Stat_t
	if err := syscall.Fstat(fd, &st); err != nil || st.Size != int64(TailSize) {
		return nil, fmt.Errorf("cannot read a worker's last lines: %d bytes (%v), want %d", st.Size, err, TailSize)
	}
	mem, err := syscall.Mmap(fd, 0, TailSize, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("cannot map a worker's last lines: %w", err)
	}
	return &Tail{page: (*tailPage)(unsafe.Pointer(unsafe.SliceData(mem))), mem: mem}, nil
}

// Close lets go of the file.
func (t *Tail) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mem != nil {
		_ = syscall.Munmap(t.mem)
		t.page, t.mem, t.closed = nil, nil, true
	}
}

// Add keeps a line in place of the oldest.
func (t *Tail) Add(text []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	if t.page == nil {
		t.page = new(tailPage)
	}
	added := t.page.added.Load()
	at := &t.page.lines[added%(TailLines+1)]
	at.size = uint32(copy(at.text[:], text))
	t.page.added.Store(added + 1)
}

// Lines are the last lines, oldest first, with their control characters made
// visible. Long ones are cut at 400 bytes.
func (t *Tail) Lines() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.page == nil {
		return nil
	}
	lines, added := make([]string, 0, TailLines), t.page.added.Load()
	for n := added - min(added, TailLines); n < added; n++ {
		at := &t.page.lines[n%(TailLines+1)]
		text := at.text[:min(at.size, tailText)]
		line := Harmless(text)
		if len(text) == tailText {
			line = strings.TrimSuffix(line, "\uFFFD") + "…"
		}
		lines = append(lines, line)
	}
	return lines
}
