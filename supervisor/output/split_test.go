package output

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// split feeds a stream in pieces of at most so many bytes and returns the lines
// as "SIZE TEXT".
func split(stream string, piece int) (lines []string) {
	var s Splitter
	emit := func(text []byte, size int) { lines = append(lines, fmt.Sprintf("%d %s", size, text)) }
	for len(stream) > 0 {
		n := copy(s.Space(), stream[:min(len(stream), piece)])
		s.Took(n, emit)
		stream = stream[n:]
	}
	s.End(emit)
	return lines
}

func TestStreamIsCutIntoTheSameLinesHoweverItArrives(t *testing.T) {
	long := strings.Repeat("x", 3*smallest)
	for stream, want := range map[string]string{
		"":                   "",
		"a\n":                "1 a",
		"a\nbc\n":            "1 a|2 bc",
		"a\r\n\r\nb\n":       "1 a|0 |1 b",
		"\n\na":              "0 |0 |1 a",
		"no end":             "6 no end",
		long + "\n":          fmt.Sprintf("%d %s", len(long), long),
		"a\n" + long + "\nb": fmt.Sprintf("1 a|%d %s|1 b", len(long), long),
		"\x00\xff\x1b[2J\n":  "6 \x00\xff\x1b[2J",
	} {
		for _, piece := range []int{1, 2, 3, 1000, 1 << 20} {
			if got := strings.Join(split(stream, piece), "|"); got != want {
				t.Errorf("%.40q in pieces of %d: %.80q, want %.80q", stream, piece, got, want)
			}
		}
	}
}

func TestLineBeyondTheLimitIsCutAndItsSizeIsKnown(t *testing.T) {
	for _, size := range []int{MaxLine - 1, MaxLine, MaxLine + 1, MaxLine + smallest, 1 << 20, 1<<20 + 7} {
		text := strings.Repeat("y", size)
		for _, end := range []string{"\nnext\n", "\nnext"} {
			for _, piece := range []int{1021, 1 << 20} {
				want := fmt.Sprintf("%d %s|4 next", size, text[:min(size, MaxLine)])
				if got := strings.Join(split(text+end, piece), "|"); got != want {
					t.Errorf("a line of %d bytes in pieces of %d became %d bytes: %.20q … %q", size, piece, len(got), got, got[len(got)-10:])
				}
			}
		}
		if got := split(text, 999); len(got) != 1 || !strings.HasPrefix(got[0], fmt.Sprint(size)+" y") {
			t.Errorf("a line of %d bytes without an end became %d lines", size, len(got))
		}
	}
}

func TestSplitterHoldsABoundedPieceOfAnyStream(t *testing.T) {
	var s Splitter
	random := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		space := s.Space()
		if len(space) == 0 {
			t.Fatal("no space is left")
		}
		n := 1 + random.IntN(len(space))
		for i := range space[:n] {
			space[i] = byte('a' + i%20)
		}
		if random.IntN(300) == 0 {
			space[random.IntN(n)] = '\n'
		}
		s.Took(n, func(text []byte, size int) {
			if len(text) > MaxLine || size < len(text) || size > MaxLine == (len(text) < MaxLine) {
				t.Fatalf("a line of %d bytes, and %d are kept", size, len(text))
			}
		})
	}
	if len(s.buffer) > MaxLine+smallest {
		t.Errorf("the buffer has %d bytes", len(s.buffer))
	}
}
