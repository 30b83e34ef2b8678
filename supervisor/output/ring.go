package output

import (
	"context"
	"encoding/binary"
	"sync"
	"time"
)

// chunkSize is what the ring is made of, and loses at once when it is full. The
// longest line fits.
const chunkSize = 128 << 10

// chunk is a stretch of lines one behind the other. Bytes that were written do
// not change any more, so readers need no copy; a chunk that has left the ring
// lives as long as somebody reads it.
type chunk struct {
	data  []byte
	lines uint64
}

// Ring keeps the newest lines. All methods may be called from any goroutine;
// none waits, but for Follower.Next.
type Ring struct {
	mu     sync.Mutex
	grown  sync.Cond // or closed
	chunks []*chunk  // oldest first
	most   int       // how many chunks
	gone   uint64    // chunks that have left
	before uint64    // lines in them
	added  uint64    // lines ever
	closed bool
}

// NewRing makes a ring of so many bytes, of which as many are taken as were ever
// needed. Small sizes are raised to twice the longest line.
func NewRing(size int) *Ring {
	r := &Ring{most: max(2, size/chunkSize)}
	r.grown.L = &r.mu
	return r
}

// Add appends a line in place of the oldest ones. The text is copied.
func (r *Ring) Add(l Line) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.room(headSize + len(l.Text))
	c.data = appendLine(c.data, l)
	c.lines++
	r.added++
	r.grown.Broadcast()
}

// room is the newest chunk, with that much space.
func (r *Ring) room(n int) *chunk {
	if k := len(r.chunks); k > 0 && cap(r.chunks[k-1].data)-len(r.chunks[k-1].data) >= n {
		return r.chunks[k-1]
	}
	if len(r.chunks) == r.most {
		r.gone++
		r.before += r.chunks[0].lines
		r.chunks[0] = nil
		r.chunks = r.chunks[1:]
	}
	c := &chunk{data: make([]byte, 0, chunkSize)}
	r.chunks = append(r.chunks, c)
	return c
}

// Added is how many lines there ever were.
func (r *Ring) Added() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.added
}

// Close says that no line will be added any more: followers read the rest.
func (r *Ring) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	r.grown.Broadcast()
}

// Follow returns a reader that begins with the oldest line of the ring.
func (r *Ring) Follow() *Follower {
	r.mu.Lock()
	defer r.mu.Unlock()
	return &Follower{ring: r, chunk: r.gone, read: r.before}
}

// FollowAll returns a reader that is told, before the oldest line of the ring, how
// many have left it.
func (r *Ring) FollowAll() *Follower { return &Follower{ring: r} }

// Follower is one reader of a ring, for one goroutine. It holds nothing that
// would have to be closed.
type Follower struct {
	ring  *Ring
	chunk uint64 // number of the chunk it reads
	at    int    // where in it
	read  uint64 // lines that it has read, or lost
	lines []Line // what Next returned
}

// Next waits for lines and returns some of those that follow, in order, and how
// many were lost before them because this reader was too slow. No lines are
// returned at the end: the context's, or that of a closed ring. The slice is
// valid until the next call.
func (f *Follower) Next(ctx context.Context) (lines []Line, lost uint64) {
	stop := context.AfterFunc(ctx, func() {
		f.ring.mu.Lock() // so that it is not missed between the look and the wait
		defer f.ring.mu.Unlock()
		f.ring.grown.Broadcast()
	})
	defer stop()
	return f.next(func() bool { return ctx.Err() == nil })
}

// Rest returns what Next would return at once, and never waits.
func (f *Follower) Rest() (lines []Line, lost uint64) {
	return f.next(func() bool { return false })
}

func (f *Follower) next(wait func() bool) (lines []Line, lost uint64) {
	data, lost := f.take(wait)
	f.lines = f.lines[:0]
	for len(data) > 0 {
		var l Line
		l, data = readLine(data)
		f.lines = append(f.lines, l)
	}
	f.read += uint64(len(f.lines))
	return f.lines, lost
}

// take returns the rest of the chunk that the follower is in, once there is one.
func (f *Follower) take(wait func() bool) (data []byte, lost uint64) {
	r := f.ring
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		if f.chunk < r.gone {
			lost += r.before - f.read
			f.chunk, f.at, f.read = r.gone, 0, r.before
		}
		if i := int(f.chunk - r.gone); i < len(r.chunks) {
			if data = r.chunks[i].data[f.at:]; len(data) > 0 {
				f.at += len(data)
				return data, lost
			}
			if i+1 < len(r.chunks) { // nothing is added to this one any more
				f.chunk, f.at = f.chunk+1, 0
				continue
			}
		}
		if r.closed || !wait() {
			return nil, lost
		}
		r.grown.Wait()
	}
}

// headSize is the length of what stands before a line's text.
const headSize = 4 + 8 + 8 + 8 + 4 + 4 + 1

func appendLine(to []byte, l Line) []byte {
	order := binary.LittleEndian
	to = order.AppendUint32(to, uint32(len(l.Text)))
	to = order.AppendUint64(to, uint64(l.Size))
	to = order.AppendUint64(to, uint64(l.Time.UnixNano()))
	to = order.AppendUint64(to, l.Worker)
	to = order.AppendUint32(to, uint32(l.Slot))
	to = order.AppendUint32(to, uint32(l.Generation))
	to = append(to, byte(l.Stream))
	return append(to, l.Text...)
}

func readLine(from []byte) (l Line, rest []byte) {
	order := binary.LittleEndian
	n := headSize + int(order.Uint32(from))
	l.Size = int(order.Uint64(from[4:]))
	l.Time = time.Unix(0, int64(order.Uint64(from[12:])))
	l.Worker = order.Uint64(from[20:])
	l.Slot = int(order.Uint32(from[28:]))
	l.Generation = int(order.Uint32(from[32:]))
	l.Stream = Stream(from[36])
	l.Text = from[headSize:n:n]
	return l, from[n:]
}
