package configfile

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

var keys = []Key{
	{Name: "chaos", Types: Boolean, Example: "true"},
	{Name: "command", Types: List, Members: Text, Example: `["node", "x.js"]`},
	{Name: "config", Types: Text, Refused: "not here (elsewhere)"},
	{Name: "drain-timeout", Types: Text, Example: `"25s"`},
	{Name: "env", Types: Text | List | Table, Example: `["A=b"]`},
	{Name: "listen", Types: Text | List, Example: `["tcp://127.0.0.1:3000"]`},
	{Name: "workers", Types: Number | Text, Example: "4"},
}

// say is an error's text, one line for each problem.
func say(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestEverythingWrongInAFileIsSaidWithPlaceCauseAndRemedy(t *testing.T) {
	const syntax = ` (a setting is a line like drain-timeout = "25s", workers = 4 or chaos = true)`
	for _, c := range []struct{ name, text, want string }{
		{"unknown, near", "wokers = 4\n", "f:1:1: wokers: there is no such setting (did you mean workers?)"},
		{"unknown, with underscores", "\n  drain_timeout = \"1s\"\n", "f:2:3: drain_timeout: there is no such setting (did you mean drain-timeout?)"},
		{"unknown, in capitals", "CHAOS = true", "f:1:1: CHAOS: there is no such setting (did you mean chaos?)"},
		{"unknown, far", "colour = 1", "f:1:1: colour: there is no such setting (all settings: revenant run --help)"},
		{"dotted", "workers.n = 1", "f:1:1: workers.n: there is no such setting (did you mean workers?)"},
		{"a table", "[server]\nworkers = 1\nchaos = 7\n", "f:1:2: server: a table, and there is none of this name (write settings without a header, each in a line like workers = 4)"},
		{"a list of tables", "[[listen]]\n", "f:1:3: listen: a table, and there is none of this name (write settings without a header, each in a line like workers = 4)"},
		{"a setting behind a table", "[env]\nworkers = []\n", "f:2:1: env: a list where text or a number or true or false belongs (write it like env = [\"A=b\"])"},
		{"a table twice", "[env]\n[env]\n", "f:2:2: env: stands twice, first in line 1 (remove one)"},
		{"a name twice", "[env]\nA = 1\nA = 2\n", "f:3:1: env.A: stands twice, first in line 2 (remove one)"},
		{"a list and a table", "env = []\n[env]\n", "f:2:2: env: stands twice, first in line 1 (remove one)"},
		{"a list of tables of a table", "[[env]]\n", "f:1:3: env: a table, and there is none of this name (write settings without a header, each in a line like workers = 4)"},
		{"number for text", "drain-timeout = 30\n", `f:1:17: drain-timeout: a number where text belongs (write it like drain-timeout = "25s")`},
		{"text for true", "chaos = \"yes\"\n", `f:1:9: chaos: text where true or false belongs (write it like chaos = true)`},
		{"fraction for number", "workers = 1.5\n", `f:1:11: workers: a fraction where text or a number belongs (write it like workers = 4)`},
		{"date for number", "workers = 2026-01-01\n", `f:1:11: workers: a date where text or a number belongs (write it like workers = 4)`},
		{"list for one", "workers = [1, 2]\n", `f:1:1: workers: a list where text or a number belongs (write it like workers = 4)`},
		{"table for one", "workers = {n = 1}\n", `f:1:11: workers: a table where text or a number belongs (write it like workers = 4)`},
		{"number in a list", "listen = [\n  \"a\",\n  7,\n]\n", `f:3:3: listen: a number where text belongs (write it like listen = ["tcp://127.0.0.1:3000"])`},
		{"text for a list", "command = 'node x.js'\n", `f:1:11: command: text where a list belongs (write it like command = ["node", "x.js"])`},
		{"number in a list of text", "command = ['a', 1]\n", `f:1:17: command: a number where text belongs (write it like command = ["node", "x.js"])`},
		{"list in a list", "listen = [[\"a\"]]\n", `f:1:1: listen: a list where text belongs (write it like listen = ["tcp://127.0.0.1:3000"])`},
		{"too large", "workers = 99999999999999999999\n", `f:1:11: workers 99999999999999999999: not a number that fits (write it like workers = 4)`},
		{"twice", "chaos = true\n\nchaos = false\n", "f:3:1: chaos: stands twice, first in line 1 (remove one)"},
		{"twice, quoted", "chaos = true\n\"chaos\" = true\n", "f:2:1: chaos: stands twice, first in line 1 (remove one)"},
		{"unprintable", "\"a\\nb\u202e\" = 1\n", `f:1:1: "a\nb\u202e": there is no such setting (all settings: revenant run --help)`},
		{"refused", "config = \"x\"\n", "f:1:1: config: not here (elsewhere)"},
		{"no quotes", "drain-timeout = 25s\n", "f:1:19: syntax: strings must be quoted" + syntax},
		{"no end of text", "drain-timeout = \"25s\n", "f:1:21: syntax: basic strings cannot have new lines" + syntax},
		{"no =", "workers: 4\n", "f:1:8: syntax: expected '=' after key" + syntax},
		{"two in a line", "workers = 4 chaos = true\n", ""},
		{"no UTF-8", "drain-timeout = \"\xff\"\n", ""},
		{"no UTF-8 at all", "\x00\xff", ""},
		{"all at once", "wokers = 1\nchaos = 1\nchaos = true\nlisten = 3 4\n", "f:1:1: wokers: there is no such setting (did you mean workers?)\n" +
			"f:2:9: chaos: a number where true or false belongs (write it like chaos = true)\n" +
			"f:3:1: chaos: stands twice, first in line 2 (remove one)\n" +
			"f:4:12: syntax: expected newline but got U+0034 '4'" + syntax},
	} {
		_, err := Parse("f", []byte(c.text), keys)
		if c.want == "" {
			if !strings.Contains(say(err), "f:1:") || !strings.HasSuffix(say(err), syntax) {
				t.Errorf("%s: %q\nsays %s", c.name, c.text, say(err))
			}
		} else if say(err) != c.want {
			t.Errorf("%s: %q\nsays  %s\nwants %s", c.name, c.text, say(err), c.want)
		}
	}
}

func TestValuesAreTextAndKnowWhereTheyStand(t *testing.T) {
	f, err := Parse("f", []byte("# a comment\nchaos = true # another one\r\n'workers' = 0x1_0\nlisten = [\n\t\"a\",\n\t'b', # the second\n]\ndrain-timeout = \"\"\"\n1s\"\"\""), keys)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, key := range slices.Sorted(maps.Keys(f.Entries)) {
		e := f.Entries[key]
		for _, v := range e.Values {
			got = append(got, fmt.Sprintf("%s %d %s:%d:%d", key, e.Line, v.Text, v.Line, v.Column))
		}
	}
	want := "chaos 2 true:2:9, drain-timeout 8 1s:8:17, listen 4 a:5:2, listen 4 b:6:2, workers 3 16:3:13"
	if s := strings.Join(got, ", "); s != want {
		t.Errorf("got  %s\nwant %s", s, want)
	}
	if at := f.Entries["listen"].Find("b"); at != (Place{6, 2}) {
		t.Errorf("b is found at %v", at)
	}
}

func TestTableIsAListOfNamesWithValues(t *testing.T) {
	for _, text := range []string{
		"env = ['A=b', 'N=7', 'T=true']", "env = {A = 'b', N = 7, T = true}", "[env]\nA = 'b'\nN = 7\nT = true", "env.A = 'b'\nenv.N = 7\nenv.T = true",
	} {
		f, err := Parse("f", []byte(text), keys)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if got := strings.Join(f.Entries["env"].Texts(), " "); got != "A=b N=7 T=true" || f.Entries["env"].Line != 1 {
			t.Errorf("%q: %q in line %d", text, got, f.Entries["env"].Line)
		}
	}
}

func TestEmptyFileAndEmptyListAreNoProblem(t *testing.T) {
	for text, entries := range map[string]int{"": 0, "\n# nothing\n": 0, "listen = []": 1, "\ufeff": -1} {
		f, err := Parse("f", []byte(text), keys)
		if entries >= 0 && (err != nil || len(f.Entries) != entries) {
			t.Errorf("%q: %v, %v", text, f.Entries, err)
		}
	}
	if (*File)(nil).Has("workers") {
		t.Error("no file has a key")
	}
}

// Whatever stands in a file, it is understood or refused in words with a place.
func FuzzParse(f *testing.F) {
	for _, text := range []string{"workers = 4\n", "[a]\nb = {c = 1}\n", "listen = [\"a\", # b\n'c']\n", "a.b.c = 1979-05-27T07:32:00Z", "x = '''\n'''", "\"\\u0000\" = 1"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := Parse("f", []byte(text), keys); err != nil {
			for line := range strings.Lines(say(err)) {
				if !strings.HasPrefix(line, "f:") {
					t.Errorf("%q: %s", text, line)
				}
			}
		}
	})
}

func TestNearestWord(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"kitten", "sitting", 3}, {"workers", "wokers", 1}, {"abc", "abc", 0}, {"ab", "ba", 2}} {
		if got := edits(c.a, c.b); got != c.want {
			t.Errorf("edits(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
	}
}
