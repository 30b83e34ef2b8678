package output

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func lineOf(n int) Line {
	text := fmt.Appendf(nil, "line %d", n)
	return Line{Source: Source{Worker: uint64(n), Slot: n % 7, Generation: 3, Stream: Stderr}, Time: time.Unix(5, int64(n)), Text: text, Size: len(text)}
}

func TestFollowerReadsWhatWasAddedAsItWas(t *testing.T) {
	r := NewRing(1 << 20)
	for n := range 1000 {
		r.Add(lineOf(n))
	}
	f := r.Follow()
	lines, lost := f.Rest()
	if len(lines) != 1000 || lost != 0 {
		t.Fatalf("%d lines, %d lost", len(lines), lost)
	}
	for n, l := range lines {
		want := lineOf(n)
		if l.Source != want.Source || !l.Time.Equal(want.Time) || string(l.Text) != string(want.Text) || l.Size != want.Size {
			t.Fatalf("line %d is %+v, want %+v", n, l, want)
		}
	}
	if lines, _ := f.Rest(); len(lines) != 0 {
		t.Errorf("%d lines are read twice", len(lines))
	}
}

func TestRingForgetsTheOldestAndSlowReadersAreToldHowMany(t *testing.T) {
	r := NewRing(0)
	slow := r.Follow()
	const all = 50000
	for n := range all {
		r.Add(lineOf(n))
	}
	if len(r.chunks) != 2 {
		t.Errorf("%d chunks, want two", len(r.chunks))
	}
	first, lost := slow.Rest()
	if lost == 0 || first[0].Worker != lost {
		t.Fatalf("%d lines were lost and the first is %d", lost, first[0].Worker)
	}
	next := lost + uint64(len(first))
	for {
		lines, lost := slow.Rest()
		if len(lines) == 0 {
			break
		}
		if lost != 0 || lines[0].Worker != next {
			t.Fatalf("%d lost, then line %d; want %d", lost, lines[0].Worker, next)
		}
		next += uint64(len(lines))
	}
	if next != all || r.Added() != all {
		t.Errorf("read and lost are %d lines of %d, %d", next, all, r.Added())
	}
	if late := r.Follow(); true {
		lines, lost := late.Rest()
		if lost != 0 || lines[0].Worker == 0 {
			t.Errorf("a reader that came late lost %d and begins with line %d", lost, lines[0].Worker)
		}
	}
}

func TestReadersLoseOrReadEachLineOnceWhileManyWrite(t *testing.T) {
	r := NewRing(0)
	const writers, each = 4, 20000
	counted := make([]uint64, 3)
	var reading, writing sync.WaitGroup
	for i := range counted {
		f := r.Follow()
		reading.Go(func() {
			for {
				lines, lost := f.Next(context.Background())
				counted[i] += lost + uint64(len(lines))
				if len(lines) == 0 {
					return
				}
				for _, l := range lines {
					if !strings.HasPrefix(string(l.Text), "line ") {
						t.Errorf("a broken line: %q", l.Text)
						return
					}
				}
			}
		})
	}
	for range writers {
		writing.Go(func() {
			for n := range each {
				r.Add(lineOf(n))
			}
		})
	}
	writing.Wait()
	r.Close()
	reading.Wait()
	for _, n := range counted {
		if n != writers*each {
			t.Errorf("a reader counts %d lines, want %d", n, writers*each)
		}
	}
}

func TestReaderOfAllIsToldWhatLeftTheRingBeforeItCame(t *testing.T) {
	r := NewRing(2 * chunkSize)
	for range 100 {
		r.Add(Line{Text: make([]byte, 10_000)})
	}
	lines, lost := r.FollowAll().Rest()
	if lost == 0 || lost+r.count() != 100 || len(lines) == 0 {
		t.Errorf("of 100 lines %d are said to be lost; the ring has %d", lost, r.count())
	}
	if _, lost := r.Follow().Rest(); lost != 0 {
		t.Errorf("one who wants what is there is told of %d lost lines", lost)
	}
}

// count is how many lines there are.
func (r *Ring) count() (n uint64) {
	for f := r.Follow(); ; {
		lines, _ := f.Rest()
		if len(lines) == 0 {
			return n
		}
		n += uint64(len(lines))
	}
}

func TestFollowerEndsWithItsContext(t *testing.T) {
	f := NewRing(0).Follow()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { _, _ = f.Next(ctx); close(ended) }() // waited for below
	cancel()
	<-ended
}

func TestLongestLineFitsIntoTheRing(t *testing.T) {
	r := NewRing(0)
	for range 5 {
		r.Add(Line{Text: make([]byte, MaxLine), Size: 1 << 20})
	}
	lines, _ := r.Follow().Rest()
	if len(lines) == 0 || len(lines[0].Text) != MaxLine || lines[0].Size != 1<<20 {
		t.Errorf("%d lines", len(lines))
	}
}

func TestTailKeepsTheLastLinesHarmless(t *testing.T) {
	var tail Tail
	if got := tail.Lines(); len(got) != 0 {
		t.Errorf("an empty tail has %q", got)
	}
	for n := range 50 {
		tail.Add(fmt.Appendf(nil, "line %d", n))
	}
	tail.Add([]byte("\x1b[31mred\xff"))
	tail.Add([]byte(strings.Repeat("ä", 1000)))
	got := tail.Lines()
	if len(got) != TailLines || got[0] != "line 32" || got[18] != `\x1b[31mred`+"\uFFFD" || got[19] != strings.Repeat("ä", tailText/2)+"…" {
		t.Errorf("the tail is %q", got)
	}
}

func TestTailGoesOnInAnotherProcessWhereTheFormerOneDied(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "tail"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	fd := int(file.Fd())
	if _, err := OpenTail(fd); err == nil {
		t.Error("an empty file was taken for a Tail")
	}
	if err := file.Truncate(int64(TailSize)); err != nil {
		t.Fatal(err)
	}
	former, err := OpenTail(fd)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 30 {
		former.Add(fmt.Appendf(nil, "line %d", n))
	}
	next, err := OpenTail(fd)
	if err != nil {
		t.Fatal(err)
	}
	next.Add([]byte("another"))
	if got := next.Lines(); len(got) != TailLines || got[0] != "line 11" || got[18] != "line 29" || got[19] != "another" {
		t.Errorf("the last lines are %q", got)
	}
	next.Close()
	next.Add([]byte("nobody's"))
	if got := former.Lines(); got[19] != "another" {
		t.Errorf("after the other has let go, the last line is %q", got[19])
	}
	former.Close()
}
