// Command chaos is a kill storm against a running demo, with every request
// counted. It exits with 1 when the promise is broken: through nginx no GET may
// fail; on one instance directly only what was in flight on a worker when it
// was killed, and never by refusal or time-out.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"revenant/scripts/internal/stage"
	"revenant/scripts/ledger"
)

func main() {
	os.Exit(run())
}

// storm is what the operator asked for.
type storm struct {
	duration  time.Duration
	every     time.Duration
	clients   int
	rate      float64
	keepAlive bool
	direct    bool
	signal    string
}

func run() int {
	var s storm
	flag.DurationVar(&s.duration, "duration", 10*time.Second, "how long")
	flag.DurationVar(&s.every, "every", 50*time.Millisecond, "time between two kills, over all instances")
	flag.IntVar(&s.clients, "clients", 8, "clients side by side")
	flag.Float64Var(&s.rate, "rate", 0, "requests per second, all together; 0: each client asks as soon as it was answered")
	flag.BoolVar(&s.keepAlive, "keep-alive", false, "keep connections instead of a new one for each request")
	flag.BoolVar(&s.direct, "direct", false, "against instance one directly, without nginx")
	flag.StringVar(&s.signal, "signal", "KILL", "KILL, SEGV, ABRT or TERM")
	flag.Usage = func() {
		fmt.Fprint(flag.CommandLine.Output(), "usage: scripts/chaos [flags]     (while scripts/demo runs)\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	kept, err := s.run(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "scripts/chaos:", err)
		return 2
	}
	if !kept {
		return 1
	}
	return 0
}

var signals = map[string]syscall.Signal{
	"KILL": syscall.SIGKILL, "SEGV": syscall.SIGSEGV, "ABRT": syscall.SIGABRT, "TERM": syscall.SIGTERM,
}

func (s storm) run(ctx context.Context) (kept bool, err error) {
	signal, ok := signals[strings.TrimPrefix(strings.ToUpper(s.signal), "SIG")]
	if !ok || s.duration <= 0 || s.every <= 0 {
		return false, fmt.Errorf("--signal %s --duration %v --every %v: the signal is KILL, SEGV, ABRT or TERM, and the times are more than 0", s.signal, s.duration, s.every)
	}
	watches, target, err := s.find(ctx)
	for _, watch := range watches {
		defer watch.Close()
	}
	if err != nil {
		return false, err
	}
	fmt.Printf("%d clients on %s for %v, a SIG%s every %v\n", s.clients, target, s.duration, strings.TrimPrefix(strings.ToUpper(s.signal), "SIG"), s.every)

	// The storm is over before the load: what the last kill did is seen.
	storming, calm := context.WithTimeout(ctx, s.duration-min(s.duration/10, 500*time.Millisecond))
	defer calm()
	type result struct {
		report ledger.Report
		err    error
	}
	loaded := make(chan result, 1)
	// Ends with its duration, or with ctx; received below.
	go func() {
		report, err := ledger.Load{
			Target: target, Duration: s.duration, Clients: s.clients, Rate: s.rate, KeepAlive: s.keepAlive, Stop: ctx.Done(),
		}.Run(context.WithoutCancel(ctx))
		loaded <- result{report, err}
	}()
	strikes, strikeErr := stage.Storm{Watches: watches, Every: s.every, Signal: signal}.Run(storming)
	load := <-loaded
	if err := errors.Join(load.err, strikeErr); err != nil {
		return false, err
	}
	waiting, cancel := context.WithTimeout(context.WithoutCancel(ctx), 40*time.Second)
	defer cancel()
	exits, err := stage.Exits(waiting, strikes)
	if err != nil {
		return false, err
	}
	return s.judge(load.report, exits), nil
}

// find follows the running instances and says where the load goes.
func (s storm) find(ctx context.Context) (watches []*stage.Watch, target string, err error) {
	picture, err := stage.PictureFromEnv()
	if err != nil {
		return nil, "", err
	}
	binary, err := stage.Binary()
	if err != nil {
		return nil, "", err
	}
	count, target := 2, stage.Target(picture.Ports.Front)
	if s.direct {
		count, target = 1, stage.Target(picture.Ports.Instances[0])
	}
	for i := range count {
		watch, err := picture.Instance(binary, i).Watch(ctx)
		if err != nil {
			return watches, "", fmt.Errorf("%w (is scripts/demo running?)", err)
		}
		watches = append(watches, watch)
	}
	return watches, target, nil
}

// judge prints the books and says whether the promise was kept.
func (s storm) judge(report ledger.Report, exits []stage.Event) bool {
	gap, at := report.LongestGap()
	account := stage.AccountFor(report.Failures, exits, s.keepAlive)
	fmt.Printf("sent         %d (%.0f answered per second)\n", report.Sent(), report.Rate())
	fmt.Printf("answered     %d (p50 %v, p99 %v, max %v)\n", report.Counts[ledger.Answered], report.Percentile(50), report.Percentile(99), report.Percentile(100))
	fmt.Printf("failed       %d (%s)\n", report.Failed(), report.Kinds())
	fmt.Printf("kills        %d\n", len(exits))
	fmt.Printf("longest gap  %v, %v after the start\n", gap.Round(time.Microsecond), at.Sub(report.Begin).Round(time.Millisecond))
	fmt.Printf("accounts     %s\n", account)
	for i, failure := range report.Failures {
		if i == 10 {
			fmt.Printf("             and %d more\n", len(report.Failures)-i)
			break
		}
		fmt.Printf("             %v at %v\n", failure, failure.End.Format("15:04:05.000"))
	}
	broken := s.broken(report, account, len(exits))
	if broken == "" {
		fmt.Println("The promise was kept.")
		return true
	}
	fmt.Printf("THE PROMISE IS BROKEN: %s\n", broken)
	return false
}

func (s storm) broken(report ledger.Report, account stage.Account, kills int) string {
	switch {
	case kills == 0:
		return "nobody was killed, so nothing was proved"
	case report.Counts[ledger.Answered] == 0:
		return "nobody was answered"
	case !s.direct && report.Failed() > 0:
		return fmt.Sprintf("%d requests failed behind nginx", report.Failed())
	case len(account.Open) > 0:
		return fmt.Sprintf("%d requests failed without having been in flight on a worker that was killed", len(account.Open))
	default:
		return ""
	}
}
