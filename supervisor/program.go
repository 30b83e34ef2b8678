package supervisor

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"revenant/supervisor/notify"
	"revenant/worker/scoreboard"
)

// Program is what a worker runs.
type Program struct {
	// Path is executed; "/proc/self/exe" is the running binary itself, also when
	// its file was replaced or is gone.
	Path string
	// Args follow the title that stands in for argv[0].
	Args []string
	// Environ is the operator's environment, cleaned of everything of ours.
	Environ []string
	// LogPassthrough lets workers print where the master does, untouched; else what
	// they print is taken line by line.
	LogPassthrough bool
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
	env := make(map[string]string, len(cfg.Program.Environ)+10)
	for _, line := range cfg.Program.Environ {
		if key, value, ok := strings.Cut(line, "="); ok {
			env[key] = value
		}
	}
	files, names := []uintptr{0, 1, 2}, make([]string, 0, len(cfg.Sockets))
	for _, s := range cfg.Sockets {
		files = append(files, uintptr(s.FD()))
		names = append(names, notify.EscapeName(s.Name().String()))
	}
	maps.Copy(env, map[string]string{
		notify.RoleVariable:             notify.RoleWorker, // taken off by the start step, which also adds LISTEN_PID
		notify.SocketVariable:           cfg.Notify,
		notify.FDsVariable:              fmt.Sprint(len(names)),
		notify.NamesVariable:            strings.Join(names, ":"),
		notify.WorkerInstanceVariable:   cfg.Instance,
		notify.WorkerVariable:           fmt.Sprint(who.Worker),
		notify.WorkerSlotVariable:       fmt.Sprint(who.Slot),
		notify.WorkerGenerationVariable: fmt.Sprint(who.Generation),
		"GOMAXPROCS":                    fmt.Sprint(cfg.procs(workers, who.Slot)),
	})
	if cfg.Memory != nil {
		if limit := cfg.Memory(workers); limit > 0 {
			env["GOMEMLIMIT"] = fmt.Sprint(limit)
		}
	}
	title := fmt.Sprintf("revenant: worker %d slot %d", who.Worker, who.Slot)
	return launch{path: cfg.Program.Path, args: append([]string{title}, cfg.Program.Args...), env: environ(env), files: files}
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
