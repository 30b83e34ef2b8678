package main

import (
	"context"
	"log/slog"

	"github.com/spf13/cobra"

	"revenant/worker"
	"revenant/worker/app"
)

// appCommand is the built-in application: what workers run, and by hand the same
// server without a supervisor.
func appCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "app [flags]",
		Short: "Serve the built-in application without a supervisor",
		Long: `Serve the built-in application in one plain process. This is also what the
workers of an instance run, on the sockets that their master hands them.`,
	}
	s := addOptions(c.Flags(), runOptionsNamed("listen", "chaos", "chaos-token-file", "log-format")...)
	c.RunE = func(*cobra.Command, []string) error {
		var err error
		chaos := parse(s, &err, "chaos", boolean)
		token := parse(s, &err, "chaos-token-file", tokenIn)
		format := parse(s, &err, "log-format", oneOf("auto", "json", "pretty"))
		addresses := listenAddresses(s, &err)
		if err != nil {
			return err
		}
		names := make([]string, len(addresses))
		for i, a := range addresses {
			names[i] = a.String()
		}
		self := worker.Self()
		return worker.Run(context.Background(), app.New(app.Config{Identity: self, Chaos: chaos, Token: token}),
			worker.WithListen(names...), worker.WithLogger(workerLogger(format, self)))
	}
	return c
}

// workerLogger says which worker speaks, if it is one of several.
func workerLogger(format string, self worker.Identity) *slog.Logger {
	log := newLogger(format, "worker")
	if self.Supervised {
		log = log.With("worker", self.Worker, "slot", self.Slot)
	}
	return log
}

func runOptionsNamed(names ...string) []option {
	var found []option
	for _, name := range names {
		for _, o := range runOptions {
			if o.name == name {
				found = append(found, o)
			}
		}
	}
	return found
}
