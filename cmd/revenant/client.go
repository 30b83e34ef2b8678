package main

import (
	"github.com/spf13/cobra"

	"revenant/supervisor/control"
)

// addTarget gives a client command the flags that name an instance, and returns
// the way to it.
func addTarget(c *cobra.Command) func() (*control.Client, error) {
	s := addOptions(c.Flags(), nameOption, runtimeDirOption)
	return func() (*control.Client, error) { return target(s) }
}

// target is the way to the instance that the settings name.
func target(s *settings) (*control.Client, error) {
	var err error
	name := parse(s, &err, "name", instanceName)
	if err != nil {
		return nil, err
	}
	dir := instanceDir(s, name)
	return control.Dial(controlSocket(dir), func() bool { return claimed(dir) }), nil
}

// addOutput gives a command -o with the words it knows; the first is the default.
func addOutput(c *cobra.Command, words ...string) func() (string, error) {
	value := c.Flags().StringP("output", "o", words[0], "how to print: `FORMAT` is "+joinOr(words))
	return func() (string, error) {
		word, err := oneOf(words...)(*value)
		if err != nil {
			return "", codeError{exitUsage, usageError("--output", *value, err)}
		}
		return word, nil
	}
}
