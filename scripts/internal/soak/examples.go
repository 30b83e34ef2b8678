package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"revenant/scripts/internal/stage"
	"revenant/scripts/ledger"
)

// example is a program of worker/examples as the workers of an instance.
type example struct {
	name  string
	needs string // a program that must be installed; "" for those that are built here
	// drains: it answers whatever was sent to it before it leaves. The others drop
	// requests by the way in which they leave; that is measured and told. What fails
	// at any other time is broken with all of them.
	drains bool
	// arguments are those of revenant run, from the folder of the example, one for
	// what is written, and the address.
	arguments func(folder, dir, address string) ([]string, error)
}

var examples = []example{
	{"nethttp", "", true, built("nethttp")},
	{"echo", "", true, built("echo")},
	{"node", "node", true, func(folder, _, _ string) ([]string, error) {
		return []string{"--", "node", filepath.Join(folder, "server.js")}, nil
	}},
	{"gunicorn", "gunicorn", true, func(folder, _, _ string) ([]string, error) {
		return []string{"--chdir", folder, "--", "gunicorn", "app:app"}, nil
	}},
	{"uvicorn", "uvicorn", true, func(folder, _, _ string) ([]string, error) {
		uvicorn, err := exec.LookPath("uvicorn")
		// The Python that has it: another one may come first in PATH.
		return []string{"--chdir", folder, "--", filepath.Join(filepath.Dir(uvicorn), "python3"), "app.py"}, err
	}},
	{"uvicorn-command", "uvicorn", false, func(folder, _, _ string) ([]string, error) {
		return []string{"--chdir", filepath.Join(filepath.Dir(folder), "uvicorn"), "--", "uvicorn", "--fd", "3", "app:app"}, nil
	}},
	{"nginx", "nginx", false, func(folder, dir, address string) ([]string, error) {
		text, err := os.ReadFile(filepath.Join(folder, "nginx.conf"))
		if err != nil {
			return nil, err
		}
		conf := filepath.Join(dir, "example.conf")
		text = []byte(strings.ReplaceAll(string(text), "127.0.0.1:3000", address))
		return []string{"--env", "NGINX={fd};", "--stop-signal", "QUIT", "--", "nginx", "-c", conf, "-g", "pid " + dir + "/nginx-{worker}.pid;"},
			os.WriteFile(conf, text, 0o644)
	}},
}

// built is an example in Go, which the script has built beside this program.
func built(name string) func(_, _, _ string) ([]string, error) {
	return func(_, _, _ string) ([]string, error) {
		self, err := os.Executable()
		return []string{"--", filepath.Join(filepath.Dir(self), name)}, err
	}
}

// missing says why an example cannot run here.
func (e example) missing() error {
	if e.needs == "" {
		return nil
	}
	if _, err := exec.LookPath(e.needs); err != nil {
		return fmt.Errorf("%s is not installed", e.needs)
	}
	if e.name == "nginx" && os.Geteuid() != 0 {
		return errors.New("nginx's own folders are root's")
	}
	return nil
}

// plan is what happens to each example.
type plan struct {
	requests, kills, freezes, reloads, upgrades int
	rate                                        float64
}

// runExamples lets every example be killed, stopped, reloaded, upgraded and ended
// under load.
func runExamples(ctx context.Context, args []string) (v verdict, err error) {
	var p plan
	only := ""
	err = flags("examples", args, func(f *flag.FlagSet) {
		f.IntVar(&p.requests, "requests", 10_000, "requests to each example, half of them on kept connections")
		f.Float64Var(&p.rate, "rate", 250, "requests per second")
		f.IntVar(&p.kills, "kills", 10, "SIGKILLs of each of the two workers")
		f.IntVar(&p.freezes, "freezes", 1, "SIGSTOPs of a worker, which the instance has to find")
		f.IntVar(&p.reloads, "reloads", 5, "reloads")
		f.IntVar(&p.upgrades, "upgrades", 1, "upgrades")
		f.StringVar(&only, "only", "", "only this example")
	})
	if err != nil {
		return v, err
	}
	for _, e := range examples {
		if only != "" && only != e.name {
			continue
		}
		if why := e.missing(); why != nil {
			fmt.Printf("SKIPPED, NOT TESTED: %s: %v\n", e.name, why)
			continue
		}
		if err := e.run(ctx, p, &v); err != nil {
			return v, fmt.Errorf("%s: %w", e.name, err)
		}
	}
	if len(v.lines) == 0 {
		return v, errors.New("no example could run")
	}
	return v, nil
}

func (e example) run(ctx context.Context, p plan, v *verdict) (err error) {
	s, err := newScene()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.end()) }()
	i, watch, err := e.start(ctx, s)
	if err != nil {
		return err
	}
	over := make(chan struct{})
	load := ledger.Load{Target: i.Listen, Duration: 24 * time.Hour, Stop: over, Clients: 4, Rate: p.rate / 2, Timeout: 30 * time.Second, ConnectTimeout: 30 * time.Second, Answered: new(atomic.Int64)}
	kept := load
	kept.KeepAlive, kept.Answered = true, new(atomic.Int64)
	began := time.Now()
	fresh, staying := begin(ctx, load), begin(ctx, kept)
	span := time.Duration(float64(p.requests) / p.rate * float64(time.Second))
	h, actErr := s.act(ctx, i, watch, p, span)
	overdue := int64(p.rate*time.Since(began).Seconds()) - load.Answered.Load() - kept.Answered.Load()
	if actErr == nil {
		actErr = answered(ctx, p.requests/2, span, load.Answered, kept.Answered)
	}
	h.ended = time.Now()
	if actErr == nil {
		actErr = i.Stop()
	}
	h.drains = append(h.drains, moment{h.ended, time.Now()})
	close(over)
	one, err1 := fresh.end()
	two, err2 := staying.end()
	if err := errors.Join(actErr, err1, err2); err != nil {
		return err
	}
	fmt.Printf("%s: %d kills, %d freezes, %d reloads, %d upgrades and TERM in %v\n", e.name, 2*p.kills, p.freezes, p.reloads, p.upgrades, time.Since(began).Round(time.Second))
	v.time(overdue <= int64(p.rate), e.name+", requests that were due and not answered yet", fmt.Sprintf("<= %.0f, those of a second", p.rate), "%d", max(overdue, 0))
	v.account(e, "each request on a new connection", one, h)
	v.account(e, "on kept connections", two, h)
	return nil
}

// answered waits until each load has had so many answers. They were due by now; a
// program that has stalled may have as long again, and then it has not done what
// was asked.
func answered(ctx context.Context, wanted int, patience time.Duration, loads ...*atomic.Int64) error {
	deadline := time.Now().Add(max(patience, time.Minute))
	for _, load := range loads {
		for load.Load() < int64(wanted) {
			if time.Now().After(deadline) {
				return fmt.Errorf("%d of %d requests were answered, and %d of %d", loads[0].Load(), wanted, loads[1].Load(), wanted)
			}
			if err := stage.Pause(ctx, 10*time.Millisecond); err != nil {
				return err
			}
		}
	}
	return nil
}

// start runs the example, with more flags.
func (e example) start(ctx context.Context, s *scene, flags ...string) (*stage.Instance, *stage.Watch, error) {
	folder, err := filepath.Abs(filepath.Join("worker", "examples", e.name))
	if err != nil {
		return nil, nil, err
	}
	i, err := s.NewInstance(s.binaries[0], e.name)
	if err != nil {
		return nil, nil, err
	}
	more, err := e.arguments(folder, s.Dir, strings.TrimPrefix(i.Listen, "tcp://"))
	if err != nil {
		return nil, nil, err
	}
	if err := s.Start(ctx, i, nil, append(append([]string{"--workers", "2", "--log-format", "json", "--liveness", "3s"}, flags...), more...)...); err != nil {
		return nil, nil, err
	}
	watch, err := s.Watch(ctx, i)
	return i, watch, err
}

// moment is a time in which requests may fail for a reason.
type moment struct{ from, to time.Time }

// history is what happened to an example, and when.
type history struct {
	deaths []moment // from the signal until the last process of the group was gone: what was in flight is cut
	drains []moment // from the command until no former worker was left
	ended  time.Time
}

// act does what the plan says, spread over the time of the load.
func (s *scene) act(ctx context.Context, i *stage.Instance, watch *stage.Watch, p plan, span time.Duration) (h history, err error) {
	var acts []func() error
	kill := func(slot int, sig syscall.Signal) func() error {
		return func() error {
			m, err := killSlot(ctx, i, watch, slot, sig)
			h.deaths = append(h.deaths, m)
			return err
		}
	}
	change := func(do func() error) func() error {
		return func() error {
			began := time.Now()
			err := do()
			if err == nil {
				_, err = settle(ctx, i)
			}
			h.drains = append(h.drains, moment{began, time.Now()})
			return err
		}
	}
	for n := range p.kills {
		acts = append(acts, kill(0, syscall.SIGKILL), kill(1, syscall.SIGKILL))
		if n < p.freezes {
			acts = append(acts, kill(n%2, syscall.SIGSTOP))
		}
		if n*p.reloads/p.kills != (n+1)*p.reloads/p.kills {
			acts = append(acts, change(func() error { return command(ctx, i, "reload") }))
		}
		if n*p.upgrades/p.kills != (n+1)*p.upgrades/p.kills {
			acts = append(acts, change(func() error { return s.upgrade(ctx, i, nil) }))
		}
	}
	began := time.Now()
	for n, act := range acts {
		if err := stage.Pause(ctx, time.Until(began.Add(span*time.Duration(n+1)/time.Duration(len(acts)+2)))); err != nil {
			return h, err
		}
		if err := act(); err != nil {
			return h, err
		}
	}
	if _, err := settle(ctx, i); err != nil {
		return h, err
	}
	return h, stage.Pause(ctx, time.Until(began.Add(span)))
}

// killSlot sends the worker of a slot a signal that it does not survive: of one
// that is stopped, the instance has to find out.
func killSlot(ctx context.Context, i *stage.Instance, watch *stage.Watch, slot int, sig syscall.Signal) (m moment, err error) {
	status, err := settle(ctx, i)
	if err != nil {
		return m, err
	}
	m.from = time.Now()
	w := status.Workers[slot]
	if err := stage.Kill(w.PID, sig); err != nil {
		return m, err
	}
	if _, err := watch.AwaitExit(ctx, w.Worker); err != nil {
		return m, err
	}
	err = groupGone(ctx, w.PID)
	m.to = time.Now()
	return m, err
}

// groupGone waits until nothing is left of a worker: of nginx and gunicorn the one
// that answers is a child of the one that was killed, and dies by the signal that
// its group is sent then.
func groupGone(ctx context.Context, group int) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for syscall.Kill(-group, 0) == nil {
		if err := stage.Pause(ctx, time.Millisecond); err != nil {
			return fmt.Errorf("a process of the group %d lives on: %w", group, err)
		}
	}
	return nil
}

// account holds the failures against what happened when. After the end a client
// finds nobody.
func (v *verdict) account(e example, what string, r ledger.Report, h history) {
	inFlight, dropped, otherwise, late := 0, 0, 0, 0
	for _, f := range r.Failures {
		switch {
		case f.Class == ledger.Refused && f.End.After(h.ended):
			late++
		case within(f, h.deaths):
			inFlight++
		case within(f, h.drains):
			dropped++
			fmt.Printf("dropped by a worker that leaves: %v at %s\n", f, f.End.Format("15:04:05.000"))
		default:
			otherwise++
			fmt.Printf("failed: %v at %s\n", f, f.End.Format("15:04:05.000"))
		}
	}
	say := v.add
	if otherwise == 0 && !e.drains {
		say = v.time
	}
	say(dropped+otherwise == 0, e.name+", "+what, "0 failed but in flight on the killed", "%d dropped at its own stop and %d otherwise of %d; %d in flight on the killed, %d refused after the end (%s); p99 %v",
		dropped, otherwise, r.Sent()-late, inFlight, late, r.Kinds(), r.Percentile(99))
}

func within(f ledger.Failure, moments []moment) bool {
	return slices.ContainsFunc(moments, func(m moment) bool { return !f.End.Before(m.from) && !f.Begin.After(m.to) })
}
