package supervisor

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"revenant/supervisor/command"
	"revenant/supervisor/notify"
	"revenant/worker/scoreboard"
)

// Program is what a worker runs.
type Program struct {
	// Args are the command line of any program: it is looked up in PATH. For the
	// binary itself (Path) they follow the title that stands in for argv[0].
	Args []string
	// Path is executed; "/proc/self/exe" is the running binary itself, also when
	// its file was replaced or is gone. "" for any other program.
	Path string
	// Environ is the operator's environment, cleaned of everything of ours.
	Environ []string
	// LogPassthrough lets workers print where the master does, untouched; else what
	// they print is taken line by line.
	LogPassthrough bool
	// Extra are variables for the workers alone, NAME=value, with placeholders.
	Extra []string
	// Step is how the program is started, when that takes a step between fork and
	// exec; a program that is not the binary itself always needs one.
	Step *command.Spec
	// Placements put listeners on descriptors of the operator's choice.
	Placements []Placement
	// OwnShare leaves GOMAXPROCS and GOMEMLIMIT to the program and its operator.
	OwnShare bool
	// Ready says how a worker is known to be ready.
	Ready Readiness
	// StopSignal asks a worker to drain. Default SIGTERM.
	StopSignal unix.Signal
}

// External tells that the program is not the running binary itself.
func (p *Program) External() bool { return p.Step != nil && p.Step.Path == "" }

func (p *Program) stopSignal() unix.Signal {
	if p.StopSignal == 0 {
		return unix.SIGTERM
	}
	return p.StopSignal
}

// launch is one worker's command line, environment and descriptors.
type launch struct {
	path  string
	args  []string
	env   []string
	files []uintptr
}

// launch makes what the contract (DESIGN 5) gives a worker. The environment is
// built from a map, for with a variable that stands twice the first one wins.
func (cfg *Config) launch(who scoreboard.Identity, workers int) launch {
	p := &cfg.Program
	seats := place(cfg.Sockets, p.Placements)
	env := make(map[string]string, len(p.Environ)+16)
	set(env, p.Environ)
	if !p.OwnShare {
		env["GOMAXPROCS"] = fmt.Sprint(cfg.procs(workers, who.Slot))
		if limit := cfg.memory(workers); limit > 0 {
			env["GOMEMLIMIT"] = fmt.Sprint(limit)
		}
	}
	placeholders := strings.NewReplacer("{fd}", fmt.Sprint(seats.first), "{slot}", fmt.Sprint(who.Slot),
		"{worker}", fmt.Sprint(who.Worker), "{generation}", fmt.Sprint(who.Generation))
	if p.Step != nil && p.Step.User != nil {
		set(env, p.Step.User.Environ)
	}
	if p.Step != nil && p.Step.Dir != "" {
		env["PWD"] = p.Step.Dir
	}
	set(env, replaced(placeholders, p.Extra))
	maps.Copy(env, map[string]string{
		notify.SocketVariable:           cfg.Notify,
		notify.WorkerInstanceVariable:   cfg.Instance,
		notify.WorkerVariable:           fmt.Sprint(who.Worker),
		notify.WorkerSlotVariable:       fmt.Sprint(who.Slot),
		notify.WorkerGenerationVariable: fmt.Sprint(who.Generation),
	})
	if p.External() && cfg.Liveness > 0 {
		env[notify.WatchdogVariable] = fmt.Sprint(cfg.Liveness.Microseconds()) // the step adds WATCHDOG_PID
	}
	if len(seats.names) > 0 || !p.External() {
		env[notify.FDsVariable] = fmt.Sprint(len(seats.names))
		env[notify.NamesVariable] = strings.Join(seats.names, ":")
	}
	// Taken off again by the start step, which also adds LISTEN_PID.
	env[notify.RoleVariable] = notify.RoleWorker
	if p.Step != nil {
		env[notify.RoleVariable] = notify.RoleCommand
		env[command.Variable] = p.Step.Encode()
		env[command.PlacedVariable] = seats.list()
	}
	l := launch{path: p.Path, args: replaced(placeholders, p.Args), env: environ(env), files: seats.files}
	if p.External() {
		l.path = "/proc/self/exe"
	} else {
		l.args = append([]string{fmt.Sprintf("revenant: worker %d slot %d", who.Worker, who.Slot)}, l.args...)
	}
	return l
}

// set adds variables to an environment, later ones over earlier ones.
func set(env map[string]string, lines []string) {
	for _, line := range lines {
		if key, value, ok := strings.Cut(line, "="); ok {
			env[key] = value
		}
	}
}

func replaced(r *strings.Replacer, texts []string) []string {
	result := make([]string, len(texts))
	for i, text := range texts {
		result[i] = r.Replace(text)
	}
	return result
}

func (cfg *Config) memory(workers int) int64 {
	if cfg.Memory == nil {
		return 0
	}
	return cfg.Memory(workers)
}

// procs is GOMAXPROCS for a slot.
func (cfg *Config) procs(workers, slot int) int {
	if cfg.Procs == nil {
		return 1
	}
	return cfg.Procs(workers)[slot]
}

func environ(env map[string]string) []string {
	lines := make([]string, 0, len(env))
	for _, key := range slices.Sorted(maps.Keys(env)) {
		lines = append(lines, key+"="+env[key])
	}
	return lines
}
