package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"revenant/supervisor"
	"revenant/supervisor/cgroup"
)

// configuration gives a command the settings of run, and the file as an argument
// besides. It returns them, and a function that reads and understands them all.
func configuration(c *cobra.Command) (s *settings, read func(args []string) (instanceOptions, error)) {
	s = addOptions(c.Flags(), runOptions...)
	c.Args = func(c *cobra.Command, args []string) error {
		if dash := c.ArgsLenAtDash(); dash >= 0 {
			args = args[:dash]
		}
		return cobra.MaximumNArgs(1)(c, args)
	}
	return s, func(args []string) (instanceOptions, error) {
		if dash := c.ArgsLenAtDash(); dash >= 0 {
			args, s.command = args[:dash], args[dash:]
		}
		if len(args) > 0 {
			if s.from(configOption.name) == fromFlag {
				return instanceOptions{}, seeHelp(c, fmt.Errorf("two configuration files, --config %s and %s", s.one("config"), args[0]))
			}
			if err := c.Flags().Set(configOption.name, args[0]); err != nil {
				return instanceOptions{}, err
			}
		}
		s.openFile(nil)
		return readOptions(s)
	}
}

func checkCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "check [flags] [FILE] [-- COMMAND ARG...]",
		Short: "Check the settings of an instance: a configuration file, flags and environment",
		Long: `Check whether revenant run would accept these settings: those in the configuration
file, the flags that are given here, and the environment. Everything that is wrong
is said at once; the exit code is 2 then. Nothing is started and nothing is bound.`,
		Example: "  revenant check /etc/revenant.toml && revenant reload",
	}
	_, read := configuration(c)
	c.RunE = func(_ *cobra.Command, args []string) error {
		o, err := read(args)
		if err == nil {
			err = checkProgram(o)
		}
		if err != nil {
			return err
		}
		_, err = fmt.Println(found(o))
		return err
	}
	return c
}

// found says in a line what the settings come to.
func found(o instanceOptions) string {
	where := "no configuration file"
	if o.settings.file != nil {
		where = o.settings.file.Name + " (" + count(len(o.settings.file.Entries), "setting") + ")"
	}
	addresses := make([]string, len(o.listen))
	for i, a := range o.listen {
		addresses[i] = a.String()
	}
	_, why := o.workers.Workers(cgroup.Self().CPUs())
	return fmt.Sprintf("ok: %s; instance %s on %s; %s", where, o.name, strings.Join(addresses, ", "), why)
}

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

func configCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "config [flags] [FILE] [-- COMMAND ARG...]",
		Short: "Print every setting, and where its value comes from",
		Long: `Print the settings that revenant run would have with this configuration file, these
flags and this environment, and for each where its value comes from; or those that
are in force in a running instance.`,
		Example: "  revenant config /etc/revenant.toml\n  revenant config --running --name one\n  revenant config -o json | jq '.[] | select(.from != \"default\")'",
	}
	output := addOutput(c, "table", "json")
	running := c.Flags().Bool("running", false, "print what is in force in the instance of --name (values of variables for the workers are not told)")
	s, read := configuration(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		format, err := output()
		if err != nil {
			return err
		}
		var list []supervisor.Setting
		if *running {
			list, err = inForce(c, s, args)
		} else if _, err = read(args); err == nil {
			list = effective(s)
		}
		switch {
		case err != nil:
			return err
		case format == "json":
			return json.NewEncoder(os.Stdout).Encode(list)
		}
		return printSettings(list)
	}
	return c
}

// inForce asks a running instance.
func inForce(c *cobra.Command, s *settings, args []string) ([]supervisor.Setting, error) {
	if len(args) > 0 {
		return nil, seeHelp(c, fmt.Errorf("unexpected argument %q: a running instance has its own settings", args[0]))
	}
	client, err := target(s)
	if err != nil {
		return nil, err
	}
	return client.Config(c.Context())
}

// settingNames are those of all settings of run.
func settingNames() []string {
	names := make([]string, 0, len(runOptions)+1)
	for _, o := range runOptions {
		names = append(names, o.name)
	}
	return append(names, commandKey)
}

// effective lists all settings of run.
func effective(s *settings) []supervisor.Setting {
	list := make([]supervisor.Setting, 0, len(runOptions))
	for _, name := range settingNames() {
		values, _ := s.get(name)
		if len(values) == 0 || slices.Equal(values, []string{""}) {
			values = []string{}
		}
		list = append(list, supervisor.Setting{Name: name, Values: values, From: string(s.from(name)), Where: s.where(name)})
	}
	return list
}

// where is the place of a setting as an operator looks for it, "" for a default.
func (s *settings) where(name string) string {
	switch s.from(name) {
	case fromFlag:
		return s.source(name, "")
	case fromEnvironment:
		return s.options[name].variable()
	case fromFile:
		return fmt.Sprintf("%s:%d", s.file.Name, s.file.Entries[name].Line)
	}
	return ""
}

func printSettings(list []supervisor.Setting) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SETTING\tVALUE\tFROM")
	for _, s := range list {
		separator := ","
		if s.Name == commandKey {
			separator = " "
		}
		value := strings.Join(s.Values, separator)
		if value == "" {
			value = "-"
		}
		from := s.Where
		if from == "" {
			from = s.From
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", s.Name, value, from)
	}
	return w.Flush()
}
