package main

import (
	"strings"

	"github.com/spf13/cobra"

	"revenant/supervisor/notify"
)

// command is the tree of subcommands, a file for each. role says what a parent
// started this process as.
func command(role string) *cobra.Command {
	root := &cobra.Command{
		Use:   "revenant",
		Short: "A web server that does not stay dead: one worker per CPU, revived in milliseconds",
		Long: `revenant keeps a web server alive. A keeper starts a master, the master starts
one worker process per CPU on a shared listening socket, and whatever dies is
replaced while the others go on serving.`,
		Example: `  revenant run                              serve the built-in application on 127.0.0.1:3000
  revenant run --listen tcp://0.0.0.0:80 --workers 4
  revenant ps --watch                       who lives, who died and why
  revenant events -f                        what happens, as it happens
  revenant stop                             drain and end`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return codeError{exitUsage, err}
	})
	root.AddCommand(runCommand(role == notify.RoleMaster), appCommand(), psCommand(), eventsCommand(),
		killCommand(), healthCommand(), stopCommand(), versionCommand())
	for _, c := range root.Commands() {
		c.SetUsageTemplate(strings.Replace(c.UsageTemplate(), "LocalFlags.FlagUsages", "LocalFlags.FlagUsagesWrapped 100", 1))
		c.DisableFlagsInUseLine = true
		if c.Args == nil {
			c.Args = cobra.NoArgs
		}
		c.Args = usageErrors(c.Args)
	}
	return root
}

// usageErrors gives errors about arguments the exit code for wrong usage.
func usageErrors(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if err := check(c, args); err != nil {
			return codeError{exitUsage, err}
		}
		return nil
	}
}
