// Command release brings a new version behind nginx, one instance after the
// other, while the standby stands in for the one that is being replaced. It
// changes nothing that serves until what takes its place has answered.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"revenant/nginx"
	"revenant/scripts/internal/stage"
)

const usage = `usage: scripts/release --binary FILE --nginx FILE [flags] [instance ...]
       scripts/release --image NAME [flags] [service ...]

Brings a new version behind nginx without a lost request: the standby is started
on it; then each instance in turn is marked down in site/servers.conf while the
standby takes its share, drains, and is started again on the new version, with
the arguments, environment and output that it had. At last the standby is what
it was before. When anything fails, the upstream files are put back and what
serves goes on; the exit code is then 1, and the last lines say what to do.

Processes of this machine; nginx runs with -p DIR -c DIR/production.conf:

  scripts/release --binary ./revenant-2 --nginx DIR/production.conf one two
  scripts/release --binary ./revenant-2 --nginx DIR/production.conf --dry-run
  scripts/release --binary ./revenant-1 --nginx DIR/production.conf     back again

Containers of docker/compose.yaml (REVENANT_IMAGE says what they run):

  docker build -f docker/Dockerfile -t revenant:2 .
  scripts/release --image revenant:2

`

func main() {
	os.Exit(run())
}

// options are what the operator wants.
type options struct {
	binary, image        string
	config, prefix, site string
	compose              string
	standby, runtimeDir  string
	settle, limit        time.Duration
	dry                  bool
	instances            []string
}

func run() int {
	var o options
	flag.StringVar(&o.binary, "binary", "", "the new version")
	flag.StringVar(&o.image, "image", "", "the new version, as an image for the services of the compose file")
	flag.StringVar(&o.config, "nginx", "", "the configuration that nginx runs with (nginx -c)")
	flag.StringVar(&o.prefix, "prefix", "", "the folder that nginx runs in (nginx -p); that of --nginx by default")
	flag.StringVar(&o.site, "site", "", "the folder of servers.conf and standby.conf; site beside --nginx, or that of the compose file, by default")
	flag.StringVar(&o.compose, "compose", "", "the compose file, with --image (default docker/compose.yaml of this project)")
	flag.StringVar(&o.standby, "standby", "standby", "the instance that stands in; started where standby.conf has it")
	flag.StringVar(&o.runtimeDir, "runtime-dir", os.Getenv("REVENANT_RUNTIME_DIR"), "folder of the control sockets, if it is not the default one")
	flag.DurationVar(&o.settle, "settle", 0, "how long clients get to give their kept connections up before nginx reloads (default 1s, with --image 3s)")
	flag.DurationVar(&o.limit, "limit", 2*time.Minute, "how long an instance may take to become ready, and one to drain")
	flag.BoolVar(&o.dry, "dry-run", false, "print the steps and change nothing")
	flag.Usage = func() {
		fmt.Fprint(flag.CommandLine.Output(), usage)
		flag.PrintDefaults()
	}
	flag.Parse()
	o.instances = flag.Args()
	if len(o.instances) == 0 {
		o.instances = []string{"one", "two"}
	}
	if err := o.complete(); err != nil {
		fmt.Fprintln(os.Stderr, "scripts/release:", err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := o.release(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "scripts/release:", err)
		return 1
	}
	return 0
}

// complete fills in what follows from the rest, and refuses what does not fit.
func (o *options) complete() error {
	switch {
	case (o.binary == "") == (o.image == ""):
		return errors.New("either --binary or --image says what is new (see scripts/release --help)")
	case slices.Contains(o.instances, o.standby):
		return fmt.Errorf("%s is the standby: it cannot be one of the instances too", o.standby)
	case o.binary != "" && o.config == "":
		return errors.New("--nginx is missing: the configuration that nginx runs with")
	}
	var err error
	for _, path := range []*string{&o.binary, &o.config, &o.prefix, &o.site, &o.compose} {
		if *path != "" && err == nil {
			*path, err = filepath.Abs(*path)
		}
	}
	if o.image != "" {
		if o.compose == "" {
			o.compose, err = shippedCompose()
		}
		if o.site = defaultTo(o.site, defaultTo(os.Getenv("SITE"), "site")); !filepath.IsAbs(o.site) {
			o.site = filepath.Join(filepath.Dir(o.compose), o.site)
		}
		if o.settle == 0 {
			o.settle = 3 * time.Second
		}
		return err
	}
	o.prefix = defaultTo(o.prefix, filepath.Dir(o.config))
	o.site = defaultTo(o.site, filepath.Join(filepath.Dir(o.config), "site"))
	if err == nil {
		err = executable(o.binary)
	}
	return err
}

// shippedCompose lies beside the folder of this program.
func shippedCompose() (string, error) {
	own, err := os.Executable()
	return filepath.Join(filepath.Dir(own), "..", "docker", "compose.yaml"), err
}

func executable(path string) error {
	info, err := os.Stat(path)
	if err == nil && (info.IsDir() || info.Mode()&0o111 == 0) {
		err = errors.New("it is no program")
	}
	if err != nil {
		return fmt.Errorf("--binary %s: %w", path, err)
	}
	return nil
}

func defaultTo(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}

// release finds out what runs, and then does it.
func (o *options) release(ctx context.Context) error {
	var f fleet
	var site *nginx.Site
	var err error
	if o.image != "" {
		f, site, err = o.containers(ctx)
	} else {
		f, site, err = o.processes(ctx)
	}
	if err != nil {
		return fmt.Errorf("%w\nNothing was changed.", err)
	}
	site.Settle = o.settle
	r, err := newRollout(f, site, o.dry)
	if err != nil {
		return fmt.Errorf("%w\nNothing was changed.", err)
	}
	defer r.unlock()
	return r.run(ctx)
}

// processes are the fleet and the nginx of this machine.
func (o *options) processes(ctx context.Context) (fleet, *nginx.Site, error) {
	path, err := stage.FrontPath()
	if err != nil {
		return nil, nil, err
	}
	front := &nginx.Process{Path: path, Prefix: o.prefix, Config: o.config}
	site := &nginx.Site{Dir: o.site, Running: front}
	// One that is not understood here may still do: these three only help.
	if conf, err := nginx.Parse(os.DirFS(filepath.Dir(o.config)), filepath.Base(o.config)); err == nil {
		front.PID, front.Status = nginx.PIDFile(conf, o.prefix), nginx.StatusURL(conf)
		site.Closing = nginx.ClosingFile(conf, o.prefix)
	}
	if _, err := front.Master(); err != nil {
		return nil, nil, err
	}
	f, err := findProcesses(ctx, o)
	return f, site, err
}
