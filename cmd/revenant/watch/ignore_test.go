package watch

import (
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// place puts files in their places, each in one step; a name that ends with / is
// a folder.
func place(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, "/") {
			continue
		}
		draft := dir + ".draft"
		if err := errors.Join(os.WriteFile(draft, []byte(text), 0o644), os.Rename(draft, path)); err != nil {
			t.Fatal(err)
		}
	}
}

// seen are the files that a watcher of dir sees, by name.
func seen(t testing.TB, dir string, ignore ...string) []string {
	t.Helper()
	w, err := New(Config{Roots: []string{dir}, Ignore: ignore, Poll: 1})
	if err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for path := range w.last.files {
		name, err := filepath.Rel(dir, path)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// git is what git says of the same folder.
func git(t testing.TB, dir string, args ...string) string {
	t.Helper()
	c := exec.Command("git", args...)
	c.Dir = dir
	c.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	out, err := c.Output()
	if err != nil {
		t.Fatalf("git %s: %v", strings.Join(args, " "), err)
	}
	return string(out)
}

func untracked(t testing.TB, dir string) []string {
	t.Helper()
	names := strings.FieldsFunc(git(t, dir, "ls-files", "--others", "--exclude-standard", "-z"), func(r rune) bool { return r == 0 })
	slices.Sort(names)
	return names
}

func TestFilesThatGitIgnoresAreNotSeen(t *testing.T) {
	dir := t.TempDir()
	git(t, dir, "init", "-q")
	place(t, dir, map[string]string{
		".gitignore":        "*.out\n!keep.out\nbuild/\n/only-here\ndocs/*.html\n!docs/index.html\n# comment\n\\#file\n**/deep\na/**/z\nspace\\ \ntrailing   \n[ab].c\n?.h\nlogs\n",
		".git/info/exclude": "excluded\n",
		"x.out":             "", "keep.out": "", "main.go": "",
		"build/app": "", "build/keep.out": "", "sub/build": "",
		"only-here": "", "sub/only-here": "",
		"docs/a.html": "", "docs/index.html": "", "docs/more/b.html": "",
		"#file": "", "sub/deep": "", "sub/x/deep/file": "", "a/z": "", "a/b/c/z": "", "a/b/c/y": "",
		"space ": "", "trailing": "", "a.c": "", "c.c": "", "x.h": "", "xx.h": "", "logs/today": "", "excluded": "",
		"sub/.gitignore": "!x.out\n*.tmp\n/local\nnested/*\n!nested/kept\n", "sub/x.out": "", "sub/y.tmp": "", "y.tmp": "",
		"sub/local": "", "sub/more/local": "", "sub/nested/gone": "", "sub/nested/kept": "", "sub/more/y.tmp": "",
		"sub/more/.gitignore": "!y.tmp\n",
	})
	if got, want := seen(t, dir), untracked(t, dir); !slices.Equal(got, want) {
		t.Errorf("seen %q\ngit  %q", got, want)
	}
	// The rules of the folders above hold for a part of the project too.
	var below []string
	for _, name := range untracked(t, dir) {
		if name, is := strings.CutPrefix(name, "sub/"); is {
			below = append(below, name)
		}
	}
	if got := seen(t, filepath.Join(dir, "sub")); !slices.Equal(got, below) {
		t.Errorf("in sub: seen %q\ngit  %q", got, below)
	}
}

// Git is the judge, of whatever patterns come up.
func TestAnyPatternsMeanWhatTheyMeanToGit(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	pick := func(from ...string) string { return from[random.IntN(len(from))] }
	pattern := func() string {
		parts := make([]string, 1+random.IntN(3))
		for i := range parts {
			parts[i] = pick("a", "b", "c", "*", "a*", "?", "**", "[ab]", "*.x", "[!a]")
		}
		return pick("", "", "!") + pick("", "", "/") + strings.Join(parts, "/") + pick("", "", "/")
	}
	path := func() string {
		parts := make([]string, 1+random.IntN(4))
		for i := range parts {
			parts[i] = pick("a", "b", "c", "aa", "d.x", "e")
		}
		return strings.Join(parts, "/")
	}
	for range 40 {
		dir := t.TempDir()
		git(t, dir, "init", "-q")
		var ignores []string
		for range 12 {
			p := filepath.Join(dir, path()) // a file may be where a folder would be: then it stays out
			if os.MkdirAll(filepath.Dir(p), 0o755) == nil {
				_ = os.WriteFile(p, nil, 0o644)
			}
		}
		for _, where := range []string{"", "a", "b", "a/b"} {
			if info, err := os.Stat(filepath.Join(dir, where)); err != nil || !info.IsDir() {
				continue
			}
			lines := []string{pattern(), pattern(), pattern()}
			ignores = append(ignores, where+": "+strings.Join(lines, " "))
			place(t, dir, map[string]string{where + "/.gitignore": strings.Join(lines, "\n") + "\n"})
		}
		if got, want := seen(t, dir), untracked(t, dir); !slices.Equal(got, want) {
			t.Errorf("%q\nseen %q\ngit  %q", ignores, got, want)
		}
	}
}

func TestOwnPatternsWinOverThoseOfGit(t *testing.T) {
	dir := t.TempDir()
	place(t, dir, map[string]string{".gitignore": "a\n", "a": "", "b": "", "c/d": "", "x.log": "", "node_modules/m/index.js": "", "__pycache__/m.pyc": "", ".main.go.swp": ""})
	if got, want := seen(t, dir, "!a", "/c/"), []string{".gitignore", "a", "b"}; !slices.Equal(got, want) {
		t.Errorf("seen %q, want %q", got, want)
	}
	if got, want := seen(t, dir, "!x.log"), []string{".gitignore", "b", "c/d", "x.log"}; !slices.Equal(got, want) {
		t.Errorf("seen %q, want %q", got, want)
	}
}
