package ledger

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// maxFailures bounds how many failures are kept with their details; all are
// counted.
const maxFailures = 10000

// Report is the result of a run.
type Report struct {
	Begin, End time.Time
	Counts     [classes]int
	Failures   []Failure // in the order of time

	answers   []answered
	latencies []time.Duration // of the answers, sorted when they are asked for
}

// answered is one request that was answered right.
type answered struct {
	end     time.Duration // since Begin
	latency time.Duration
}

// Failure is one request that was not answered right.
type Failure struct {
	ID         string
	Class      Class
	Err        error
	Begin, End time.Time
}

func (f Failure) String() string {
	return fmt.Sprintf("%s %s after %v: %v", f.ID, f.Class, f.End.Sub(f.Begin).Round(time.Microsecond), f.Err)
}

// tally is one client's part of a report.
type tally struct {
	counts   [classes]int
	failures []Failure
	answers  []answered
}

func (t *tally) count(id string, o Outcome, due, begin time.Time) {
	t.counts[o.Class]++
	switch {
	case o.Class == Answered:
		t.answers = append(t.answers, answered{o.End.Sub(begin), o.End.Sub(due)})
	case len(t.failures) < maxFailures:
		t.failures = append(t.failures, Failure{ID: id, Class: o.Class, Err: o.Err, Begin: o.Begin, End: o.End})
	}
}

func (r *Report) add(t *tally) {
	for class, n := range t.counts {
		r.Counts[class] += n
	}
	r.Failures = append(r.Failures, t.failures...)
	r.answers = append(r.answers, t.answers...)
	r.latencies = nil
	slices.SortFunc(r.Failures, func(a, b Failure) int { return a.End.Compare(b.End) })
}

// Merge is the report of several runs that went on side by side.
func Merge(reports ...Report) Report {
	var all Report
	for i, r := range reports {
		if i == 0 || r.Begin.Before(all.Begin) {
			all.shift(all.Begin.Sub(r.Begin))
			all.Begin = r.Begin
		}
		if r.End.After(all.End) {
			all.End = r.End
		}
		part := tally{counts: r.Counts, failures: r.Failures, answers: slices.Clone(r.answers)}
		for i := range part.answers {
			part.answers[i].end += r.Begin.Sub(all.Begin)
		}
		all.add(&part)
	}
	return all
}

func (r *Report) shift(by time.Duration) {
	for i := range r.answers {
		r.answers[i].end += by
	}
}

// Sent is how many requests were started.
func (r Report) Sent() int {
	sum := 0
	for _, n := range r.Counts {
		sum += n
	}
	return sum
}

// Failed is how many were not answered right.
func (r Report) Failed() int { return r.Sent() - r.Counts[Answered] }

func (r Report) firstOf(class Class) error {
	for _, f := range r.Failures {
		if f.Class == class {
			return f.Err
		}
	}
	return nil
}

// Rate is how many requests were answered per second.
func (r Report) Rate() float64 {
	return float64(r.Counts[Answered]) / r.End.Sub(r.Begin).Seconds()
}

// Percentile is the latency that p of 100 answered requests did not exceed.
func (r *Report) Percentile(p float64) time.Duration {
	if len(r.answers) == 0 {
		return 0
	}
	if r.latencies == nil {
		for _, a := range r.answers {
			r.latencies = append(r.latencies, a.latency)
		}
		slices.Sort(r.latencies)
	}
	rank := int(math.Ceil(p / 100 * float64(len(r.latencies))))
	return r.latencies[max(rank, 1)-1]
}

// Where is the part of the report that was answered at times for which chosen
// says yes. Failures are left out: a part is for latencies.
func (r Report) Where(chosen func(time.Time) bool) Report {
	part := Report{Begin: r.Begin, End: r.End}
	for _, a := range r.answers {
		if chosen(r.Begin.Add(a.end)) {
			part.Counts[Answered]++
			part.answers = append(part.answers, a)
		}
	}
	return part
}

// LongestGap is the longest time in which nobody was answered, and when it
// began. The times before the first and after the last answer count too.
func (r *Report) LongestGap() (gap time.Duration, at time.Time) {
	ends := make([]time.Duration, 0, len(r.answers)+1)
	for _, a := range r.answers {
		ends = append(ends, a.end)
	}
	slices.Sort(ends)
	last := time.Duration(0)
	for _, end := range append(ends, r.End.Sub(r.Begin)) {
		if end-last > gap {
			gap, at = end-last, r.Begin.Add(last)
		}
		last = end
	}
	return gap, at
}

// Kinds lists the classes of the failures: "2 reset, 1 cut", or "none".
func (r Report) Kinds() string {
	var kinds []string
	for class, n := range r.Counts {
		if n > 0 && Class(class) != Answered {
			kinds = append(kinds, fmt.Sprintf("%d %s", n, Class(class)))
		}
	}
	if len(kinds) == 0 {
		return "none"
	}
	return strings.Join(kinds, ", ")
}

// String is the report in one line.
func (r Report) String() string {
	gap, _ := r.LongestGap()
	return fmt.Sprintf("sent %d, answered %d, failed %d (%s), %.0f/s, p50 %v, p99 %v, max %v, longest gap %v",
		r.Sent(), r.Counts[Answered], r.Failed(), r.Kinds(), r.Rate(),
		short(r.Percentile(50)), short(r.Percentile(99)), short(r.Percentile(100)), short(gap))
}

func short(d time.Duration) time.Duration {
	if d < time.Millisecond {
		return d.Round(time.Microsecond)
	}
	return d.Round(10 * time.Microsecond)
}
