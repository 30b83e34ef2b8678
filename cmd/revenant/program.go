package main

import (
	"debug/buildinfo"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"revenant/supervisor"
	"revenant/supervisor/command"
	"revenant/supervisor/listen"
	"revenant/supervisor/notify"
)

// The settings of revenant run that say how a worker is started.
var programOptions = []option{
	{"env", "NAME=VALUE", "", "a variable for the workers; may be given again (in the variable: a line each); {fd}, {slot}, {worker} and {generation} are replaced, here and in the command's arguments"},
	{"fd", "N[=ADDRESS]", "", "put a listener on descriptor N of the workers, 0 or from 3 to 1023; may be given again; the others follow from 3 on, and LISTEN_FDS counts from 3 to the first gap"},
	{"chdir", "DIR", "", "working directory of the workers"},
	{"umask", "MASK", "", "file mode creation mask of the workers, octal"},
	{"limit", "NAME=SOFT[:HARD]", "", "a resource limit of the workers as in setrlimit(2), like nofile=65536 or core=0; may be given again, or a list with commas"},
	{"user", "USER", "", "user of the workers, by name or number, with his groups"},
	{"group", "GROUP", "", "group of the workers, by name or number"},
	{"ready", "WHAT", "auto", "when a worker is ready: notify (it says READY=1), listen (it waits for connections), http:/PATH (a GET on the first listener is answered below 500, by whichever worker), delay:TIME (it lived so long), or auto: the first of notify and listen"},
	{"stop-signal", "SIGNAL", "TERM", "asks a worker to finish its requests and end: TERM, INT, QUIT, HUP, USR1, USR2 or WINCH"},
}

// readProgram understands what the workers run: a command, or the built-in
// application when there is none.
func readProgram(s *settings, err *error, addresses []listen.Address) (p supervisor.Program) {
	p.StopSignal = parse(s, err, "stop-signal", stopSignal)
	p.Ready = parse(s, err, "ready", readiness)
	p.Extra = parseList(s, err, "env", extraVariable)
	p.Placements = parseList(s, err, "fd", placement)
	step := command.Spec{Dir: parse(s, err, "chdir", filepath.Abs), Umask: parse(s, err, "umask", umask), User: workersUser(s, err)}
	step.Limits = parseList(s, err, "limit", command.ParseLimit)
	if s.one("chdir") == "" {
		step.Dir = ""
	}
	if e := checkPlacements(s, p.Placements, addresses); e != nil {
		*err = errors.Join(*err, e)
	}
	if command, _ := s.get(commandKey); len(command) > 0 {
		p.Args, p.Step = command, &step
		found, e := findProgram(p)
		p.OwnShare = e != nil || !usesPackageWorker(found)
		return p
	}
	if step.Dir != "" || step.Umask != nil || len(step.Limits) > 0 || step.User != nil {
		step.Path, step.Role = self, notify.RoleWorker
		p.Step = &step
	}
	return p
}

// self is the running binary, also when its file was replaced or is gone.
const self = "/proc/self/exe"

// checkProgram makes sure that what the workers need is there before anything is
// begun. A master that takes over does not: workers serve, and each start says
// what is wrong.
func checkProgram(o instanceOptions) error {
	if dir := o.settings.one("chdir"); dir != "" {
		if e := folder(dir); e != nil {
			return o.settings.wrong("chdir", dir, e)
		}
	}
	if len(o.program.Args) == 0 {
		return nil
	}
	_, err := findProgram(o.program)
	switch {
	case err == nil:
		return nil
	case o.settings.from(commandKey) == fromFile:
		return o.settings.wrong(commandKey, o.program.Args[0], err)
	}
	return codeError{exitUsage, err}
}

// findProgram looks a command up where its worker will.
func findProgram(p supervisor.Program) (string, error) {
	path := os.Getenv("PATH")
	for _, line := range p.Extra {
		if value, is := strings.CutPrefix(line, "PATH="); is {
			path = value
		}
	}
	return command.Find(p.Args[0], path, p.Step.Dir)
}

// usesPackageWorker tells whether a program is built with this module, as far as
// the file says: a Go program that is gets its share of processors and memory.
func usesPackageWorker(path string) bool {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return false
	}
	const module = "revenant"
	if info.Main.Path == module {
		return true
	}
	for _, d := range info.Deps {
		if d.Path == module {
			return true
		}
	}
	return false
}

func workersUser(s *settings, err *error) *command.User {
	name, group := s.one("user"), s.one("group")
	if name == "" && group == "" {
		return nil
	}
	u, e := command.LookUp(name, group)
	switch {
	case e == nil:
	case errors.Is(e, command.ErrGroup) || name == "":
		*err = errors.Join(*err, s.wrong("group", group, e))
	default:
		*err = errors.Join(*err, s.wrong("user", name, e))
	}
	return u
}

// parseList reads a setting that may be given again, or be a list: with commas,
// and of variables a line each. Empty items say nothing.
func parseList[T any](s *settings, err *error, name string, read func(string) (T, error)) (result []T) {
	values, _ := s.get(name)
	for _, list := range values {
		items := strings.Split(list, ",")
		if name == "env" {
			items = []string{list}
			if s.from(name) == fromEnvironment {
				items = strings.Split(list, "\n")
			}
		}
		for _, value := range items {
			if strings.TrimSpace(value) == "" {
				continue
			}
			item, e := read(value)
			if e != nil {
				*err = errors.Join(*err, s.wrong(name, value, e))
				continue
			}
			result = append(result, item)
		}
	}
	return result
}

// contractVariables are what a worker is told by us; nobody else may.
var contractVariables = []string{
	notify.SocketVariable, notify.FDsVariable, notify.NamesVariable, notify.PIDVariable, notify.WatchdogVariable, notify.WatchdogPIDVariable,
	notify.WorkerInstanceVariable, notify.WorkerVariable, notify.WorkerSlotVariable, notify.WorkerGenerationVariable,
}

func extraVariable(text string) (string, error) {
	name, _, ok := strings.Cut(text, "=")
	if !ok || name == "" {
		return "", errors.New("not NAME=VALUE (write it like RAILS_ENV=production)")
	}
	if slices.Contains(contractVariables, name) || strings.HasPrefix(name, "X_REVENANT_") {
		return "", fmt.Errorf("%s is what revenant itself tells workers (choose another name)", name)
	}
	return text, nil
}

func placement(text string) (supervisor.Placement, error) {
	number, name, _ := strings.Cut(strings.TrimSpace(text), "=")
	fd, err := strconv.Atoi(number)
	if err != nil || fd < 0 || fd == 1 || fd == 2 || fd > 1023 {
		return supervisor.Placement{}, errors.New("not a descriptor for a listener (write 0, or a number from 3 to 1023, and =ADDRESS when there are several listeners)")
	}
	return supervisor.Placement{FD: fd, Name: name}, nil
}

func checkPlacements(s *settings, chosen []supervisor.Placement, addresses []listen.Address) error {
	seen, names := map[int]bool{}, map[string]bool{}
	for i := range chosen {
		p := &chosen[i]
		text := strings.TrimSuffix(fmt.Sprintf("%d=%s", p.FD, p.Name), "=")
		if seen[p.FD] {
			return s.wrong("fd", text, errors.New("this descriptor is given twice (remove one)"))
		}
		seen[p.FD] = true
		if p.Name == "" {
			continue
		}
		asked, err := listen.Parse(p.Name)
		if err != nil {
			return s.wrong("fd", text, err)
		}
		p.Name = asked.String()
		known := slices.ContainsFunc(addresses, func(a listen.Address) bool { return a.String() == p.Name })
		if !known || names[p.Name] {
			return s.wrong("fd", text, errors.New("no listener of this address is left (name one of --listen, each once)"))
		}
		names[p.Name] = true
	}
	if len(chosen) > len(addresses) {
		return s.wrong("fd", fmt.Sprint(chosen[len(addresses)].FD), fmt.Errorf("there are only %d listeners (give --listen for each)", len(addresses)))
	}
	return nil
}

func folder(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("cannot be entered: %w (create it, or name another folder)", cause(err))
	}
	if !info.IsDir() {
		return errors.New("is no folder (name one)")
	}
	return nil
}

func umask(text string) (*int, error) {
	if text == "" {
		return nil, nil
	}
	mask, err := strconv.ParseUint(text, 8, 32)
	if err != nil || mask > 0o777 {
		return nil, errors.New("not a mask (write it octal, like 027)")
	}
	bits := int(mask)
	return &bits, nil
}

func readiness(text string) (r supervisor.Readiness, err error) {
	kind, detail, _ := strings.Cut(text, ":")
	switch r.Kind = supervisor.ReadinessKind(kind); {
	case text == "auto":
		return supervisor.Readiness{}, nil
	case text == "notify" || text == "listen":
		return r, nil
	case r.Kind == supervisor.ReadyHTTP:
		if r.Path, err = httpPath(detail); err == nil {
			return r, nil
		}
	case r.Kind == supervisor.ReadyDelay:
		r.Delay, err = duration(detail)
		return r, err
	}
	return r, errors.New("not a way to know it (use auto, notify, listen, http:/PATH or delay:TIME)")
}

func stopSignal(name string) (unix.Signal, error) {
	const possible = "TERM INT QUIT HUP USR1 USR2 WINCH"
	short := strings.TrimPrefix(strings.ToUpper(name), "SIG")
	for word := range strings.FieldsSeq(possible) {
		if word == short {
			return unix.SignalNum("SIG" + short), nil
		}
	}
	return 0, fmt.Errorf("not a signal that asks a program to end (use one of %s)", possible)
}
