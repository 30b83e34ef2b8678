package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime/debug"

	"github.com/spf13/cobra"

	"revenant/supervisor"
)

// release is set by the linker for releases (-X main.release=v1.2.3).
var release = ""

// version is the release, or what the build knows of its source.
func version() string {
	if release != "" {
		return release
	}
	revision, dirty := "", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision":
				revision = s.Value[:min(12, len(s.Value))]
			case s.Key == "vcs.modified" && s.Value == "true":
				dirty = "+dirty"
			}
		}
	}
	if revision == "" {
		return "devel"
	}
	return "devel-" + revision + dirty
}

func versionCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "version [flags]",
		Short: "Print the version of this binary, and of the running instance if there is one",
	}
	target := addTarget(c)
	output := addOutput(c, "text", "json")
	c.RunE = func(c *cobra.Command, _ []string) error {
		format, err := output()
		if err != nil {
			return err
		}
		if format == "json" { // of this binary alone: a running instance asks before an upgrade
			return json.NewEncoder(os.Stdout).Encode(supervisor.About{Version: version(), Takeover: supervisor.Takeover})
		}
		fmt.Printf("revenant %s\n", version())
		if client, err := target(); err == nil {
			if status, err := client.Status(c.Context()); err == nil {
				fmt.Printf("instance %s (%s) runs %s, generation %d\n", status.Name, status.Instance, status.Version, status.Generation)
			}
		}
		return nil
	}
	return c
}
