package nginx

import (
	"fmt"
	"io/fs"
	"strings"
)

// A Directive is one directive of a configuration, with its block if it has one.
type Directive struct {
	Name  string
	Args  []string
	Block []Directive
	File  string
	Line  int
}

// Parse reads a configuration with its includes in place. Includes are names in fsys; patterns are not
// understood, the project uses none.
func Parse(fsys fs.FS, name string) ([]Directive, error) {
	text, err := fs.ReadFile(fsys, name)
	if err != nil {
		return nil, err
	}
	p := parser{fsys: fsys, file: name, line: 1, rest: string(text)}
	block, err := p.block(false)
	if err != nil {
		return nil, fmt.Errorf("cannot parse %s:%d: %w", p.file, p.line, err)
	}
	return block, nil
}

type parser struct {
	fsys fs.FS
	file string
	line int
	rest string
}

// block reads directives up to the end of the block, or of the file for the outermost one.
func (p *parser) block(inner bool) ([]Directive, error) {
	var block []Directive
	var words []string
	for {
		word, quoted, err := p.word()
		switch {
		case err != nil:
			return nil, err
		case word == "" && !quoted:
			if inner || len(words) > 0 {
				return nil, fmt.Errorf("unexpected end of file")
			}
			return block, nil
		case quoted || !strings.Contains(";{}", word):
			words = append(words, word)
			continue
		case word == "}" && len(words) == 0 && inner:
			return block, nil
		case word == "}" || len(words) == 0:
			return nil, fmt.Errorf("unexpected %q", word)
		}
		d := Directive{Name: words[0], Args: words[1:], File: p.file, Line: p.line}
		words = nil
		if word == "{" {
			if d.Block, err = p.block(true); err != nil {
				return nil, err
			}
		}
		if d.Name != "include" {
			block = append(block, d)
			continue
		}
		included, err := Parse(p.fsys, d.Args[0])
		if err != nil {
			return nil, err
		}
		block = append(block, included...)
	}
}

// word takes the next word, quoted string or one of ; { } from the text; "" at its end.
func (p *parser) word() (word string, quoted bool, err error) {
	for p.rest != "" {
		switch c := p.rest[0]; {
		case c == '\n':
			p.line++
			fallthrough
		case c == ' ' || c == '\t' || c == '\r':
			p.rest = p.rest[1:]
		case c == '#':
			end := strings.IndexByte(p.rest, '\n')
			if end < 0 {
				end = len(p.rest)
			}
			p.rest = p.rest[end:]
		case c == ';' || c == '{' || c == '}':
			return p.take(1), false, nil
		case c == '"' || c == '\'':
			end := strings.IndexByte(p.rest[1:], c)
			if end < 0 {
				return "", false, fmt.Errorf("a string does not end")
			}
			s := p.take(end + 2)
			p.line += strings.Count(s, "\n")
			return s[1 : len(s)-1], true, nil
		default:
			// A brace inside a word belongs to it: ${name}, or a regular expression.
			end := strings.IndexAny(p.rest, " \t\r\n;")
			if end < 0 {
				end = len(p.rest)
			}
			return p.take(end), false, nil
		}
	}
	return "", false, nil
}

func (p *parser) take(n int) string {
	s := p.rest[:n]
	p.rest = p.rest[n:]
	return s
}
