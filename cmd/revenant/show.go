package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"revenant/supervisor"
	"revenant/supervisor/event"
)

func showCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "show WORKER [flags]",
		Short: "Show all of one worker, living or dead: how it is, why it ended, what it printed last",
		Long: `Show all that there is to say of one worker by its number (see revenant ps and
revenant events). Of those that ended the master remembers the newest 64.`,
		Example: "  revenant show 3",
		Args:    oneWorker,
	}
	target := addTarget(c)
	output := addOutput(c, "text", "json")
	c.RunE = func(c *cobra.Command, args []string) error {
		id, err := strconv.ParseUint(args[0], 10, 64)
		if err != nil {
			return codeError{exitUsage, usageError("WORKER", args[0], fmt.Errorf("not the number of a worker (see revenant ps)"))}
		}
		format, err := output()
		if err != nil {
			return err
		}
		client, err := target()
		if err != nil {
			return err
		}
		r, err := client.Show(c.Context(), id)
		if err != nil {
			return err
		}
		if format == "json" {
			return json.NewEncoder(os.Stdout).Encode(r)
		}
		return printReport(os.Stdout, r, time.Now())
	}
	return c
}

// printReport prints a line for each fact, and then what the worker printed.
func printReport(out io.Writer, r supervisor.Report, now time.Time) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fact := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	fact("worker", "%d", r.Worker)
	fact("slot", "%d", r.Slot)
	fact("generation", "%d", r.Generation)
	fact("pid", "%d", r.PID)
	fact("state", "%s", r.State)
	if r.WaitsFor != "" {
		fact("waits for", "%s", r.WaitsFor)
	}
	if r.Exit != nil {
		planned := "not planned"
		if r.Exit.Planned {
			planned = "planned"
		}
		fact("cause", "%s", r.Exit.Cause)
		fact("ended", "%s, %s ago, %s", r.Ended.Local().Format("15:04:05.000"), event.Humane(now.Sub(*r.Ended)), planned)
	}
	if r.Detail != "" {
		fact("why", "%s", r.Detail)
	}
	if !r.Started.IsZero() {
		fact("started", "%s", r.Started.Local().Format("15:04:05.000"))
	}
	if r.Uptime > 0 { // of one whose end nobody saw it is not known
		fact("uptime", "%s", event.Humane(time.Duration(r.Uptime*1e6)))
	}
	fact("in flight", "%d", r.InFlight)
	fact("requests", "%d", r.Requests)
	if r.Exit == nil {
		fact("cpu", "%.2fs", r.CPU)
		fact("memory", "%.1fM", float64(r.RSS)/(1<<20))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if len(r.LastLines) == 0 {
		return nil
	}
	fmt.Fprintf(out, "printed last (more: revenant logs %d):\n", r.Worker)
	for _, line := range r.LastLines {
		fmt.Fprintln(out, "  "+line)
	}
	return nil
}
