// Package output is what workers print: it cuts a stream into lines, keeps the
// newest of them in a ring of bounded size, and writes a line as a record of the
// log, for programs or for people. It knows nothing of processes and pipes.
//
// Back-pressure: nobody who adds a line ever waits. A reader that falls behind
// the ring loses lines and is told how many.
package output

import "time"

// Stream is where a worker printed a line.
type Stream uint8

// The streams of a worker.
const (
	Stdout Stream = iota
	Stderr
)

func (s Stream) String() string {
	if s == Stderr {
		return "stderr"
	}
	return "stdout"
}

// short is the stream's name among the tags of a line for people.
func (s Stream) short() string {
	if s == Stderr {
		return "err"
	}
	return "out"
}

// Source says which worker printed a line, and where.
type Source struct {
	Worker     uint64
	Slot       int
	Generation int
	Stream     Stream
}

// Line is one line that a worker printed, without its line break.
type Line struct {
	Source
	Time time.Time // when it was read
	// Text is what was printed, whatever bytes that was. It is shared and must not
	// be changed.
	Text []byte
	// Size is the number of bytes that were printed: more than Text has when the
	// line was too long (MaxLine).
	Size int
}

// Cut tells whether the line was too long to be kept whole.
func (l Line) Cut() bool { return l.Size > len(l.Text) }
