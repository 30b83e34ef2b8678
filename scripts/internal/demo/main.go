// Command demo is the tutorial's picture without Docker: two instances of two
// workers, nginx before them, and what to try. Ctrl-C ends it all.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"text/template"
	"time"

	"revenant/scripts/internal/stage"
)

func main() {
	// What is started ends with this thread, should the demo be killed.
	runtime.LockOSThread()
	os.Exit(run())
}

func run() int {
	tutorial := flag.Bool("tutorial", false, "nginx as in the tutorial instead of production.conf, to see what that costs")
	workers := flag.String("workers", "2", "workers of each instance")
	quiet := flag.Bool("quiet", false, "leave out what the instances log")
	flag.Usage = func() {
		fmt.Fprint(flag.CommandLine.Output(), "usage: scripts/demo [flags]\n")
		flag.PrintDefaults()
		fmt.Fprintf(flag.CommandLine.Output(), "Other ports: %s, %s, %s (and %s, %s).\n",
			stage.PortOneVariable, stage.PortTwoVariable, stage.PortFrontVariable, stage.PortStandbyVariable, stage.PortStatusVariable)
	}
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()

	d, err := newDemo(*tutorial, *workers, *quiet)
	if err == nil {
		err = d.play(ctx)
	}
	if d != nil {
		err = errors.Join(err, d.end())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "scripts/demo:", err)
		return 1
	}
	return 0
}

// demo is what runs, in the order in which it was started.
type demo struct {
	picture   stage.Picture
	instances [2]*stage.Instance
	front     *stage.Front
	workers   string
	quiet     bool
}

func newDemo(tutorial bool, workers string, quiet bool) (*demo, error) {
	picture, err := stage.PictureFromEnv()
	if err != nil {
		return nil, err
	}
	binary, err := stage.Binary()
	if err != nil {
		return nil, err
	}
	if _, err := stage.FrontPath(); err != nil {
		return nil, fmt.Errorf("cannot show the picture: %w", err)
	}
	dir, err := os.MkdirTemp("", "revenant-demo-")
	if err != nil {
		return nil, fmt.Errorf("cannot make a folder for nginx: %w", err)
	}
	d := &demo{picture: picture, workers: workers, quiet: quiet}
	for i := range d.instances {
		d.instances[i] = picture.Instance(binary, i)
	}
	d.front = &stage.Front{Config: "production.conf", Ports: picture.Ports, Dir: dir}
	if tutorial {
		d.front.Config = "tutorial.conf"
	}
	return d, nil
}

// play starts everything and waits for ctx, or for a part to end by itself,
// which is an error.
func (d *demo) play(ctx context.Context) error {
	starting, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for _, instance := range d.instances {
		output := stage.Prefixed(instance.Name, os.Stdout)
		if d.quiet {
			output = nil
		}
		if err := instance.Start(starting, output, "--workers", d.workers, "--chaos", "--log-format", "pretty"); err != nil {
			return quietly(ctx, err)
		}
	}
	if err := d.front.Start(starting); err != nil {
		return quietly(ctx, err)
	}
	if err := whatNext.Execute(os.Stdout, d.words()); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return nil
	case <-d.instances[0].Process().Done():
		return fmt.Errorf("instance %s has ended by itself", d.instances[0].Name)
	case <-d.instances[1].Process().Done():
		return fmt.Errorf("instance %s has ended by itself", d.instances[1].Name)
	case <-d.front.Process().Done():
		return fmt.Errorf("nginx has ended by itself: %v", d.front.Process().Err())
	}
}

// quietly drops the complaint of a start that Ctrl-C has cut short.
func quietly(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// end stops the front first, so that nobody asks the instances any more.
func (d *demo) end() error {
	err := d.front.Stop()
	for _, instance := range d.instances {
		err = errors.Join(err, instance.Stop())
	}
	return errors.Join(err, os.RemoveAll(d.front.Dir))
}

func (d *demo) words() map[string]any {
	return map[string]any{
		"One": d.instances[0].Listen, "Two": d.instances[1].Listen, "Binary": "bin/revenant",
		"Front": fmt.Sprintf("http://127.0.0.1:%d", d.picture.Ports.Front), "Config": "nginx/" + d.front.Config,
		"Log": d.front.Dir + "/access.log", "Workers": d.workers,
	}
}

var whatNext = template.Must(template.New("").Parse(`
  {{.Front}}  nginx with {{.Config}}
  |- {{.One}}  instance one, {{.Workers}} workers
  |- {{.Two}}  instance two, {{.Workers}} workers

Try in another terminal:
  which worker answers           curl {{.Front}}/
  end that worker                curl {{.Front}}/workerKiller   (also ?mode=kill, exit, panic, segv)
  who lives, who died and why    {{.Binary}} ps --name one --watch
  what happens, as it happens    {{.Binary}} events -f --name two
  a kill storm, every request    scripts/chaos
  counted
  end a master; its workers      kill -9 $({{.Binary}} ps --name one -o json | grep -o '"master_pid":[0-9]*' | cut -d: -f2)
  go on serving
  what nginx rescued             tail -f {{.Log}}

Ctrl-C ends all of it.
`))
