package output

import "bytes"

// MaxLine is how many bytes of a line are kept. What a worker prints beyond that
// without a line break is counted and not kept.
const MaxLine = 64 << 10

// smallest is the buffer of a stream that says little.
const smallest = 4 << 10

// Splitter cuts one stream into lines. The zero value is ready. It never holds
// more than MaxLine bytes.
type Splitter struct {
	buffer []byte
	held   int // bytes of the line that has not ended
	over   int // bytes of it that were not kept
}

// Space is where the next bytes of the stream belong; it is never empty.
func (s *Splitter) Space() []byte {
	if s.buffer == nil {
		s.buffer = make([]byte, smallest)
	}
	if s.held == MaxLine { // the line is full: what follows is looked at and dropped
		return s.buffer[MaxLine:]
	}
	return s.buffer[s.held:min(len(s.buffer), MaxLine)]
}

// Took says that n bytes were put into the space, and hands every line that ends
// in them to emit. The text is valid during the call only; size is what was
// printed.
func (s *Splitter) Took(n int, emit func(text []byte, size int)) {
	start := s.held // of the new bytes
	if s.held == MaxLine {
		start = MaxLine
	}
	fresh := s.buffer[start : start+n]
	full := start+n == len(s.buffer) || start+n == MaxLine
	for {
		end := bytes.IndexByte(fresh, '\n')
		if end < 0 {
			break
		}
		s.emit(fresh[:end], emit)
		fresh = fresh[end+1:]
	}
	s.hold(fresh)
	if full {
		s.grow()
	}
}

// emit hands over the line that what is held and the rest make up.
func (s *Splitter) emit(rest []byte, emit func(text []byte, size int)) {
	var text []byte
	switch {
	case s.over > 0 || s.held == MaxLine:
		text = s.buffer[:MaxLine]
		s.over += len(rest)
	case s.held == 0:
		text = rest
	default: // the rest follows what is held, in the buffer too
		text = s.buffer[:s.held+len(rest)]
	}
	size := len(text) + s.over
	s.held, s.over = 0, 0
	if n := len(text); n == size && n > 0 && text[n-1] == '\r' {
		text, size = text[:n-1], size-1
	}
	emit(text, size)
}

// hold keeps the beginning of a line at the beginning of the buffer.
func (s *Splitter) hold(rest []byte) {
	if s.held == MaxLine {
		s.over += len(rest)
		return
	}
	if s.held == 0 {
		copy(s.buffer, rest)
	}
	s.held += len(rest)
}

// grow makes the buffer fit a stream that fills it. Behind MaxLine there is room
// for what is only counted.
func (s *Splitter) grow() {
	if len(s.buffer) > MaxLine {
		return
	}
	larger := make([]byte, min(4*len(s.buffer), MaxLine+smallest))
	copy(larger, s.buffer[:s.held])
	s.buffer = larger
}

// Within tells whether a line has begun and not ended.
func (s *Splitter) Within() bool { return s.held > 0 }

// End hands over the line that the stream ended in, if it had begun.
func (s *Splitter) End(emit func(text []byte, size int)) {
	if s.held > 0 {
		s.emit(nil, emit)
	}
}
