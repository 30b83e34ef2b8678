package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"revenant/supervisor"
	"revenant/supervisor/control"
	"revenant/supervisor/event"
)

func psCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "ps [flags]",
		Aliases: []string{"status"},
		Short:   "Show the instance: a verdict, then every slot and every worker that drains",
	}
	target := addTarget(c)
	output := addOutput(c, "table", "json")
	watch := c.Flags().BoolP("watch", "w", false, "show it again every second")
	c.RunE = func(c *cobra.Command, _ []string) error {
		format, err := output()
		if err != nil {
			return err
		}
		client, err := target()
		if err != nil {
			return err
		}
		if *watch {
			return watchStatus(c.Context(), client)
		}
		status, err := client.Status(c.Context())
		if err != nil {
			return err
		}
		if format == "json" {
			return json.NewEncoder(os.Stdout).Encode(status)
		}
		return printStatus(os.Stdout, status, nil, time.Now())
	}
	return c
}

// watchStatus redraws until it is interrupted or the instance is gone.
func watchStatus(ctx context.Context, client *control.Client) error {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	var before *supervisor.Status
	for {
		status, err := client.Status(ctx)
		if err != nil {
			return err
		}
		var page bytes.Buffer
		page.WriteString("\x1b[H\x1b[2J") // home, clear
		if err := printStatus(&page, status, before, time.Now()); err != nil {
			return err
		}
		if _, err := os.Stdout.Write(page.Bytes()); err != nil {
			return err
		}
		before = &status
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// printStatus prints the verdict and the table. With an earlier status, the CPU
// share is that of the time between the two; else that of the worker's life.
func printStatus(out io.Writer, s supervisor.Status, before *supervisor.Status, now time.Time) error {
	fmt.Fprintln(out, verdict(s, now))
	table := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "SLOT\tWORKER\tSTATE\tPID\tUP\tRESTARTS\tCPU\tMEM\tIN FLIGHT\tLAST EXIT\tNEXT")
	for _, w := range s.Workers {
		fmt.Fprintln(table, strings.Join(row(s, w, before, now), "\t"))
	}
	return table.Flush()
}

// verdict is the first line: how is it, and what should worry me?
func verdict(s supervisor.Status, now time.Time) string {
	parts := []string{fmt.Sprintf("%s %d/%d", strings.ToUpper(s.State), s.Ready, s.Desired), fmt.Sprintf("generation %d", s.Generation)}
	if s.State == "recovering" {
		parts = append(parts, fmt.Sprintf("%d workers of the master that died go on serving", s.Orphans))
	} else if draining := former(s); draining > 0 {
		parts = append(parts, fmt.Sprintf("%d draining", draining))
	}
	if op := s.Operation; op != nil {
		parts = append(parts, strings.TrimSuffix(fmt.Sprintf("%s by %s for %s: %s", op.Kind, op.Who, event.Humane(now.Sub(op.Since)), op.Step), ": "))
	}
	if text := failing(s, now); text != "" {
		parts = append(parts, text)
	}
	if u := s.Upgrade; u != nil && u.Outcome != "done" {
		parts = append(parts, fmt.Sprintf("last upgrade %s %s ago: %s", u.Outcome, event.Humane(now.Sub(u.Time)), u.Message))
	}
	if last := newestExit(s); last != nil {
		who := fmt.Sprintf("last exit worker %d", last.Worker)
		if last.Worker == 0 { // it never came to be
			who = "last start"
		}
		parts = append(parts, fmt.Sprintf("%s %s %s ago", who, last.Cause, event.Humane(now.Sub(last.Time))))
	}
	return strings.Join(append(parts, strings.Join(s.Listeners, " "), "instance "+s.Instance), " · ")
}

// failing names the slot that waits after failures, or counts them when there
// are several.
func failing(s supervisor.Status, now time.Time) string {
	var first *supervisor.WorkerStatus
	n := 0
	for i, w := range s.Workers {
		if w.NextStart == nil || w.Failures < 2 {
			continue
		}
		n++
		if first == nil || w.NextStart.Before(*first.NextStart) {
			first = &s.Workers[i]
		}
	}
	switch n {
	case 0:
		return ""
	case 1:
		return fmt.Sprintf("slot %d failed %d times, next try in %s", first.Slot, first.Failures, event.Humane(first.NextStart.Sub(now)))
	}
	return fmt.Sprintf("%d slots failed, next try in %s", n, event.Humane(first.NextStart.Sub(now)))
}

func former(s supervisor.Status) (n int) {
	for _, w := range s.Workers {
		if w.Former {
			n++
		}
	}
	return n
}

func newestExit(s supervisor.Status) *supervisor.LastExit {
	var newest *supervisor.LastExit
	for _, w := range s.Workers {
		if w.LastExit != nil && (newest == nil || w.LastExit.Time.After(newest.Time)) {
			newest = w.LastExit
		}
	}
	return newest
}

func row(s supervisor.Status, w supervisor.WorkerStatus, before *supervisor.Status, now time.Time) []string {
	state := w.State
	if w.WaitsFor != "" && w.State == "starting" {
		state += ": " + w.WaitsFor
	}
	if w.Successor {
		state += " (successor)"
	}
	if w.Generation != s.Generation {
		state += fmt.Sprintf(" (g%d)", w.Generation)
	}
	cells := []string{fmt.Sprint(w.Slot), "-", state, "-", "-", fmt.Sprint(w.Restarts), "-", "-", "-", lastExit(w, now), next(w, now)}
	if w.PID == 0 {
		return cells
	}
	cells[1], cells[3] = fmt.Sprint(w.Worker), fmt.Sprint(w.PID)
	if w.Uptime > 0 {
		cells[4] = event.Humane(time.Duration(w.Uptime * 1e6))
		cells[6] = fmt.Sprintf("%.1f%%", 100*cpuShare(w, before))
	}
	cells[7] = fmt.Sprintf("%.1fM", float64(w.RSS)/(1<<20))
	cells[8] = fmt.Sprint(w.InFlight)
	if w.Former || w.Successor {
		cells[5] = "-"
	}
	return cells
}

func cpuShare(w supervisor.WorkerStatus, before *supervisor.Status) float64 {
	cpu, span := w.CPU, w.Uptime/1000
	if before != nil {
		for _, b := range before.Workers {
			if b.Worker == w.Worker {
				cpu, span = w.CPU-b.CPU, (w.Uptime-b.Uptime)/1000
			}
		}
	}
	if span <= 0 {
		return 0
	}
	return cpu / span
}

func lastExit(w supervisor.WorkerStatus, now time.Time) string {
	if w.LastExit == nil {
		return "-"
	}
	text := fmt.Sprintf("%s %s ago", w.LastExit.Cause, event.Humane(now.Sub(w.LastExit.Time)))
	if w.LastExit.InFlight > 0 {
		text += fmt.Sprintf(" (%d in flight)", w.LastExit.InFlight)
	}
	return text
}

func next(w supervisor.WorkerStatus, now time.Time) string {
	switch {
	case w.NextStart != nil:
		return "start in " + event.Humane(w.NextStart.Sub(now))
	case w.Deadline != nil:
		return "cut in " + event.Humane(w.Deadline.Sub(now))
	}
	return "-"
}
