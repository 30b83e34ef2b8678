package scripts

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"revenant/supervisor/supervisortest"
)

// The small form of what scripts/soak examples does at length.
func TestExamplesServeThroughKillsAReloadAndTERM(t *testing.T) {
	p := newPicture(t)
	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	defer cancel()
	out, err := p.command(ctx, "soak", "examples", "--requests", "600", "--rate", "200", "--kills", "1", "--freezes", "0", "--reloads", "1", "--upgrades", "0").CombinedOutput()
	if err != nil || strings.Contains(string(out), "BROKEN") {
		t.Errorf("scripts/soak examples: %v", err)
	}
	for _, name := range []string{"nethttp", "echo", "node", "gunicorn", "uvicorn", "uvicorn-command", "nginx"} {
		t.Run(name, func(t *testing.T) {
			if why := regexp.MustCompile(`(?m)^SKIPPED, NOT TESTED: ` + name + `: .*$`).Find(out); why != nil {
				t.Skip(string(why))
			}
			for _, what := range []string{", each request on a new connection", ", on kept connections"} {
				if !regexp.MustCompile(`(?m)^(kept|MISSED) +` + name + what + `$`).Match(out) {
					t.Errorf("nothing is said of %s%s", name, what)
				}
			}
		})
	}
	t.Logf("%s", out)
}

func TestExamplesAreShort(t *testing.T) {
	files := 0
	imports := regexp.MustCompile(`(?s)import \(.*?\n\)|(?m)^const \w+ = require.*$|(?m)^import \w+$`)
	err := filepath.WalkDir(filepath.Join(supervisortest.Root(), "worker", "examples"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files++
		lines := 0
		for line := range strings.Lines(imports.ReplaceAllString(string(text), "")) {
			line = strings.TrimSpace(line)
			if line != "" && !strings.HasPrefix(line, "//") && !strings.HasPrefix(line, "#") {
				lines++
			}
		}
		if lines > 20 {
			t.Errorf("%s has %d lines", path, lines)
		}
		return nil
	})
	if err != nil || files < 6 {
		t.Errorf("%d examples: %v", files, err)
	}
}
