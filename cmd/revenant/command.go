package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"revenant/supervisor/notify"
)

// commands is the tree of subcommands, a file for each. role says what a parent
// started this process as.
func commands(role string) *cobra.Command {
	root := &cobra.Command{
		Use:   "revenant",
		Short: "A web server that does not stay dead: one worker per CPU, revived in milliseconds",
		Long: `revenant keeps a web server alive. A keeper starts a master, the master starts
one worker process per CPU on a shared listening socket, and whatever dies is
replaced while the others go on serving.`,
		Example: `  revenant run                              serve the built-in application on 127.0.0.1:3000
  revenant run --listen tcp://0.0.0.0:80 --workers 4
  revenant dev -- python3 app.py            develop: reload when a file changes
  revenant ps --watch                       who lives, who died and why
  revenant events -f                        what happens, as it happens
  revenant stop                             drain and end`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.SetFlagErrorFunc(seeHelp)
	root.SetArgs(negativeLast(os.Args[1:]))
	// The library's own check of the word would give another exit code and a page.
	root.Args = cobra.ArbitraryArgs
	root.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return c.Help()
		}
		return seeHelp(c, fmt.Errorf("there is no command %q%s", args[0], meant(c.SuggestionsFor(args[0]))))
	}
	root.AddCommand(
		runCommand(role == notify.RoleMaster),
		devCommand(role),
		appCommand(),
		psCommand(),
		showCommand(),
		eventsCommand(),
		logsCommand(),
		reloadCommand(),
		upgradeCommand(),
		restartCommand(),
		scaleCommand(),
		killCommand(),
		healthCommand(),
		stopCommand(),
		checkCommand(),
		configCommand(),
		versionCommand(),
	)
	for _, c := range root.Commands() {
		c.SetUsageTemplate(strings.Replace(c.UsageTemplate(), "LocalFlags.FlagUsages", "LocalFlags.FlagUsagesWrapped 100", 1))
		c.DisableFlagsInUseLine = true
		if c.Args == nil {
			c.Args = noArguments
		}
		c.Args = usageErrors(c.Args)
	}
	return root
}

// usageErrors gives errors about arguments the exit code for wrong usage.
func usageErrors(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if err := check(c, args); err != nil {
			return seeHelp(c, err)
		}
		return nil
	}
}

// seeHelp is the one form of an error about what no option can name.
func seeHelp(c *cobra.Command, err error) error {
	return codeError{exitUsage, fmt.Errorf("%w (see %s --help)", err, c.CommandPath())}
}

func meant(words []string) string {
	if len(words) == 0 {
		return ""
	}
	return ", did you mean " + words[0] + "?"
}

func noArguments(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("unexpected argument %q", args[0])
	}
	return nil
}
