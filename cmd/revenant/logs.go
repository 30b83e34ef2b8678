package main

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"revenant/supervisor/control"
	"revenant/supervisor/output"
)

func logsCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "logs [WORKER] [flags]",
		Short: "Show what workers printed, and with -f what they print",
		Long: `Show what workers printed to stdout and stderr: when, generation, slot, worker,
stream, and the line. The master keeps the newest 4 MiB; all that was ever printed
is in the instance's own log. Control characters are made visible.`,
		Example: "  revenant logs -f\n  revenant logs 3 -n 20\n  revenant logs --since 10m --grep 'error|panic'\n  revenant logs -o json | jq .msg",
		Args:    cobra.MaximumNArgs(1),
	}
	target := addTarget(c)
	format := addOutput(c, "text", "json")
	follow := c.Flags().BoolP("follow", "f", false, "go on until the instance ends")
	newest := c.Flags().StringP("lines", "n", "all", "only the newest `N` of those that are there")
	since := c.Flags().String("since", "", "only what was printed since `TIME`: 10m ago, or 2026-01-02T15:04:05Z")
	grep := c.Flags().String("grep", "", "only lines that this `REGEXP` matches")
	c.RunE = func(c *cobra.Command, args []string) error {
		record, err := format()
		if err != nil {
			return err
		}
		q, err := logQuery(args, *newest, *since, *grep, time.Now())
		if err != nil {
			return err
		}
		q.Follow = *follow
		client, err := target()
		if err != nil {
			return err
		}
		return client.Logs(c.Context(), q, printLine(record))
	}
	return c
}

// logQuery understands what was asked for.
func logQuery(args []string, newest, since, grep string, now time.Time) (q control.LogQuery, err error) {
	wrong := func(name, value string, cause string) error {
		return codeError{exitUsage, usageError(name, value, fmt.Errorf("%s", cause))}
	}
	if len(args) > 0 {
		if q.Worker, err = strconv.ParseUint(args[0], 10, 64); err != nil || q.Worker == 0 {
			return q, wrong("WORKER", args[0], "not the number of a worker (see revenant ps)")
		}
	}
	q.Newest = -1
	if newest != "all" {
		if q.Newest, err = strconv.Atoi(newest); err != nil || q.Newest < 0 {
			return q, wrong("--lines", newest, "not a number of lines (write it like 20, or all)")
		}
	}
	if since != "" {
		if q.Since, err = moment(since, now); err != nil {
			return q, wrong("--since", since, "neither a duration nor a time (write it like 10m, or like 2026-01-02T15:04:05Z)")
		}
	}
	if grep != "" {
		if q.Grep, err = regexp.Compile(grep); err != nil {
			return q, wrong("--grep", grep, err.Error()+" (see https://pkg.go.dev/regexp/syntax)")
		}
	}
	return q, nil
}

// moment is a time, or how long ago it was.
func moment(value string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(value); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	return time.Parse(time.RFC3339, value)
}

func printLine(format string) func(control.LogLine) error {
	record := output.Line.AppendText
	if format == "json" {
		record = output.Line.AppendJSON
	}
	var text []byte
	return func(l control.LogLine) error {
		if l.Lost > 0 {
			fmt.Fprintf(os.Stderr, "revenant: %d lines are missing here: they were not read as fast as they came\n", l.Lost)
			return nil
		}
		text = record(l.Line(), text[:0])
		_, err := os.Stdout.Write(text)
		return err
	}
}
