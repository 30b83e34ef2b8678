package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"revenant/supervisor/event"
)

func eventsCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "events [flags]",
		Short:   "Show what happened, and with -f what happens",
		Example: "  revenant events -f\n  revenant events -o json | grep worker.exited",
	}
	target := addTarget(c)
	output := addOutput(c, "text", "json")
	follow := c.Flags().BoolP("follow", "f", false, "go on until the instance ends")
	since := c.Flags().Uint64("since", 0, "only what came after event number `ID`; a number that is not reached yet is that of an earlier instance")
	c.RunE = func(c *cobra.Command, _ []string) error {
		format, err := output()
		if err != nil {
			return err
		}
		client, err := target()
		if err != nil {
			return err
		}
		show := printEvent
		if format == "json" {
			show = printJSON
		}
		return client.Events(c.Context(), *since, *follow, func(e event.Event) error { return show(os.Stdout, e) })
	}
	return c
}

func printJSON(out io.Writer, e event.Event) error { return json.NewEncoder(out).Encode(e) }

// printEvent prints a line: when, what, and the facts.
func printEvent(out io.Writer, e event.Event) error {
	facts := make([]string, 0, 8)
	for _, a := range e.Attrs() {
		value := a.Value.String()
		if strings.ContainsAny(value, " \t\"") {
			value = fmt.Sprintf("%q", value)
		}
		facts = append(facts, a.Key+"="+value)
	}
	_, err := fmt.Fprintf(out, "%s  %-17s %s\n", e.Time.Local().Format("15:04:05.000"), e.Kind, strings.Join(facts, " "))
	return err
}
