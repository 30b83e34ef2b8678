package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"revenant/supervisor/control"
	"revenant/supervisor/event"
)

func scaleCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "scale N|+N|-N [flags]",
		Short: "Change the number of workers, without losing a request",
		Long: `Change the number of workers to N, or by +N or -N. It waits until the new ones have
answered a request; when one cannot, the number is what it was before and the exit
code is 1. Those that are too many finish what they have. The number holds until
the instance ends or a reload brings another. SIGTTIN and SIGTTOU to the instance
are +1 and -1.`,
		Example: "  revenant scale 4\n  revenant scale +1\n  revenant scale -1",
		Args:    oneNumber,
	}
	return operationCommand(c, func(ctx context.Context, client *control.Client, args []string, do func(event.Event) error) error {
		n, err := strconv.Atoi(args[0])
		relative := strings.HasPrefix(args[0], "+") || strings.HasPrefix(args[0], "-")
		if err != nil || !relative && n < 1 || n == 0 {
			return codeError{exitUsage, usageError("N", args[0], fmt.Errorf("not a number of workers (write 4, +1 or -1)"))}
		}
		return client.Scale(ctx, n, relative, do)
	})
}

// negativeLast moves the -1 of "scale -1" behind a --, for it is no flag.
func negativeLast(args []string) []string {
	if len(args) == 0 || args[0] != "scale" {
		return args
	}
	for n, arg := range args {
		if number, err := strconv.Atoi(arg); err == nil && number < 0 && !slices.Contains(args[:n], "--") {
			return append(slices.Delete(slices.Clone(args), n, n+1), "--", arg)
		}
	}
	return args
}

func oneNumber(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("one N is needed, not %d", len(args))
	}
	return nil
}
