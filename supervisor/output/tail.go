package output

import (
	"strings"
	"sync"
)

// What a Tail keeps: the newest lines, and of each so many bytes.
const (
	TailLines = 20
	tailText  = 400
)

// Tail keeps the last lines of one worker, of both its streams. The zero value
// is ready. Its methods may be called from any goroutine.
type Tail struct {
	mu    sync.Mutex
	lines [TailLines][]byte // line n stands at n % TailLines
	added uint64
}

// Add keeps a line in place of the oldest.
func (t *Tail) Add(text []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	at := &t.lines[t.added%TailLines]
	*at = append((*at)[:0], text[:min(len(text), tailText)]...)
	t.added++
}

// Lines are the last lines, oldest first, with their control characters made
// visible. Long ones are cut at 400 bytes.
func (t *Tail) Lines() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := make([]string, 0, TailLines)
	for n := t.added - min(t.added, TailLines); n < t.added; n++ {
		text := t.lines[n%TailLines]
		line := Harmless(text)
		if len(text) == tailText {
			line = strings.TrimSuffix(line, "\uFFFD") + "…"
		}
		lines = append(lines, line)
	}
	return lines
}
