package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor"
	"revenant/supervisor/cgroup"
	"revenant/supervisor/keeper"
	"revenant/supervisor/listen"
	"revenant/supervisor/notify"
)

// lifelineName is the keeper's pipe among the inherited descriptors.
const lifelineName = "lifeline"

// inheritance is what the keeper gave a master.
type inheritance struct {
	instance   string
	generation int
	keeperPID  int
	stored     []notify.NamedFile
	keeper     *notify.Client
	succession *supervisor.Succession // of a master that the one before has started
}

// runMaster is the supervising process of one generation.
func runMaster(s *settings) error {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTTIN, syscall.SIGTTOU,
		syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2)
	// Small and rarely busy: memory counts more than speed.
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(50)
	in := inherit()
	noInput()
	err := begin(s, in, signals)
	if err != nil && in.generation == 1 {
		// The end of the instance and not a death: the keeper shall not try again. A
		// later master leaves that to Run, which says it for what ends an instance;
		// what kept one from beginning is no reason to end workers that serve.
		_ = in.keeper.Send(notify.Stopping)
	}
	return err
}

// noInput gives the workers, which share this process's standard input, an empty
// one: a program that reads a terminal would fight over it with its siblings.
func noInput() {
	if null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
		_ = unix.Dup3(null, 0, 0)
		_ = unix.Close(null)
	}
}

func inherit() inheritance {
	in := inheritance{stored: notify.Inherited(os.Getenv), instance: os.Getenv(notify.InstanceVariable)}
	in.generation, _ = strconv.Atoi(os.Getenv(notify.GenerationVariable))
	in.keeperPID, _ = strconv.Atoi(os.Getenv(notify.KeeperPIDVariable))
	in.keeper, _ = notify.FromEnv()
	return in
}

func begin(s *settings, in inheritance, signals <-chan os.Signal) error {
	if err := in.succeed(); err != nil {
		return err
	}
	o, leftOut, err := in.readOptions(s)
	if err != nil {
		return err
	}
	log := newLogger(o.logFormat, "master")
	for _, err := range leftOut {
		log.Warn("setting left out: this version does not understand it", "err", err)
	}
	again := newRereader(o, in, 0)
	if in.succession != nil {
		changes, err := again.anew()
		if err != nil {
			in.succession.Refuse(in.generation, err)
			return err
		}
		for _, line := range changes {
			log.Info("setting differs", "setting", line)
		}
	}
	return supervise(in, again, log, signals)
}

func supervise(in inheritance, again *rereader, log *slog.Logger, signals <-chan os.Signal) error {
	o := again.inForce
	cfg, err := configure(in, again, log)
	if err != nil {
		return err
	}
	workers, err := notify.Listen(fmt.Sprintf("revenant/%s/g%d/%d", in.instance, in.generation, os.Getpid()))
	if err != nil {
		return err
	}
	defer workers.Close()
	cfg.Notify = workers.Address()
	if cfg.Flip, err = supervisor.NewFlip(o.policy.StartTimeout + flipGrace); err != nil {
		return err
	}
	cfg.Succession, cfg.Previous = in.succession, in.keepProgram()
	m, err := supervisor.New(cfg, in.stored, workers, in.keeper)
	if err != nil {
		return err
	}
	defer logOutput(o.logFormat, log, m.Output())()
	defer logEvents(log, m.Events())()
	closeControl, err := serveControl(o, in, m, log)
	if err != nil {
		return err
	}
	defer closeControl()
	ctx, cancel := lifelineContext(cfg.Lifeline)
	defer cancel()
	return m.Run(ctx, signals)
}

// flipGrace is beyond the start timeout: a successor shall say itself why it gave up.
const flipGrace = 2 * time.Second

// configure turns settings and inheritance into what the master is told.
func configure(in inheritance, again *rereader, log *slog.Logger) (supervisor.Config, error) {
	o := again.inForce
	host := cgroup.Self()
	cpus, memory := host.CPUs(), host.Memory()
	for _, err := range append(cpus.Ignored, memory.Ignored...) {
		log.Warn("cgroup file ignored", "err", err)
	}
	settings, why := masterSettings(o, cpus, memory)
	sockets, err := openSockets(o, in.stored, log)
	if err != nil {
		return supervisor.Config{}, err
	}
	log.Info("instance starts", "instance", in.instance, "name", o.name, "generation", in.generation, "listen", bound(sockets),
		"workers", settings.Workers, "why", why, "control", controlSocket(o.dir))
	if memory.KilledTogether {
		log.Warn("memory.oom.group is set: one worker that runs out of memory ends the whole container", "limit", memory.Rule)
	}
	again.workers = settings.Workers
	return supervisor.Config{
		Settings: settings, Reread: again.reread, Applied: again.applied, InForce: again.list,
		Instance: in.instance, Name: o.name, Version: version(), Generation: in.generation, KeeperPID: in.keeperPID,
		Sockets: sockets, Lifeline: named(in.stored, lifelineName),
		Executable: in.programPath(), Probation: o.probation, RolledBack: os.Getenv(notify.RolledBackVariable),
		Fault: supervisor.Faults(os.Getenv(supervisor.FaultVariable)),
		Above: os.Getenv(notify.AboveVariable) != "", Watchdog: notify.Watchdog(os.Getenv),
	}, nil
}

// masterSettings is what a reload may change, and why there are so many workers.
func masterSettings(o instanceOptions, cpus cgroup.CPUs, memory cgroup.Memory) (s supervisor.Settings, why string) {
	n, why := o.workers.Workers(cpus)
	return supervisor.Settings{
		Workers: n, Policy: o.policy, Chaos: o.chaos, Program: program(o),
		PreStop: o.preStop, Liveness: o.liveness, LivenessProbe: o.liveProbe, ProbePath: o.probePath, Recycle: o.recycle,
		Procs:  func(n int) []int { return o.workers.Procs(cpus, n) },
		Memory: memory.Share,
	}, why
}

func bound(sockets []*listen.Socket) string {
	names := make([]string, len(sockets))
	for i, s := range sockets {
		names[i] = s.Bound().String()
	}
	return strings.Join(names, ",")
}

func named(stored []notify.NamedFile, name string) int {
	for _, f := range stored {
		if f.Name == name {
			return f.FD
		}
	}
	return -1
}

// openSockets takes back the sockets that the keeper kept, takes those that whoever
// started the instance gave it, and binds the others.
func openSockets(o instanceOptions, stored []notify.NamedFile, log *slog.Logger) ([]*listen.Socket, error) {
	lent := lentSockets(stored, log)
	if len(lent) > 0 && o.settings.from("listen") == fromDefault {
		return lent, nil
	}
	var sockets, bound []*listen.Socket
	for _, address := range o.listen {
		s, err := takeBack(address, stored, &lent, log)
		if s == nil && err == nil {
			if s, err = listen.Bind(context.Background(), address); err == nil {
				bound = append(bound, s)
			}
		}
		if err != nil {
			for _, s := range bound { // the others serve
				_ = s.Unlink()
			}
			return nil, fmt.Errorf("%s %w", o.settings.source("listen", address.String()), err)
		}
		sockets = append(sockets, s)
	}
	for _, s := range lent {
		log.Warn("socket from above not used: no address of --listen names it (add it, or leave --listen out)", "socket", s.Bound().String())
	}
	return sockets, nil
}

// takeBack returns the socket of an address that exists already, nil when there is
// none. One that a worker shut down serves nobody, and is none.
func takeBack(address listen.Address, stored []notify.NamedFile, lent *[]*listen.Socket, log *slog.Logger) (*listen.Socket, error) {
	if kept := named(stored, address.String()); kept >= 0 {
		s, err := listen.Adopt(kept, address.String())
		if !errors.Is(err, listen.ErrNotListening) {
			return s, err
		}
		log.Warn("listener was shut down, and is bound anew", "listener", address.String())
	}
	for i, s := range *lent {
		if address.Meets(s.Bound()) {
			*lent = slices.Delete(*lent, i, i+1)
			return s, nil
		}
	}
	return nil, nil
}

// lentSockets are those that whoever started the instance, a service manager as a
// rule, gave it.
func lentSockets(stored []notify.NamedFile, log *slog.Logger) (sockets []*listen.Socket) {
	for _, f := range stored {
		name, ok := strings.CutPrefix(f.Name, keeper.AboveName)
		if !ok {
			continue
		}
		s, err := listen.Borrow(f.FD, "")
		if err != nil {
			log.Warn("descriptor from above left alone", "name", name, "err", err)
			continue
		}
		sockets = append(sockets, s)
	}
	return sockets
}

// program is what workers run: the operator's command, or the built-in application.
func program(o instanceOptions) supervisor.Program {
	p := o.program
	p.Environ, p.LogPassthrough = workerEnviron(os.Environ()), o.logPass
	if p.Args == nil {
		p.Path, p.Args = self, builtIn(o)
	}
	return p
}

// builtIn are the arguments of the built-in application.
func builtIn(o instanceOptions) []string {
	args := []string{"app"}
	if o.chaos {
		args = append(args, "--chaos")
	}
	if o.token != "" {
		args = append(args, "--chaos-token-file="+o.tokenPath)
	}
	if o.logPass && o.logFormat != "auto" { // else we write what it says, and it says it in JSON
		args = append(args, "--log-format="+o.logFormat)
	}
	return args
}

// workerEnviron is the operator's environment without anything of ours: what the
// keeper set for the master, and the settings of revenant itself.
func workerEnviron(environ []string) []string {
	ours := map[string]bool{}
	for _, o := range runOptions {
		ours[o.variable()] = true
	}
	var kept []string
	ours["GOMAXPROCS"] = true // the master's
	for _, line := range notify.Clean(environ) {
		if key, _, _ := strings.Cut(line, "="); !ours[key] {
			kept = append(kept, line)
		}
	}
	if operators, ok := os.LookupEnv(notify.GoProcsVariable); ok {
		kept = append(kept, "GOMAXPROCS="+operators)
	}
	return kept
}

// lifelineContext ends when the keeper does.
func lifelineContext(fd int) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	if fd < 0 {
		return ctx, cancel
	}
	// The workers get the number, so this reader has a duplicate of its own.
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return ctx, cancel
	}
	_ = unix.SetNonblock(own, true)
	pipe := os.NewFile(uintptr(own), lifelineName)
	// Ends with the keeper, or with this process.
	go func() {
		_, _ = pipe.Read(make([]byte, 1))
		cancel()
	}()
	return ctx, cancel
}
