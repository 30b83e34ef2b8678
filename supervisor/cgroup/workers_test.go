package cgroup

import (
	"slices"
	"strings"
	"testing"
)

func mustSpec(t *testing.T, value string) Spec {
	t.Helper()
	spec, err := ParseSpec(value)
	if err != nil || spec.String() != value {
		t.Fatalf("ParseSpec(%q) = %v, %v", value, spec, err)
	}
	return spec
}

func TestWorkersSayWhichRuleDecided(t *testing.T) {
	quota := func(q float64) CPUs {
		return CPUs{Effective: q, Rule: "CPU quota " + decimal(q) + " of cgroup /a (its parent)"}
	}
	mask := func(n int) CPUs {
		return CPUs{Effective: float64(n), Affinity: n, Rule: count(n, "CPU") + " in the affinity mask"}
	}
	const raised = ", raised to 2 so that one serves while the other comes back"
	for _, test := range []struct {
		spec  string
		cpus  CPUs
		n     int
		why   string
		procs []int
	}{
		{"auto", quota(2.5), 2, "2 workers: CPU quota 2.5 of cgroup /a (its parent) rounds down to 2", []int{1, 1}},
		{"auto", quota(0.25), 2, "2 workers: CPU quota 0.25 of cgroup /a (its parent) rounds down to 0" + raised, []int{1, 1}},
		{"auto", quota(1.5), 2, "2 workers: CPU quota 1.5 of cgroup /a (its parent) rounds down to 1" + raised, []int{1, 1}},
		{"auto", mask(1), 2, "2 workers: 1 CPU in the affinity mask" + raised, []int{1, 1}},
		{"auto", mask(8), 8, "8 workers: 8 CPUs in the affinity mask", []int{1, 1, 1, 1, 1, 1, 1, 1}},
		{"auto/2", mask(8), 4, "4 workers: 8 CPUs in the affinity mask, divided among 2 instances is 4", []int{1, 1, 1, 1}},
		{"auto/2", mask(2), 2, "2 workers: 2 CPUs in the affinity mask, divided among 2 instances is 1" + raised, []int{1, 1}},
		{"auto/2", quota(5.5), 2, "2 workers: CPU quota 5.5 of cgroup /a (its parent) rounds down to 5, divided among 2 instances is 2", []int{1, 1}},
		{"1", mask(8), 1, "1 worker: as configured", []int{8}},
		{"3", mask(8), 3, "3 workers: as configured", []int{3, 3, 2}},
		{"3", quota(4.9), 3, "3 workers: as configured", []int{2, 1, 1}},
		{"4", mask(2), 4, "4 workers: as configured", []int{1, 1, 1, 1}},
	} {
		spec := mustSpec(t, test.spec)
		n, why := spec.Workers(test.cpus)
		if n != test.n || why != test.why {
			t.Errorf("%s with %v: %d, %q\nwant %d, %q", test.spec, test.cpus.Effective, n, why, test.n, test.why)
		}
		if procs := spec.Procs(test.cpus, n); !slices.Equal(procs, test.procs) {
			t.Errorf("%s with %v: GOMAXPROCS %v, want %v", test.spec, test.cpus.Effective, procs, test.procs)
		}
	}
	if procs := (Spec{}).Procs(CPUs{Effective: 4}, 0); procs != nil {
		t.Errorf("Procs for 0 workers = %v, want none", procs)
	}
}

func TestParseSpecErrorsNameValueCauseAndRemedy(t *testing.T) {
	for value, want := range map[string]string{
		"":        "not a number of workers",
		"many":    "not a number of workers",
		"2.5":     "not a number of workers",
		"0":       "at least 1 worker",
		"-1":      "at least 1 worker",
		"5000":    "more than 512 workers",
		"auto/0":  `among "0" instances`,
		"auto/":   `among "" instances`,
		"auto/x":  `among "x" instances`,
		"auto/-2": `among "-2" instances`,
	} {
		_, err := ParseSpec(value)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), `"`+value+`": `) || !strings.Contains(err.Error(), "write auto") {
			t.Errorf("ParseSpec(%q) = %v, want the value, %q and what to write", value, err, want)
		}
	}
}
