package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"revenant/scripts/internal/stage"
	"revenant/scripts/ledger"
)

// processes are instances on this machine. A successor is started with the
// command line, environment, folder and output of the one whose place it takes.
type processes struct {
	options  *options
	standby  string
	all      []member
	launches map[string]*launch // of those that run
	present  map[string]string  // the program that each runs now
}

// findProcesses asks the instances who they are.
func findProcesses(ctx context.Context, o *options) (*processes, error) {
	p := &processes{options: o, standby: o.standby, launches: map[string]*launch{}, present: map[string]string{}}
	for _, name := range o.instances {
		l, m, err := p.find(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("%w (is it running? its name is that of revenant run --name)", err)
		}
		p.all, p.launches[name] = append(p.all, m), l
	}
	if l, _, err := p.find(ctx, o.standby); err == nil {
		p.launches[o.standby] = l
	}
	return p, nil
}

func (p *processes) instance(name string) *stage.Instance {
	return &stage.Instance{Binary: p.options.binary, Name: name, RuntimeDir: p.options.runtimeDir}
}

func (p *processes) find(ctx context.Context, name string) (*launch, member, error) {
	status, err := p.instance(name).PS(ctx)
	if err != nil {
		return nil, member{}, err
	}
	l, err := launchOf(status)
	if err != nil {
		return nil, member{}, fmt.Errorf("cannot see how instance %s was started: %w", name, err)
	}
	p.present[name] = l.program
	m := member{name: name, runs: true}
	for _, listener := range status.Listeners {
		m.addresses = append(m.addresses, serverAddresses(listener)...)
	}
	return l, m, nil
}

// serverAddresses are the ways in which nginx may write a listener.
func serverAddresses(listener string) []string {
	address, isTCP := strings.CutPrefix(listener, "tcp://")
	if !isTCP {
		path, _, _ := strings.Cut(listener, "?")
		return []string{path}
	}
	host, port, err := net.SplitHostPort(address)
	if ip := net.ParseIP(host); err == nil && (host == "" || ip != nil && ip.IsUnspecified()) {
		return []string{"127.0.0.1:" + port, "[::1]:" + port}
	}
	return []string{address}
}

func (p *processes) members() []member { return p.all }

func (p *processes) spare() member {
	m := member{name: p.standby}
	if l := p.launches[p.standby]; l != nil {
		m.runs = true
		for _, listener := range l.listeners {
			m.addresses = append(m.addresses, serverAddresses(listener)...)
		}
	}
	return m
}

func (p *processes) version() string           { return p.options.binary }
func (p *processes) versionOf(m member) string { return p.present[m.name] }

// raise starts the standby, or replaces the one that runs: it serves nobody.
func (p *processes) raise(ctx context.Context, at string) error {
	if p.launches[p.standby] != nil {
		return p.swap(context.WithoutCancel(ctx), p.spare())
	}
	like := p.launches[p.all[0].name]
	if !strings.HasPrefix(at, "unix:") {
		at = "tcp://" + at
	}
	args, err := standbyArgs(like.args, p.standby, at)
	if err != nil {
		return err
	}
	standby := *like
	standby.args, standby.listeners = args, []string{at}
	return p.start(ctx, p.standby, &standby, p.options.binary)
}

// lower ends a standby that did not run before.
func (p *processes) lower(ctx context.Context) error {
	if p.launches[p.standby] != nil {
		return nil
	}
	status, err := p.instance(p.standby).PS(ctx)
	if err != nil {
		return err
	}
	return p.stop(ctx, p.standby, status.KeeperPID)
}

func (p *processes) swap(ctx context.Context, m member) error {
	l := p.launches[m.name]
	if err := p.stop(ctx, m.name, l.keeper); err != nil {
		return goneError{err}
	}
	err := p.start(ctx, m.name, l, p.options.binary)
	if err == nil {
		return nil
	}
	if back := p.start(ctx, m.name, l, l.former()); back != nil {
		return goneError{fmt.Errorf("%w; and the former version did not come back: %w", err, back)}
	}
	p.present[m.name] = l.program
	return fmt.Errorf("%w (it is back on %s)", err, l.program)
}

// stop has an instance drain and waits until it is gone.
func (p *processes) stop(ctx context.Context, name string, keeper int) error {
	fd, err := unix.PidfdOpen(keeper, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot watch instance %s (pid %d): %w", name, keeper, err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("cannot stop instance %s (pid %d): %w", name, keeper, err)
	}
	for deadline := time.Now().Add(p.options.limit); time.Now().Before(deadline) && ctx.Err() == nil; {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("cannot watch instance %s (pid %d): %w", name, keeper, err)
		}
		if n > 0 {
			return nil
		}
	}
	return fmt.Errorf("instance %s (pid %d) has not drained within %v", name, keeper, p.options.limit)
}

// start runs a program as an instance and waits until it is ready and has
// answered. It outlives this script.
func (p *processes) start(ctx context.Context, name string, l *launch, program string) error {
	ctx, cancel := context.WithTimeout(ctx, p.options.limit)
	defer cancel()
	cmd := l.command(program)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot start instance %s: %w", name, err)
	}
	ended := make(chan error, 1)
	// Ends with the instance, or with this script.
	go func() { ended <- cmd.Wait() }()
	if err := p.await(ctx, name, cmd.Process.Pid, l.listeners, ended); err != nil {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(30 * time.Second):
			_ = cmd.Process.Kill()
			<-ended
		}
		return fmt.Errorf("instance %s does not come up on %s: %w (what it logged is where the former one logged)", name, program, err)
	}
	p.present[name] = p.options.binary
	return nil
}

// await waits for an instance whose keeper is ours.
func (p *processes) await(ctx context.Context, name string, keeper int, listeners []string, ended chan error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		status, err := p.instance(name).PS(ctx)
		if err == nil && status.KeeperPID == keeper && status.State == "ready" && status.Ready == status.Desired {
			return answers(listeners)
		}
		select {
		case err := <-ended:
			ended <- err
			return fmt.Errorf("it ended: %v", cause(err))
		case <-ctx.Done():
			return fmt.Errorf("it is not ready within the limit: %v", status.State)
		case <-tick.C:
		}
	}
}

// cause puts an exit code into words.
func cause(err error) string {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return fmt.Sprint(err)
	}
	words := map[int]string{1: "failed", 2: "it does not understand its options", 10: "no worker became ready", 11: "every worker crashes", 12: "it cannot bind its address"}
	if word := words[exit.ExitCode()]; word != "" {
		return fmt.Sprintf("%v: %s", err, word)
	}
	return err.Error()
}

// answers sends a request to each address. Any answer will do that is no failure
// of the server.
func answers(listeners []string) error {
	for _, target := range listeners {
		target, _, _ = strings.Cut(target, "?")
		client := &ledger.Client{Target: target, Timeout: 10 * time.Second}
		outcome := client.Do(ledger.Request{Path: "/"})
		client.Close()
		if outcome.Class == ledger.Status && outcome.Response.Status < 500 {
			continue
		}
		if outcome.Class != ledger.Answered {
			return fmt.Errorf("%s does not answer GET /: %v: %w", target, outcome.Class, outcome.Err)
		}
	}
	return nil
}

// program is what the file of a process is called, also when it was replaced.
func program(pid int) string {
	path, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return strings.TrimSuffix(path, " (deleted)")
}
