package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"revenant/supervisor/control"
	"revenant/supervisor/event"
)

func restartCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "restart WORKER|all [flags]",
		Short: "Replace a worker, or all, without losing a request",
		Long: `Replace a worker by its number (see revenant ps), or all of them slot by slot, with
the settings in force: the new one starts, becomes ready and answers a request
before the former one finishes what it has and leaves. When the new one does not
come up, the former one goes on serving and the exit code is 1.`,
		Example: "  revenant restart 3\n  revenant restart all",
		Args:    oneWorker,
	}
	return operationCommand(c, func(ctx context.Context, client *control.Client, args []string, do func(event.Event) error) error {
		id, err := strconv.ParseUint(args[0], 10, 64)
		if args[0] == "all" {
			id, err = 0, nil
		} else if err != nil || id == 0 {
			return codeError{exitUsage, usageError("WORKER", args[0], fmt.Errorf("neither the number of a worker nor all (see revenant ps)"))}
		}
		return client.Restart(ctx, id, do)
	})
}
