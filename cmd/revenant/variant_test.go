package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"revenant/supervisor/supervisortest"
)

// defects is a build of this program in which something is wrong: what, its file's
// name says. It is made once, without the race detector.
var defects = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "revenant-defect-")
	if err != nil {
		return "", err
	}
	defectsDir = dir
	here := filepath.Join(supervisortest.Root(), "cmd", "revenant")
	text, err := os.ReadFile(filepath.Join(here, "app.go"))
	if err != nil {
		return "", err
	}
	changed := filepath.Join(dir, "app.go")
	err = os.WriteFile(changed, []byte(strings.Replace(string(text), "app.New(app.Config{", "defective(app.Config{", 1)), 0o600)
	if err != nil {
		return "", err
	}
	overlay, _ := json.Marshal(map[string]any{"Replace": map[string]string{
		filepath.Join(here, "app.go"):    changed,
		filepath.Join(here, "defect.go"): filepath.Join(here, "testdata", "defect.go.txt"),
	}})
	if err := os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o600); err != nil {
		return "", err
	}
	path := filepath.Join(dir, "revenant")
	c := exec.Command("go", "build", "-ldflags", "-X main.release=defective", "-overlay", filepath.Join(dir, "overlay.json"), "-o", path, ".")
	c.Dir, c.Stderr = here, os.Stderr
	return path, c.Run()
})

// defectsDir is where that is, "" while there is none.
var defectsDir string

// variant is the path of a program with the defect.
func variant(t testing.TB, defect string) string {
	t.Helper()
	path, err := defects()
	if err != nil {
		t.Fatal(err)
	}
	named := filepath.Join(t.TempDir(), defect)
	copyFile(t, path, named, 0o755)
	return named
}

// copyFile makes a copy of a program, which may then be changed or removed.
func copyFile(t testing.TB, from, to string, mode os.FileMode) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	write(t, to, text, mode)
}

func write(t testing.TB, path string, text []byte, mode os.FileMode) {
	t.Helper()
	draft := path + ".draft"
	if err := os.WriteFile(draft, text, mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(draft, path); err != nil {
		t.Fatal(err)
	}
}
