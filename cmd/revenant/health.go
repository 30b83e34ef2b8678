package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"revenant/supervisor/control"
)

// healthLimit is how long a healthy instance may take to say so.
const healthLimit = 3 * time.Second

func healthCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "health [flags]",
		Short: "Exit with 0 when the instance can serve, 3 when it cannot, 4 when there is none",
		Long: `Tell by the exit code whether the instance can serve: 0 when at least one worker
is ready and the instance is not stopping, 3 otherwise, 4 when none is running.
For a container's HEALTHCHECK; it needs no shell and no curl.`,
	}
	target := addTarget(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		client, err := target()
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(c.Context(), healthLimit)
		defer cancel()
		status, err := client.Status(ctx)
		if silent := new(control.SilentError); errors.As(err, &silent) || errors.Is(err, control.ErrNoMaster) {
			return codeError{exitNotReady, err}
		}
		if err != nil {
			return err
		}
		fmt.Printf("%s: %d of %d workers ready\n", status.State, status.Ready, status.Desired)
		if !status.Healthy() {
			return exitWith(exitNotReady)
		}
		return nil
	}
	return c
}
