package supervisor

// Settings is the part of a Config that a reload may change. What holds for a
// worker holds for those that are started from then on.
type Settings struct {
	Workers int // how many; an operator's scale goes before it
	Policy  Policy
	// Chaos allows workers to be ended on a client's request (/workerKiller).
	Chaos   bool
	Program Program
	// Procs is GOMAXPROCS for each of n workers. Default 1 for each.
	Procs func(n int) []int
	// Memory is GOMEMLIMIT in bytes for each of n workers, 0 for none. Default none.
	Memory func(n int) int64
}

func (s Settings) withDefaults() Settings {
	s.Policy = s.Policy.withDefaults()
	s.Workers = max(s.Workers, 1)
	return s
}
