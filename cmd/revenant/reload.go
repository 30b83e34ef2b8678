package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"revenant/supervisor/control"
	"revenant/supervisor/event"
)

func reloadCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "reload [flags]",
		Short: "Read the settings again and replace every worker, without losing a request",
		Long: `Read the settings again, show what differs, and replace every worker, slot by slot:
the new one starts, becomes ready and answers a request before the former one
finishes what it has and leaves. Wrong settings are refused as a whole. When a new
worker does not come up, the reload stops there: the former workers go on serving,
the former settings are in force again, and the exit code is 1. SIGHUP to the
instance does the same, without the words.`,
	}
	return operationCommand(c, func(ctx context.Context, client *control.Client, _ []string, do func(event.Event) error) error {
		return client.Reload(ctx, do)
	})
}

// operationCommand gives a command the flags and the output of an operation:
// its steps as they happen, and its outcome as the exit code.
func operationCommand(c *cobra.Command, operate func(context.Context, *control.Client, []string, func(event.Event) error) error) *cobra.Command {
	target := addTarget(c)
	output := addOutput(c, "text", "json")
	c.RunE = func(c *cobra.Command, args []string) error {
		format, err := output()
		if err != nil {
			return err
		}
		client, err := target()
		if err != nil {
			return err
		}
		show := printStep
		if format == "json" {
			show = printJSON
		}
		return operate(c.Context(), client, args, func(e event.Event) error { return show(os.Stdout, e) })
	}
	return c
}

// printStep prints a step for people. That it failed is said by the error.
func printStep(out io.Writer, e event.Event) error {
	text := e.Message
	switch {
	case e.Kind == event.OperationStarted || e.Kind == event.OperationFailed:
		return nil
	case e.Kind == event.OperationDone:
		text = "done: " + text
	case e.Start > 0:
		text += fmt.Sprintf(" (%.0f ms)", e.Start)
	}
	_, err := fmt.Fprintln(out, strings.TrimSpace(text))
	return err
}
