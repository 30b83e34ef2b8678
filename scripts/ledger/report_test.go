package ledger

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func TestReportFindsPercentilesAndGaps(t *testing.T) {
	begin := time.Unix(1000, 0)
	at := func(ms int) time.Time { return begin.Add(time.Duration(ms) * time.Millisecond) }
	var books tally
	for _, ms := range []int{10, 20, 30, 530, 540} {
		books.count("id", Outcome{End: at(ms)}, at(ms-ms/10), begin)
	}
	books.count("lost", Outcome{Class: Reset, Err: errors.New("reset"), Begin: at(100), End: at(200)}, at(100), begin)
	first := Report{Begin: begin, End: at(600)}
	first.add(&books)

	if first.Sent() != 6 || first.Failed() != 1 || first.Kinds() != "1 reset" {
		t.Errorf("report %v", &first)
	}
	if gap, since := first.LongestGap(); gap != 500*time.Millisecond || !since.Equal(at(30)) {
		t.Errorf("longest gap %v since %v, want 500ms since %v", gap, since, at(30))
	}
	for p, want := range map[float64]time.Duration{1: 1, 50: 3, 80: 53, 99: 54, 100: 54} {
		if got := first.Percentile(p); got != want*time.Millisecond {
			t.Errorf("p%v = %v, want %v", p, got, want*time.Millisecond)
		}
	}
	early := first.Where(func(end time.Time) bool { return end.Before(at(500)) })
	if early.Sent() != 3 || early.Failed() != 0 || early.Percentile(99) != 3*time.Millisecond {
		t.Errorf("the first half: %v", &early)
	}

	// Another run, begun earlier and ended later, fills the gap.
	second := Report{Begin: at(-100), End: at(700), answers: []answered{{350 * time.Millisecond, 1}}}
	second.Counts[Answered] = 1
	for _, order := range [][]Report{{first, second}, {second, first}} {
		all := Merge(order...)
		if gap, since := all.LongestGap(); gap != 280*time.Millisecond || !since.Equal(at(250)) {
			t.Errorf("longest gap of both %v since %v, want 280ms since %v", gap, since, at(250))
		}
		if all.Sent() != 7 || all.Failed() != 1 || !all.Begin.Equal(at(-100)) || !all.End.Equal(at(700)) {
			t.Errorf("both: %v", &all)
		}
	}
}

func TestGapsAtBothEndsCount(t *testing.T) {
	begin := time.Unix(1000, 0)
	for _, end := range []time.Duration{1, 9} {
		report := Report{Begin: begin, End: begin.Add(10), answers: []answered{{end: end}}}
		if gap, _ := report.LongestGap(); gap != 9 {
			t.Errorf("answer at %v of 10: gap %v, want 9", end, gap)
		}
	}
	if gap, _ := (&Report{Begin: begin, End: begin.Add(10)}).LongestGap(); gap != 10 {
		t.Errorf("no answer at all: gap %v, want 10", gap)
	}
}

func TestJournalKnowsVictimsAndDoubles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j, err := OpenJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range [][2]string{{"begin", "a"}, {"begin", "b"}, {"done", "a"}, {"begin", "c"}, {"begin", "c"}, {"done", "c"}, {"done", "c"}} {
		if err := j.append(line[0], line[1]); err != nil {
			t.Fatal(err)
		}
	}
	j.Close()
	entries, err := ReadJournal(path)
	if err != nil || entries["b"] != (Work{Begun: 1}) || entries["a"] != (Work{1, 1}) {
		t.Errorf("journal %v, %v", entries, err)
	}
	if doubles := Doubles(entries); !slices.Equal(doubles, []string{"c"}) {
		t.Errorf("doubles %v, want c", doubles)
	}
	if err := os.WriteFile(path, []byte("began x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadJournal(path); err == nil {
		t.Error("a journal that makes no sense was read")
	}
}
