package main

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"revenant/supervisor/control"
)

func killCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "kill WORKER [flags]",
		Short: "End a worker; its slot is filled again",
		Long: `End a worker by its number (see revenant ps). By default it finishes its requests
while its successor already starts; with --signal KILL it is gone at once and its
requests with it. Either way the exit counts as requested, not as a crash.`,
		Example: "  revenant kill 3\n  revenant kill 3 --signal KILL",
		Args:    oneWorker,
	}
	target := addTarget(c)
	name := c.Flags().StringP("signal", "s", "TERM", "the `NAME` of the signal: TERM, KILL, INT, QUIT, ABRT, SEGV, STOP or CONT")
	c.RunE = func(c *cobra.Command, args []string) error {
		id, err := strconv.ParseUint(args[0], 10, 64)
		if err != nil {
			return codeError{exitUsage, usageError("WORKER", args[0], fmt.Errorf("not the number of a worker (see revenant ps)"))}
		}
		if _, err := control.Signal(*name); err != nil {
			return codeError{exitUsage, usageError("--signal", *name, err)}
		}
		client, err := target()
		if err != nil {
			return err
		}
		if err := client.Kill(c.Context(), id, *name); err != nil {
			return err
		}
		fmt.Printf("worker %d: sent %s\n", id, *name)
		return nil
	}
	return c
}

func oneWorker(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("one WORKER is needed, not %d", len(args))
	}
	return nil
}
