// Command bench measures what the project promises and says for each promise
// what was measured and whether it was kept. It is a benchmark and no test: run
// it on a machine that does nothing else. Peers are measured in the same run.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"revenant/scripts/internal/stage"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == printer {
		printAway(os.Args[2])
		return
	}
	// What is started ends with this thread, should the benchmark be killed.
	runtime.LockOSThread()
	os.Exit(run())
}

// row is a line of the table.
type row struct {
	name   string
	what   string
	target string
	run    func(context.Context, *bench) (result, error)
}

// result is what came of a row.
type result struct {
	measured string
	kept     bool
	notes    []string
}

var rows = []row{
	{"respawn", "a worker gets SIGKILL, its successor is ready", "median <= 15 ms, p99 <= 60 ms", respawn},
	{"storm", "a SIGKILL every 100 ms, 2 workers, 8 clients, no nginx", "0 refused, 0 timed out, each failure in flight on the killed", killStorm},
	{"front", "20 SIGKILLs a second on two instances behind production.conf", "0 failed of >= 50,000 GETs", frontStorm},
	{"killer", "GET /workerKiller through nginx until 1,000 were answered", "1,000 deaths, 0 replies lost, nobody ejected", workerKiller},
	{"massacre", "all workers killed at once, 100 times", "0 refused, longest gap <= 50 ms", massacre},
	{"master", "the master gets SIGKILL under load, 20 times", "0 failed, a new one in charge <= 300 ms", masterDeath},
	{"cost", "CPU per request against one plain Go process", "<= 1.10 times", cost},
	{"memory", "keeper and master together, PSS", "<= 24 MiB", memory},
	{"idle", "an idle instance with 64 workers", "< 0.5 % of a core", idle},
	{"output", "64 workers print 1 MiB/s each; 2 print all they can, and nobody reads the log", "master <= 48 MiB, ps and a respawn go on", chatter},
	{"crashloop", "workers that exit at once, for 30 s", "<= 12 starts a slot, master < 2 % of a core, control < 50 ms, heals", crashLoop},
}

func run() int {
	list := flag.Bool("list", false, "print the rows and run nothing")
	flag.Usage = func() {
		fmt.Fprint(flag.CommandLine.Output(), "usage: scripts/bench [flags] [row ...]\n")
		flag.PrintDefaults()
		printRows()
	}
	flag.Parse()
	if *list {
		printRows()
		return 0
	}
	chosen, err := choose(flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "scripts/bench:", err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	b, err := newBench()
	if err != nil {
		fmt.Fprintln(os.Stderr, "scripts/bench:", err)
		return 2
	}
	defer b.close()
	return b.runAll(ctx, chosen)
}

func printRows() {
	for _, r := range rows {
		fmt.Printf("  %-10s %s: %s\n", r.name, r.what, r.target)
	}
}

func choose(wanted []string) ([]row, error) {
	known := func(name string) bool {
		return slices.ContainsFunc(rows, func(r row) bool { return r.name == name })
	}
	for _, name := range wanted {
		if !known(name) {
			return nil, fmt.Errorf("there is no row %q (see scripts/bench --list)", name)
		}
	}
	return slices.DeleteFunc(slices.Clone(rows), func(r row) bool {
		return len(wanted) > 0 && !slices.Contains(wanted, r.name)
	}), nil
}

// bench is what the rows share.
type bench struct {
	binary string
	dir    string
	names  int
}

func newBench() (*bench, error) {
	binary, err := stage.Binary()
	if err != nil {
		return nil, err
	}
	dir, err := stage.NewDir("bench")
	if err != nil {
		return nil, err
	}
	return &bench{binary: binary, dir: dir}, nil
}

func (b *bench) close() { os.RemoveAll(b.dir) }

func (b *bench) runAll(ctx context.Context, chosen []row) int {
	fmt.Printf("%d CPUs, %s, %s\n", runtime.NumCPU(), runtime.Version(), time.Now().Format("2006-01-02 15:04"))
	code := 0
	for _, r := range chosen {
		began, dropped := time.Now(), droppedByFirewall()
		fmt.Printf("\n%-10s %s\n  target   %s\n", r.name, r.what, r.target)
		limited, cancel := context.WithTimeout(ctx, 3*time.Minute)
		got, err := r.run(limited, b)
		cancel()
		verdict := "kept"
		switch {
		case err != nil:
			verdict, got.measured, code = "NOT MEASURED", err.Error(), 1
		case !got.kept:
			verdict, code = "MISSED", 1
		}
		if n := droppedByFirewall() - dropped; n > 0 {
			got.notes = append(got.notes, fmt.Sprintf("DISTURBED: the machine's connection tracking was full and dropped %d packets (sysctl net.netfilter.nf_conntrack_max)", n))
		}
		fmt.Printf("  measured %s\n", got.measured)
		for _, note := range got.notes {
			fmt.Printf("           %s\n", note)
		}
		fmt.Printf("  verdict  %s (%v, load average %s)\n", verdict, time.Since(began).Round(time.Second), loadAverage())
		if ctx.Err() != nil {
			fmt.Println("\nstopped")
			return 1
		}
	}
	return code
}

// droppedByFirewall counts packets that nf_conntrack threw away since the
// machine started. It tracks loopback too wherever Docker has once run, and a
// dropped SYN looks like a server that hangs for a second.
func droppedByFirewall() uint64 {
	text, err := os.ReadFile("/proc/net/stat/nf_conntrack")
	if err != nil {
		return 0
	}
	var column int
	var sum uint64
	for i, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		fields := strings.Fields(line)
		if i == 0 {
			column = slices.Index(fields, "drop")
		} else if column >= 0 && column < len(fields) {
			n, _ := strconv.ParseUint(fields[column], 16, 64)
			sum += n
		}
	}
	return sum
}

func loadAverage() string {
	text, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(text), " ")
	return first
}

// ms spells a duration for the table.
func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", d.Seconds()*1000) }

// percentile is the nearest rank of samples in any order.
func percentile(samples []time.Duration, p float64) time.Duration {
	if len(samples) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(samples))
	rank := int(p/100*float64(len(sorted)) + 0.999999)
	return sorted[min(max(rank, 1), len(sorted))-1]
}

func median(samples []float64) float64 {
	if len(samples) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(samples))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

// and joins what was measured with a comma.
func and(parts ...string) string { return strings.Join(parts, ", ") }
