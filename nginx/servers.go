package nginx

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Servers is a file of server directives, as site/servers.conf and site/standby.conf are. It keeps
// every line as the operator wrote it, so that marks that are set and taken off again leave the same
// file.
type Servers struct {
	lines []serverLine
}

// serverLine is a line of the file; address is "" when it names no server.
type serverLine struct {
	text    string
	address string
	params  []string
	indent  string
	rest    string // after the semicolon
}

var serverDirective = regexp.MustCompile(`^(\s*)server\s+([^\s;]+)([^;#]*);(.*)$`)

// ParseServers reads such a file. It is an error if it names no server.
func ParseServers(text []byte) (Servers, error) {
	var s Servers
	for line := range strings.Lines(string(text)) {
		l := serverLine{text: line}
		if m := serverDirective.FindStringSubmatch(strings.TrimSuffix(line, "\n")); m != nil {
			l.indent, l.address, l.params, l.rest = m[1], m[2], strings.Fields(m[3]), m[4]
		}
		s.lines = append(s.lines, l)
	}
	if len(s.Addresses()) == 0 {
		return s, fmt.Errorf("there is no server directive in it, with one on a line: server 127.0.0.1:3000 max_fails=0;")
	}
	return s, nil
}

// Addresses are those of the servers, each once, in the order of the file.
func (s Servers) Addresses() []string {
	var all []string
	for _, l := range s.lines {
		if l.address != "" && !slices.Contains(all, l.address) {
			all = append(all, l.address)
		}
	}
	return all
}

// Has says whether any entry of a server, or of any server when the address is "", has a parameter
// such as down or backup.
func (s Servers) Has(address, param string) bool {
	return slices.ContainsFunc(s.lines, func(l serverLine) bool {
		return l.address != "" && (address == "" || l.address == address) && slices.Contains(l.params, param)
	})
}

// With gives every entry of a server the parameter.
func (s Servers) With(address, param string) Servers {
	return s.change(address, func(params []string) []string {
		if slices.Contains(params, param) {
			return params
		}
		return append(slices.Clone(params), param)
	})
}

// Without takes the parameter off every entry of a server.
func (s Servers) Without(address, param string) Servers {
	return s.change(address, func(params []string) []string {
		return slices.DeleteFunc(slices.Clone(params), func(p string) bool { return p == param })
	})
}

func (s Servers) change(address string, change func([]string) []string) Servers {
	changed := Servers{lines: slices.Clone(s.lines)}
	for i, l := range changed.lines {
		if l.address != address || slices.Equal(change(l.params), l.params) {
			continue
		}
		l.params = change(l.params)
		l.text = l.indent + strings.Join(append([]string{"server", l.address}, l.params...), " ") + ";" + l.rest + "\n"
		changed.lines[i] = l
	}
	return changed
}

// Text is the file.
func (s Servers) Text() []byte {
	var b strings.Builder
	for _, l := range s.lines {
		b.WriteString(l.text)
	}
	return []byte(b.String())
}
