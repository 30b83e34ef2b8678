package supervisor

import (
	"context"
	"time"
)

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
	// ProbePath is asked of a new worker before the former one leaves. Default "/".
	ProbePath string
	// Liveness is for how long a worker may show no sign of life until it is taken
	// for hung and replaced; 0 for ever.
	Liveness time.Duration
	// LivenessProbe is a path of which every worker must answer a GET with a status
	// below 500 once in this time. "" asks only workers that have a door, for
	// ProbePath, and takes any answer.
	LivenessProbe string
	// PreStop is how long a stopping instance, which says that it is not ready,
	// still takes new connections. Default 0.
	PreStop time.Duration
	// Recycle says when a worker is replaced because it has served enough.
	Recycle Limits
}

func (s Settings) withDefaults() Settings {
	s.Policy = s.Policy.withDefaults()
	s.Workers = max(s.Workers, 1)
	if s.ProbePath == "" {
		s.ProbePath = "/"
	}
	return s
}

// Setting is one setting in the words of `revenant config -o json`.
type Setting struct {
	Name   string   `json:"name"`
	Values []string `json:"values"` // one, of a list any number, none when unset
	From   string   `json:"from"`   // flag, environment, file, default
	Where  string   `json:"where,omitempty"`
}

// InForce are the settings in force. It may be called from any goroutine.
func (m *Master) InForce(ctx context.Context) (list []Setting, err error) {
	if m.cfg.InForce == nil {
		return []Setting{}, nil
	}
	err = m.ask(ctx, func() { list = m.cfg.InForce() })
	return list, err
}
