package supervisortest

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// ReadmeCommands are the lines of the README's shell blocks, which tests run.
func ReadmeCommands(tb testing.TB) []string {
	tb.Helper()
	text, err := os.ReadFile(filepath.Join(Root(), "README.md"))
	if err != nil {
		tb.Fatal(err)
	}
	var commands []string
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		for line := range strings.SplitSeq(strings.TrimSpace(block[1]), "\n") {
			commands = append(commands, line)
		}
	}
	return commands
}
