package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// group is what is run together. Everything with real processes measures time,
// so its packages run one after the other.
type group struct {
	name     string
	prefixes []string // of import paths below the module
	alone    bool
	packages []string

	result
	took time.Duration
}

type options struct {
	race, verbose bool
}

// groups in the order in which they run. A package belongs to the group with
// the longest matching prefix, and to unit when there is none.
var groups = []*group{
	{name: "static"},
	{name: "unit", prefixes: []string{""}},
	{name: "process", alone: true, prefixes: []string{"/cmd/", "/supervisor", "/supervisor/control", "/supervisor/keeper", "/supervisor/supervisortest", "/worker", "/worker/app"}},
	{name: "nginx", alone: true, prefixes: []string{"/nginx"}},
	{name: "docker", alone: true, prefixes: []string{"/docker"}},
	{name: "scripts", alone: true, prefixes: []string{"/scripts"}},
}

// leaves are quick and share nothing, wherever they are.
var leaves = []string{"/supervisor/cgroup", "/supervisor/event", "/supervisor/listen", "/supervisor/notify", "/worker/scoreboard", "/scripts/ledger"}

func groupOf(path string) string {
	_, below, _ := strings.Cut(path, "/")
	below = "/" + below
	for _, leaf := range leaves {
		if below == leaf {
			return "unit"
		}
	}
	owner, longest := "unit", 0
	for _, g := range groups {
		for _, prefix := range g.prefixes {
			if strings.HasPrefix(below, prefix) && len(prefix) > longest {
				owner, longest = g.name, len(prefix)
			}
		}
	}
	return owner
}

func (g *group) run(ctx context.Context, o options) result {
	if g.name == "static" {
		return static(ctx)
	}
	if len(g.packages) == 0 {
		return result{skipped: []string{g.name + ": there is no package in this group"}}
	}
	args := []string{"test", "-json", "-count=1", "-timeout=30m"}
	if o.race {
		args = append(args, "-race")
	}
	if g.alone {
		args = append(args, "-p=1")
	}
	test := exec.CommandContext(ctx, "go", append(args, g.packages...)...)
	test.Env = append(os.Environ(), insideVariable+"=1")
	test.Stderr = os.Stderr
	// A test that is stopped gets the chance to end what it has started.
	test.Cancel = func() error { return test.Process.Signal(os.Interrupt) }
	test.WaitDelay = 20 * time.Second
	out, err := test.StdoutPipe()
	if err == nil {
		err = test.Start()
	}
	if err != nil {
		fmt.Printf("--- FAIL: cannot run go test: %v\n", err)
		return result{failed: 1}
	}
	r := read(out, o.verbose)
	// go test has said no in its exit code and nowhere else: that counts too.
	if err := test.Wait(); err != nil && r.failed == 0 {
		fmt.Printf("--- FAIL: go test: %v\n", err)
		r.failed++
	}
	return r
}

// static runs the checks that need no test. Each counts as one.
func static(ctx context.Context) result {
	var r result
	r.check(ctx, "gofmt", "", "sh", "-c", `files=$(gofmt -l $(git ls-files '*.go' 2>/dev/null || find . -name '*.go')) && test -z "$files" || { echo "not formatted: $files"; exit 1; }`)
	r.check(ctx, "go vet", "", "go", "vet", "./...")
	const scripts = `$(grep -lsE '^#!.*bash' scripts/* docker/* .ci/*)`
	r.check(ctx, "bash -n", "", "sh", "-c", "for f in "+scripts+"; do bash -n $f || exit 1; done")
	r.check(ctx, "shellcheck", "shellcheck", "sh", "-c", "shellcheck "+scripts)
	return r
}

// check runs a command. What it needs beside Go and a shell may be missing.
func (r *result) check(ctx context.Context, name, needs string, command ...string) {
	if needs != "" {
		if _, err := exec.LookPath(needs); err != nil {
			r.skipped = append(r.skipped, fmt.Sprintf("%s: %s is not installed", name, needs))
			return
		}
	}
	out, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput()
	if err == nil {
		r.passed++
		return
	}
	r.failed++
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		out = append(out, err.Error()...)
	}
	fmt.Printf("--- FAIL: %s\n%s\n", name, out)
}
