package configfile

import (
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// header begins a table. What follows one that there is not is passed over.
func (p *parser) header(e *unstable.Node, names []string, at Place) {
	key, known := p.known(names[0])
	p.table = &key
	if !known || len(names) > 1 || key.Types&Table == 0 || e.Kind != unstable.Table {
		p.table = &Key{}
		p.wrong(at, strings.Join(names, "."), "a table, and there is none of this name (write settings without a header, each in a line like workers = 4)")
		return
	}
	if p.once(key.Name, at) {
		p.file.Entries[key.Name] = Entry{Key: key.Name, Place: at}
	}
}

// member adds a line of a table to its key's values.
func (p *parser) member(key Key, names []string, n *unstable.Node, at Place) {
	if key.Name == "" { // said at its header
		return
	}
	name := strings.Join(names, ".")
	if !p.once(key.Name+"."+name, at) {
		return
	}
	v, good := p.value(key, Text|Number|Boolean, n, at)
	if !good {
		return
	}
	e, has := p.file.Entries[key.Name]
	if !has { // env.A = "b"
		e = Entry{Key: key.Name, Place: at}
	}
	e.Values = append(e.Values, Value{name + "=" + v.Text, v.Place})
	p.file.Entries[key.Name] = e
}

// inline reads a table in braces.
func (p *parser) inline(key Key, table *unstable.Node, at Place) {
	p.file.Entries[key.Name] = Entry{Key: key.Name, Place: at}
	for it := table.Children(); it.Next(); {
		names, at := p.keyOf(it.Node())
		p.member(key, names, it.Node().Value(), at)
	}
}
