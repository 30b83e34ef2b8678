package main

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/spf13/cobra"

	"revenant/supervisor/control"
	"revenant/supervisor/event"
)

func upgradeCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "upgrade [flags]",
		Short: "Go over to another version of this program, without losing a request",
		Long: `Go over to another version of this program. It is checked and started beside the
running one: a new master and new workers on the same sockets. When all of them are
ready and have answered a request, they take connections and the former ones finish
what they have, for the drain timeout at most. When anything fails before that, the
former ones go on as if nothing had happened, and the exit code is 1.

For a while after it (--probation of revenant run) a new master that crashes, or
whose workers crash again and again, is followed by one of the former version,
whether or not its file is still there. SIGUSR2 to the instance does the same as
this command without flags.`,
		Example: "  revenant upgrade                            to what is in the file now that the instance was started from\n" +
			"  revenant upgrade --binary /opt/revenant-2\n  revenant upgrade --rollback                 to the version before",
	}
	binary := c.Flags().String("binary", "", "`FILE` to go over to (default the one that the running version was started from)")
	back := c.Flags().Bool("rollback", false, "go back to the version before, whether or not its file is still there")
	return operationCommand(c, func(ctx context.Context, client *control.Client, _ []string, do func(event.Event) error) error {
		if *back && *binary != "" {
			return codeError{exitUsage, errors.New("--rollback and --binary exclude each other (give one of them)")}
		}
		path := *binary
		if path != "" {
			// The instance has a working directory of its own.
			if absolute, err := filepath.Abs(path); err == nil {
				path = absolute
			}
		}
		return client.Upgrade(ctx, path, *back, do)
	})
}
