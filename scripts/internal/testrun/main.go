// Command testrun is the Go half of scripts/test: it runs the checks and the
// tests in groups, one after the other, and counts what go test says itself.
// The last line is "N passed, N failed, N skipped", and the exit code is 0 only
// when nothing has failed.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// insideVariable tells the tests that scripts/test runs them, so that a test of
// scripts/test does not run them again, for ever.
const insideVariable = "REVENANT_INSIDE_TEST"

func main() {
	os.Exit(run())
}

func run() int {
	limit := flag.Duration("limit", time.Hour, "stop everything after this")
	race := flag.Bool("race", true, "with the race detector")
	list := flag.Bool("list", false, "print the groups and their packages, and run nothing")
	verbose := flag.Bool("v", false, "print every test")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "usage: scripts/test [flags] [group ...]\ngroups: %s\n", strings.Join(names(), ", "))
		flag.PrintDefaults()
	}
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, *limit)
	defer cancel()

	chosen, err := choose(flag.Args())
	if err == nil {
		err = assign(ctx, chosen)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "scripts/test:", err)
		return 2
	}
	if *list || os.Getenv(insideVariable) != "" {
		for _, g := range chosen {
			fmt.Printf("%-8s %s\n", g.name, strings.Join(g.packages, " "))
		}
		return 0
	}
	var total result
	for _, g := range chosen {
		began := time.Now()
		fmt.Printf("=== %s\n", g.name)
		g.result = g.run(ctx, options{race: *race, verbose: *verbose})
		g.took = time.Since(began)
		total.add(g.result)
	}
	summary(chosen)
	if len(total.timings) > 0 {
		fmt.Println("=== slowest")
		slowest(total.timings, 10)
	}
	if ctx.Err() != nil {
		fmt.Printf("stopped: %v (limit %v)\n", context.Cause(ctx), *limit)
		total.failed++
	}
	fmt.Printf("%d passed, %d failed, %d skipped\n", total.passed, total.failed, len(total.skipped))
	if total.failed > 0 {
		return 1
	}
	return 0
}

func names() []string {
	var all []string
	for _, g := range groups {
		all = append(all, g.name)
	}
	return all
}

func choose(wanted []string) ([]*group, error) {
	for _, name := range wanted {
		if !slices.Contains(names(), name) {
			return nil, fmt.Errorf("there is no group %q (choose from %s)", name, strings.Join(names(), ", "))
		}
	}
	var chosen []*group
	for _, g := range groups {
		if len(wanted) == 0 || slices.Contains(wanted, g.name) {
			chosen = append(chosen, g)
		}
	}
	return chosen, nil
}

// assign gives each package of the module to the one group that wants it.
func assign(ctx context.Context, chosen []*group) error {
	list := exec.CommandContext(ctx, "go", "list", "./...")
	list.Stderr = os.Stderr
	out, err := list.Output()
	if err != nil {
		return fmt.Errorf("cannot list the packages: %w", err)
	}
	for path := range strings.FieldsSeq(string(out)) {
		owner := groupOf(path)
		for _, g := range chosen {
			if g.name == owner {
				g.packages = append(g.packages, path)
			}
		}
	}
	return nil
}

func summary(chosen []*group) {
	fmt.Println("=== summary")
	for _, g := range chosen {
		verdict := "ran"
		switch {
		case g.failed > 0:
			verdict = "FAILED"
		case g.passed == 0:
			verdict = "skipped"
		}
		fmt.Printf("%-8s %-8s %d passed, %d failed, %d skipped in %v\n",
			g.name, verdict, g.passed, g.failed, len(g.skipped), g.took.Round(100*time.Millisecond))
		for _, skip := range g.skipped {
			fmt.Printf("         skipped %s\n", skip)
		}
	}
}

// slowest says where the time goes.
func slowest(tests []timing, n int) {
	slices.SortFunc(tests, func(a, b timing) int { return cmp.Compare(b.seconds, a.seconds) })
	for _, t := range tests[:min(n, len(tests))] {
		fmt.Printf("%7.1f s  %s %s\n", t.seconds, t.pkg, t.test)
	}
}
