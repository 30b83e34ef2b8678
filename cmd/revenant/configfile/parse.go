package configfile

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// Parse understands a file's text. What is right in it is returned also beside an
// error, so that the caller can look at the values too; the error joins a
// *Problem for everything that is wrong.
func Parse(name string, text []byte, keys []Key) (*File, error) {
	p := &parser{file: &File{Name: name, Text: text, Entries: map[string]Entry{}}, keys: keys, seen: map[string]Place{}}
	p.Reset(text)
	for p.NextExpression() {
		p.expression(p.Expression())
	}
	if err := p.Error(); err != nil {
		p.syntax(err)
	}
	if len(p.problems) == 0 {
		p.judge()
	}
	return p.file, errors.Join(p.problems...)
}

// parser walks the file's expressions, which know where they stand. The decoder
// of the library does not tell that of values.
type parser struct {
	unstable.Parser
	file     *File
	keys     []Key
	seen     map[string]Place
	table    *Key // behind a header: what follows belongs to its table
	problems []error
}

func (p *parser) wrong(at Place, key, format string, args ...any) {
	p.problems = append(p.problems, p.file.Wrong(at, key, "", fmt.Errorf(format, args...)))
}

// placeOf is where a node stands; not all have a place of their own.
func (p *parser) placeOf(n *unstable.Node, otherwise Place) Place {
	if n.Raw.Length == 0 {
		return otherwise
	}
	start := p.Shape(n.Raw).Start
	return Place{start.Line, start.Column}
}

func (p *parser) expression(e *unstable.Node) {
	names, at := p.keyOf(e)
	switch {
	case e.Kind != unstable.KeyValue:
		p.header(e, names, at)
	case p.table != nil:
		p.member(*p.table, names, e.Value(), at)
	default:
		p.setting(e, names, at)
	}
}

// keyOf is an expression's key in parts.
func (p *parser) keyOf(e *unstable.Node) (names []string, at Place) {
	for it := e.Key(); it.Next(); {
		if names = append(names, string(it.Node().Data)); len(names) == 1 {
			at = p.placeOf(it.Node(), at)
		}
	}
	return names, at
}

// once tells whether a key has not stood in the file before.
func (p *parser) once(name string, at Place) bool {
	first, twice := p.seen[name]
	if twice {
		p.wrong(at, name, "stands twice, first in line %d (remove one)", first.Line)
		return false
	}
	p.seen[name] = at
	return true
}

func (p *parser) setting(e *unstable.Node, names []string, at Place) {
	key, known := p.known(names[0])
	name := strings.Join(names, ".")
	switch {
	case known && len(names) > 1 && key.Types&Table != 0:
		p.seen[key.Name] = at
		p.member(key, names[1:], e.Value(), at)
		return
	case !known || len(names) > 1:
		p.wrong(at, name, "there is no such setting (%s)", p.meant(name))
		return
	case key.Refused != "":
		p.wrong(at, name, "%s", key.Refused)
		return
	case !p.once(name, at):
		return
	}
	if e.Value().Kind == unstable.InlineTable && key.Types&Table != 0 {
		p.inline(key, e.Value(), at)
		return
	}
	if values, good := p.values(key, e.Value(), at); good {
		p.file.Entries[name] = Entry{Key: name, Place: at, Values: values}
	}
}

func (p *parser) known(name string) (Key, bool) {
	for _, k := range p.keys {
		if k.Name == name {
			return k, true
		}
	}
	return Key{}, false
}

// values reads a setting's value. at is the key's place.
func (p *parser) values(key Key, n *unstable.Node, at Place) ([]Value, bool) {
	if n.Kind != unstable.Array {
		v, good := p.value(key, key.Types, n, at)
		return []Value{v}, good
	}
	if key.Types&List == 0 {
		p.mistyped(key, key.Types, "a list", at)
		return nil, false
	}
	members := cmp.Or(key.Members, key.Types&^(List|Table))
	values, all := []Value{}, true
	for it := n.Children(); it.Next(); {
		v, good := p.value(key, members, it.Node(), at)
		values, all = append(values, v), all && good
	}
	return values, all
}

func (p *parser) value(key Key, types Type, n *unstable.Node, at Place) (Value, bool) {
	v := Value{Text: string(n.Data), Place: p.placeOf(n, at)}
	kind, word := typeOf(n.Kind)
	if kind&types == 0 {
		p.mistyped(key, types, word, v.Place)
		return v, false
	}
	if kind == Number {
		number, err := strconv.ParseInt(v.Text, 0, 64)
		if err != nil {
			cause := fmt.Errorf("not a number that fits (write it like %s = %s)", key.Name, key.Example)
			p.problems = append(p.problems, p.file.Wrong(v.Place, key.Name, v.Text, cause))
			return v, false
		}
		v.Text = strconv.FormatInt(number, 10)
	}
	return v, true
}

func (p *parser) mistyped(key Key, types Type, word string, at Place) {
	p.wrong(at, key.Name, "%s where %s belongs (write it like %s = %s)", word, types.words(), key.Name, key.Example)
}

// typeOf is the type of a value in the file, and what people call it.
func typeOf(kind unstable.Kind) (Type, string) {
	switch kind {
	case unstable.String:
		return Text, "text"
	case unstable.Integer:
		return Number, "a number"
	case unstable.Bool:
		return Boolean, "true or false"
	case unstable.Float:
		return 0, "a fraction"
	case unstable.InlineTable:
		return 0, "a table"
	case unstable.Array:
		return 0, "a list"
	}
	return 0, "a date"
}

// syntax says where the text stopped to be TOML.
func (p *parser) syntax(err error) {
	var wrong *unstable.ParserError
	if !errors.As(err, &wrong) {
		p.wrong(Place{1, 1}, "syntax", "%w", err)
		return
	}
	start := p.Shape(p.Range(wrong.Highlight)).Start
	p.wrong(Place{start.Line, start.Column}, "syntax", "%s (%s)", wrong.Message, written)
}

// written is the remedy for text that is not TOML.
const written = `a setting is a line like drain-timeout = "25s", workers = 4 or chaos = true`

// judge has the library decode the file, for what only that finds out.
func (p *parser) judge() {
	var all map[string]any
	var wrong *toml.DecodeError
	err := toml.Unmarshal(p.file.Text, &all)
	if errors.As(err, &wrong) {
		line, column := wrong.Position()
		p.wrong(Place{line, column}, "syntax", "%w (%s)", wrong, written)
	}
}
