package watch

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// always are patterns of what is no source, also where no .gitignore says so. A
// .gitignore can take them back.
var always = []string{
	".hg", ".svn", "node_modules", "__pycache__", "*.py[co]",
	"*.sw[a-p]", "*~", ".#*", "\\#*#", "4913", // of editors
	"*.log", "*.sqlite*", "*.db", "*.db-*", // what programs write
}

// rules say what is ignored in a folder and below, until a deeper .gitignore says
// more. The last pattern that fits decides.
type rules struct {
	top      string // the folder that patterns and paths are relative to
	patterns []pattern
	own      []pattern // the operator's, behind all others
}

// rulesFor begins at a root: with what its repository says above it.
func rulesFor(root string, ignore []string) *rules {
	r := &rules{top: repository(root)}
	domain := r.split(root)
	r.own = parseAll(ignore, len(domain))
	r.patterns = append(parseAll(always, 0), read(filepath.Join(r.top, ".git", "info", "exclude"), 0)...)
	dir := r.top
	for _, part := range domain {
		r = r.in(dir)
		dir = filepath.Join(dir, part)
	}
	return r
}

// repository is the folder that holds .git, or root itself without one.
func repository(root string) string {
	for dir := root; ; dir = filepath.Dir(dir) {
		if _, err := os.Lstat(filepath.Join(dir, ".git")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			return root
		}
	}
}

// in adds what the .gitignore of a folder says.
func (r *rules) in(dir string) *rules {
	more := read(filepath.Join(dir, ".gitignore"), len(r.split(dir)))
	if len(more) == 0 {
		return r
	}
	return &rules{top: r.top, patterns: append(slices.Clip(r.patterns), more...), own: r.own}
}

func (r *rules) ignore(path string, folder bool) bool {
	if filepath.Base(path) == ".git" {
		return true
	}
	parts := r.split(path)
	for _, patterns := range [][]pattern{r.own, r.patterns} {
		for _, p := range slices.Backward(patterns) {
			if p.fits(parts, folder) {
				return !p.take
			}
		}
	}
	return false
}

// split is a path relative to the top, in parts.
func (r *rules) split(path string) []string {
	relative, err := filepath.Rel(r.top, path)
	if err != nil || relative == "." {
		return nil
	}
	return strings.Split(relative, string(filepath.Separator))
}

func read(file string, depth int) []pattern {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	return parseAll(strings.Split(strings.TrimPrefix(string(text), "\ufeff"), "\n"), depth)
}

func parseAll(lines []string, depth int) (patterns []pattern) {
	for _, line := range lines {
		if p, says := parse(line, depth); says {
			patterns = append(patterns, p)
		}
	}
	return patterns
}
