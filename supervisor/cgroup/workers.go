package cgroup

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// redundant is the least number of workers that is chosen for the operator:
// when one dies, another still serves.
const redundant = 2

// maxWorkers is where a number is more likely a mistake than a wish. The keeper's
// store has room for so many, and for as many that drain beside them.
const maxWorkers = 512

// Spec is how many workers the operator wants: a number, or as many as fit.
// The zero Spec is auto.
type Spec struct {
	n     int // 0: auto
	share int // auto: one of so many instances on this host; 0 means 1
}

// ParseSpec reads auto, auto/K or N. Errors begin with the value, so that the
// caller puts only the name of the flag before them.
func ParseSpec(value string) (Spec, error) {
	const usage = "write auto, a number such as 4, or auto/2 for one of 2 instances on this host"
	if value == "auto" {
		return Spec{}, nil
	}
	if k, ok := strings.CutPrefix(value, "auto/"); ok {
		share, err := strconv.Atoi(k)
		if err != nil || share < 1 || share > maxWorkers {
			return Spec{}, fmt.Errorf("%q: cannot divide the CPUs among %q instances (%s)", value, k, usage)
		}
		return Spec{share: share}, nil
	}
	n, err := strconv.Atoi(value)
	switch {
	case err != nil:
		return Spec{}, fmt.Errorf("%q: not a number of workers (%s)", value, usage)
	case n < 1:
		return Spec{}, fmt.Errorf("%q: an instance needs at least 1 worker (%s)", value, usage)
	case n > maxWorkers:
		return Spec{}, fmt.Errorf("%q: more than %d workers (%s)", value, maxWorkers, usage)
	}
	return Spec{n: n}, nil
}

func (s Spec) String() string {
	switch {
	case s.n > 0:
		return strconv.Itoa(s.n)
	case s.share > 1:
		return fmt.Sprintf("auto/%d", s.share)
	default:
		return "auto"
	}
}

// Workers is the number of workers and, as a sentence for the log, why.
func (s Spec) Workers(cpus CPUs) (n int, why string) {
	if s.n > 0 {
		return s.n, fmt.Sprintf("%s: as configured", count(s.n, "worker"))
	}
	whole := int(math.Floor(cpus.Effective))
	fit := s.fit(cpus)
	why = cpus.Rule
	if float64(whole) != cpus.Effective {
		why += fmt.Sprintf(" rounds down to %d", whole)
	}
	if s.share > 1 {
		why += fmt.Sprintf(", divided among %d instances is %d", s.share, fit)
	}
	if fit < redundant {
		why += fmt.Sprintf(", raised to %d so that one serves while the other comes back", redundant)
		fit = redundant
	}
	return fit, fmt.Sprintf("%s: %s", count(fit, "worker"), why)
}

// Procs is GOMAXPROCS for each of n workers: together they have as many as the
// instance has CPUs, the first ones what does not divide, and each has one.
func (s Spec) Procs(cpus CPUs, n int) []int {
	if n < 1 {
		return nil
	}
	total := max(n, s.fit(cpus))
	procs := make([]int, n)
	for slot := range procs {
		procs[slot] = total / n
		if slot < total%n {
			procs[slot]++
		}
	}
	return procs
}

func (s Spec) fit(cpus CPUs) int {
	return int(math.Floor(cpus.Effective / float64(max(s.share, 1))))
}
