package watch

import (
	"path"
	"strings"
)

// pattern is a line of a .gitignore, as git understands it (gitignore(5)); what
// is not is POSIX classes, such as [[:alpha:]]. There are libraries; those that
// were tried disagree with git, which is the judge in the tests.
type pattern struct {
	parts    []string // of a path, with wildcards; one of them is for a name at any depth
	depth    int      // of the folder that it is relative to, in parts
	anchored bool     // the whole path must fit, and not only the name
	folders  bool     // only folders
	take     bool     // back what an earlier one ignored
}

// parse understands a line; false when it says nothing.
func parse(line string, depth int) (p pattern, says bool) {
	line = trim(line)
	if line == "" || line[0] == '#' {
		return p, false
	}
	line, p.take = strings.CutPrefix(line, "!")
	line, p.folders = strings.CutSuffix(line, "/")
	p.anchored = strings.Contains(line, "/")
	line = strings.TrimPrefix(line, "/")
	p.parts, p.depth = strings.Split(strings.ReplaceAll(line, "[!", "[^"), "/"), depth
	return p, line != ""
}

// trim takes off the spaces at the end that are not escaped.
func trim(line string) string {
	line = strings.TrimSuffix(line, "\r")
	for strings.HasSuffix(line, " ") && !strings.HasSuffix(line, `\ `) {
		line = line[:len(line)-1]
	}
	return line
}

// fits tells whether a path, in parts, is meant.
func (p pattern) fits(parts []string, folder bool) bool {
	switch {
	case p.folders && !folder || len(parts) <= p.depth:
		return false
	case p.anchored:
		return fit(p.parts, parts[p.depth:])
	}
	return fit(p.parts, parts[len(parts)-1:])
}

func fit(pattern, parts []string) bool {
	switch {
	case len(pattern) == 0:
		return len(parts) == 0
	case anyDepth(pattern[0]) && len(pattern) == 1:
		return len(parts) > 0
	case anyDepth(pattern[0]):
		for i := range len(parts) + 1 {
			if fit(pattern[1:], parts[i:]) {
				return true
			}
		}
		return false
	case len(parts) == 0:
		return false
	}
	one, err := path.Match(pattern[0], parts[0])
	return err == nil && one && fit(pattern[1:], parts[1:])
}

// anyDepth tells whether a part stands for any number of folders.
func anyDepth(part string) bool { return len(part) > 1 && strings.Trim(part, "*") == "" }
