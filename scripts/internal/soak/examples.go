package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"revenant/scripts/internal/stage"
	"revenant/scripts/ledger"
)

// example is a program of worker/examples as the workers of an instance.
type example struct {
	name  string
	needs string // a program that must be installed; "" for those that are built here
	// drains: it answers whatever was sent to it before it leaves. The others have
	// ways of their own to leave, by which a request can be lost; that is measured and
	// told, and broken is only what is more than the connections that a worker may have
	// had when it was asked to leave.
	drains bool
	// arguments are those of revenant run, from the folder of the example, one for
	// what is written, and the address.
	arguments func(folder, dir, address string) ([]string, error)
}

var examples = []example{
	{"nethttp", "", false, built("nethttp")},
	{"echo", "", true, built("echo")},
	{"node", "node", false, func(folder, _, _ string) ([]string, error) {
		return []string{"--", "node", filepath.Join(folder, "server.js")}, nil
	}},
	{"gunicorn", "gunicorn", false, func(folder, _, _ string) ([]string, error) {
		return []string{"--chdir", folder, "--", "gunicorn", "app:app"}, nil
	}},
	{"uvicorn", "uvicorn", false, func(folder, _, _ string) ([]string, error) {
		return []string{"--chdir", folder, "--", "uvicorn", "--fd", "3", "app:app"}, nil
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
	load := ledger.Load{Target: i.Listen, Duration: 24 * time.Hour, Stop: over, Clients: 4, Rate: p.rate / 2, Timeout: 30 * time.Second, ConnectTimeout: 30 * time.Second}
	kept := load
	kept.KeepAlive = true
	began := time.Now()
	fresh, staying := begin(ctx, load), begin(ctx, kept)
	deaths, actErr := s.act(ctx, i, watch, p, time.Duration(float64(p.requests)/p.rate*float64(time.Second)))
	ended := time.Now()
	if actErr == nil {
		actErr = i.Stop()
	}
	close(over)
	one, err1 := fresh.end()
	two, err2 := staying.end()
	if err := errors.Join(actErr, err1, err2); err != nil {
		return err
	}
	fmt.Printf("%s: %d kills, %d freezes, %d reloads, %d upgrades and TERM in %v\n", e.name, 2*p.kills, p.freezes, p.reloads, p.upgrades, time.Since(began).Round(time.Second))
	forgiven := 0
	if !e.drains {
		forgiven = load.Clients * 2 * (p.reloads + p.upgrades + 1)
	}
	v.account(e.name+", each request on a new connection", one, deaths, ended, forgiven)
	v.account(e.name+", on kept connections", two, deaths, ended, forgiven)
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

// death is the time in which a worker that was killed may have cut requests.
type death struct{ from, to time.Time }

// act does what the plan says, spread over the time of the load.
func (s *scene) act(ctx context.Context, i *stage.Instance, watch *stage.Watch, p plan, span time.Duration) (deaths []death, err error) {
	var acts []func() error
	kill := func(slot int, sig syscall.Signal) func() error {
		return func() error {
			d, err := killSlot(ctx, i, watch, slot, sig)
			deaths = append(deaths, d)
			return err
		}
	}
	for n := range p.kills {
		acts = append(acts, kill(0, syscall.SIGKILL), kill(1, syscall.SIGKILL))
		if n < p.freezes {
			acts = append(acts, kill(n%2, syscall.SIGSTOP))
		}
		if n*p.reloads/p.kills != (n+1)*p.reloads/p.kills {
			acts = append(acts, func() error { return command(ctx, i, "reload") })
		}
		if n*p.upgrades/p.kills != (n+1)*p.upgrades/p.kills {
			acts = append(acts, func() error { return s.upgrade(ctx, i, nil) })
		}
	}
	began := time.Now()
	for n, act := range acts {
		if err := stage.Pause(ctx, time.Until(began.Add(span*time.Duration(n+1)/time.Duration(len(acts)+2)))); err != nil {
			return deaths, err
		}
		if _, err := settle(ctx, i); err != nil {
			return deaths, err
		}
		if err := act(); err != nil {
			return deaths, err
		}
	}
	if _, err := settle(ctx, i); err != nil {
		return deaths, err
	}
	return deaths, stage.Pause(ctx, time.Until(began.Add(span)))
}

// killSlot sends the worker of a slot a signal that it does not survive: of one
// that is stopped, the instance has to find out.
func killSlot(ctx context.Context, i *stage.Instance, watch *stage.Watch, slot int, sig syscall.Signal) (d death, err error) {
	status, err := settle(ctx, i)
	if err != nil {
		return d, err
	}
	d.from = time.Now()
	w := status.Workers[slot]
	if err := stage.Kill(w.PID, sig); err != nil {
		return d, err
	}
	exit, err := watch.AwaitExit(ctx, w.Worker)
	d.to = exit.Time
	return d, err
}

// account holds the failures against the deaths. After the end a client finds
// nobody.
func (v *verdict) account(what string, r ledger.Report, deaths []death, ended time.Time, forgiven int) {
	inFlight, otherwise, late := 0, 0, 0
	for _, f := range r.Failures {
		switch {
		case f.Class == ledger.Refused && f.End.After(ended):
			late++
		case cutByDeath(f, deaths):
			inFlight++
		default:
			otherwise++
			if otherwise <= 3 {
				fmt.Printf("failed: %v at %s\n", f, f.End.Format("15:04:05.000"))
			}
		}
	}
	say := v.add
	if otherwise <= forgiven {
		say = v.time
	}
	say(otherwise == 0, what, "0 failed but in flight on the killed", "%d of %d; %d in flight on the killed, %d refused after the end (%s); p99 %v",
		otherwise, r.Sent(), inFlight, late, r.Kinds(), r.Percentile(99))
}

func cutByDeath(f ledger.Failure, deaths []death) bool {
	for _, d := range deaths {
		if !f.End.Before(d.from) && !f.Begin.After(d.to) {
			return true
		}
	}
	return false
}
