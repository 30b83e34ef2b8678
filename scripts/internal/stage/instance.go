// Package stage sets real instances up for the scripts: it starts them and
// nginx, follows their events, kills their workers, and reads what they cost.
// It knows an instance only as an operator does, through the binary.
package stage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"revenant/scripts/ledger"
)

// Binary is the one that the script has built beside its own.
func Binary() (string, error) {
	own, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("cannot find the binary revenant: %w", err)
	}
	path := filepath.Join(filepath.Dir(own), "revenant")
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("cannot find the binary revenant (go build -o bin/ ./cmd/revenant): %w", err)
	}
	return path, nil
}

// Instance is a running `revenant run`, or one that somebody else has started.
type Instance struct {
	Binary     string
	Name       string
	RuntimeDir string // "" for the default one
	Listen     string // tcp://HOST:PORT

	process *Process // nil when it is not ours
}

// Start runs the instance and waits until it is ready. What it says goes to
// output, and into the error when it does not come up.
func (i *Instance) Start(ctx context.Context, output io.Writer, flags ...string) error {
	args := append([]string{"run", "--name", i.Name, "--listen", i.Listen}, flags...)
	said := &tail{next: output}
	cmd := exec.Command(i.Binary, args...)
	cmd.Env = i.environ()
	cmd.Stdout, cmd.Stderr = said, said
	process, err := StartProcess(cmd)
	if err != nil {
		return fmt.Errorf("cannot start instance %s: %w", i.Name, err)
	}
	i.process = process
	err = process.Await(ctx, func() bool { return exec.CommandContext(ctx, i.Binary, i.verb("health")...).Run() == nil })
	if err != nil {
		process.Stop(time.Second)
		return fmt.Errorf("cannot start instance %s on %s: %w\n%s", i.Name, i.Listen, err, said.text())
	}
	return nil
}

// Process is the keeper, nil when somebody else has started it.
func (i *Instance) Process() *Process { return i.process }

// Stop drains the instance. It is an error if that takes too long.
func (i *Instance) Stop() error {
	if i.process == nil {
		return nil
	}
	return i.process.Stop(20 * time.Second)
}

func (i *Instance) environ() []string {
	environ := slices.DeleteFunc(os.Environ(), func(assignment string) bool {
		return strings.HasPrefix(assignment, "REVENANT_")
	})
	if i.RuntimeDir != "" {
		environ = append(environ, "REVENANT_RUNTIME_DIR="+i.RuntimeDir)
	}
	return environ
}

func (i *Instance) verb(verb string, args ...string) []string {
	all := []string{verb, "--name", i.Name}
	if i.RuntimeDir != "" {
		all = append(all, "--runtime-dir", i.RuntimeDir)
	}
	return append(all, args...)
}

// Command is a verb of the binary, for this instance.
func (i *Instance) Command(ctx context.Context, verb string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, i.Binary, i.verb(verb, args...)...)
	cmd.Env = i.environ()
	return cmd
}

// Status is what `revenant ps -o json` says.
type Status struct {
	Instance   string
	Version    string
	State      string
	Generation int
	Ready      int
	Desired    int
	KeeperPID  int `json:"keeper_pid"`
	MasterPID  int `json:"master_pid"`
	Listeners  []string
	Workers    []Worker
}

// Worker is a line of the status.
type Worker struct {
	Slot     int
	Worker   uint64
	State    string
	PID      int
	Restarts int
}

// PS asks the instance for its status.
func (i *Instance) PS(ctx context.Context) (Status, error) {
	var status Status
	err := i.ask(ctx, &status, "ps", "-o", "json")
	return status, err
}

func (i *Instance) ask(ctx context.Context, answer any, verb string, args ...string) error {
	cmd := i.Command(ctx, verb, args...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(out, answer)
	}
	if err != nil {
		return fmt.Errorf("cannot ask instance %s for %s: %w: %s", i.Name, verb, err, bytes.TrimSpace(said.Bytes()))
	}
	return nil
}

// Events are those that the master still remembers.
func (i *Instance) Events(ctx context.Context) ([]Event, error) {
	out, err := i.Command(ctx, "events", "-o", "json").Output()
	if err != nil {
		return nil, fmt.Errorf("cannot read the events of instance %s: %w", i.Name, err)
	}
	var events []Event
	for decoder := json.NewDecoder(bytes.NewReader(out)); decoder.More(); {
		var e Event
		if err := decoder.Decode(&e); err != nil {
			return nil, fmt.Errorf("cannot understand the events of instance %s: %w", i.Name, err)
		}
		events = append(events, e)
	}
	return events, nil
}

// SlowestAnswer asks the control socket for the status again and again until
// ctx ends. It needs the instance's runtime folder.
func (i *Instance) SlowestAnswer(ctx context.Context, every time.Duration) (time.Duration, error) {
	client := &ledger.Client{Target: "unix:" + filepath.Join(i.RuntimeDir, i.Name, "control.sock"), Timeout: 5 * time.Second}
	tick := time.NewTicker(every)
	defer tick.Stop()
	slowest := time.Duration(0)
	for {
		outcome := client.Do(ledger.Request{Path: "/v1/status"})
		if outcome.Class != ledger.Answered {
			return slowest, fmt.Errorf("the control socket of instance %s does not answer: %v: %w", i.Name, outcome.Class, outcome.Err)
		}
		slowest = max(slowest, outcome.End.Sub(outcome.Begin))
		select {
		case <-ctx.Done():
			return slowest, nil
		case <-tick.C:
		}
	}
}

// AwaitReady waits until all workers that are wanted are ready.
func (i *Instance) AwaitReady(ctx context.Context) (Status, error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		status, err := i.PS(ctx)
		if err == nil && status.Ready == status.Desired && status.State == "ready" && len(status.Workers) == status.Desired {
			return status, nil
		}
		select {
		case <-ctx.Done():
			return status, errors.Join(fmt.Errorf("instance %s is not ready: %w", i.Name, ctx.Err()), err)
		case <-tick.C:
		}
	}
}

// Kill sends a signal to a process of an instance. One that is gone already is
// no error: in a storm somebody else may have been quicker.
func Kill(pid int, signal syscall.Signal) error {
	if pid <= 1 {
		return fmt.Errorf("cannot send %v to pid %d: that is no process of an instance", signal, pid)
	}
	if err := syscall.Kill(pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("cannot send %v to pid %d: %w", signal, pid, err)
	}
	return nil
}
