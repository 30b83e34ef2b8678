package watch

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// inBothWays runs a test with events and with polling. next is what changed, by
// name.
func inBothWays(t *testing.T, files map[string]string, test func(t *testing.T, dir string, next func() []string)) {
	for name, poll := range map[string]time.Duration{"inotify": 0, "polling": 5 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			place(t, dir, files)
			w, err := New(Config{Roots: []string{dir}, Delay: 20 * time.Millisecond, Poll: poll})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(w.Close)
			if !strings.HasPrefix(w.How(), name) {
				t.Skipf("SKIPPED, NOT TESTED: %s here is %s", name, w.How())
			}
			test(t, dir, func() []string { return nextOf(t, w, dir) })
		})
	}
}

func nextOf(t *testing.T, w *Watcher, dir string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	paths, err := w.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for i, path := range paths {
		paths[i], _ = filepath.Rel(dir, path)
	}
	return paths
}

func expect(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("changed are %q, want %q", got, want)
	}
}

func TestWhatIsNewDifferentOrGoneIsTold(t *testing.T) {
	inBothWays(t, map[string]string{"main.go": "1", "gone": ""}, func(t *testing.T, dir string, next func() []string) {
		place(t, dir, map[string]string{"main.go": "22"})
		expect(t, next(), "main.go")
		if err := os.Remove(filepath.Join(dir, "gone")); err != nil {
			t.Fatal(err)
		}
		expect(t, next(), "gone")
		place(t, dir, map[string]string{"new": ""})
		expect(t, next(), "new")
	})
}

// As a checkout of another branch does, or a generator that begins with rm -r.
func TestFolderThatWasReplacedByAnotherOneOfItsNameIsWatchedStill(t *testing.T) {
	away := map[string]func(dir, elsewhere string) error{
		"removed": func(dir, _ string) error { return os.RemoveAll(filepath.Join(dir, "a")) },
		"moved": func(dir, elsewhere string) error {
			return os.Rename(filepath.Join(dir, "a"), filepath.Join(elsewhere, "a"))
		},
	}
	for how, away := range away {
		t.Run(how, func(t *testing.T) {
			inBothWays(t, map[string]string{"a/b/c": "1"}, func(t *testing.T, dir string, next func() []string) {
				if err := away(dir, t.TempDir()); err != nil {
					t.Fatal(err)
				}
				place(t, dir, map[string]string{"a/b/c": "22"})
				expect(t, next(), "a/b/c")
				place(t, dir, map[string]string{"a/b/c": "333"})
				expect(t, next(), "a/b/c")
			})
		})
	}
}

func TestNewFoldersAreWatchedToo(t *testing.T) {
	inBothWays(t, map[string]string{"main.go": ""}, func(t *testing.T, dir string, next func() []string) {
		place(t, dir, map[string]string{"a/b/c": ""})
		expect(t, next(), "a/b/c")
		place(t, dir, map[string]string{"a/b/c": "more"})
		expect(t, next(), "a/b/c")
		if err := os.RemoveAll(filepath.Join(dir, "a")); err != nil {
			t.Fatal(err)
		}
		expect(t, next(), "a/b/c")
		place(t, dir, map[string]string{"a/b/d": ""})
		expect(t, next(), "a/b/d")
	})
}

func TestIgnoredFileIsNoChangeUntilItIsNoLongerIgnored(t *testing.T) {
	inBothWays(t, map[string]string{".gitignore": "*.out\nlogs/\n", "logs/": ""}, func(t *testing.T, dir string, next func() []string) {
		place(t, dir, map[string]string{"x.out": "1", "logs/today": "1", ".git/index": "1", "a.log": "", "main.go": ""})
		expect(t, next(), "main.go")
		place(t, dir, map[string]string{".gitignore": "logs/\n"})
		expect(t, next(), ".gitignore", "x.out")
		place(t, dir, map[string]string{"x.out": "22"})
		expect(t, next(), "x.out")
	})
}

// As vim does it: a test file comes and goes, the text is written beside the file
// and renamed over it.
func TestFileThatAnEditorReplacedHasChanged(t *testing.T) {
	inBothWays(t, map[string]string{"main.go": "1"}, func(t *testing.T, dir string, next func() []string) {
		place(t, dir, map[string]string{"4913": "", "main.go.new": "2"})
		_ = os.Remove(filepath.Join(dir, "4913"))
		if err := os.Rename(filepath.Join(dir, "main.go.new"), filepath.Join(dir, "main.go")); err != nil {
			t.Fatal(err)
		}
		for !slices.Contains(next(), "main.go") { // what came and went may be seen on a slow machine
		}
	})
}

func TestChangeOfTheModeAloneIsNone(t *testing.T) {
	inBothWays(t, map[string]string{"a": "1", "b": "1"}, func(t *testing.T, dir string, next func() []string) {
		if err := os.Chmod(filepath.Join(dir, "a"), 0o600); err != nil {
			t.Fatal(err)
		}
		place(t, dir, map[string]string{"b": "22"})
		expect(t, next(), "b")
	})
}

func TestOneFileIsWatchedAlsoWhenItIsReplaced(t *testing.T) {
	dir := t.TempDir()
	place(t, dir, map[string]string{"one": "1", "other": "1"})
	w, err := New(Config{Roots: []string{filepath.Join(dir, "one")}, Delay: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	place(t, dir, map[string]string{"other": "22", "new": "333"})
	if err := os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, "one")); err != nil {
		t.Fatal(err)
	}
	expect(t, nextOf(t, w, dir), "one")
}

func TestFolderThatIsMissingAtTheStartIsAnError(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	_, err := New(Config{Roots: []string{missing}})
	if err == nil || err.Error() != "cannot watch "+missing+": no such file or directory" {
		t.Errorf("%v", err)
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	inBothWays(t, nil, func(t *testing.T, dir string, _ func() []string) {
		w, err := New(Config{Roots: []string{dir}, Poll: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := w.Next(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	})
}
