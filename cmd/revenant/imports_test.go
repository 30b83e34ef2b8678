package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"revenant/supervisor/supervisortest"
)

// rules say which packages of the module, and which modules, each package may
// import. A package that is not listed may import nothing of either.
var rules = map[string][]string{
	"cmd/revenant": {
		"cmd/revenant/configfile", "cmd/revenant/watch", "supervisor", "supervisor/cgroup", "supervisor/command", "supervisor/control", "supervisor/event", "supervisor/keeper", "supervisor/listen", "supervisor/notify", "supervisor/output", "worker", "worker/app",
		"github.com/google/uuid", "github.com/lmittmann/tint", "github.com/mattn/go-isatty", "github.com/spf13/cobra", "github.com/spf13/pflag", "golang.org/x/sys",
	},
	"cmd/revenant/watch":      {"github.com/fsnotify/fsnotify", "golang.org/x/sys"},
	"cmd/revenant/configfile": {"github.com/pelletier/go-toml/v2"},
	"supervisor/control":      {"supervisor", "supervisor/event", "supervisor/output", "golang.org/x/sys"},
	"supervisor": {
		"supervisor/cgroup", "supervisor/command", "supervisor/event", "supervisor/listen", "supervisor/notify", "supervisor/output", "supervisor/sockdiag", "supervisor/tree", "worker/scoreboard",
		"github.com/cloudflare/tableflip", "github.com/prometheus/procfs", "golang.org/x/sys",
	},
	"supervisor/keeper":         {"supervisor/notify", "golang.org/x/sys"},
	"supervisor/notify":         {"golang.org/x/sys"},
	"supervisor/command":        {"supervisor/notify", "golang.org/x/sys"},
	"supervisor/listen":         {"golang.org/x/sys"},
	"supervisor/event":          {},
	"supervisor/output":         {},
	"supervisor/sockdiag":       {"golang.org/x/sys"},
	"supervisor/tree":           {"golang.org/x/sys"},
	"supervisor/cgroup":         {"go.uber.org/automaxprocs", "golang.org/x/sys"},
	"supervisor/supervisortest": {"supervisor", "supervisor/control", "supervisor/event", "golang.org/x/sys"},
	"worker":                    {"supervisor/notify", "worker/scoreboard", "golang.org/x/sys"},
	"worker/examples/echo":      {"worker", "github.com/labstack/echo/v4"},
	"worker/examples/nethttp":   {},
	"worker/scoreboard":         {"golang.org/x/sys"},
	"worker/app":                {"worker", "github.com/google/uuid", "github.com/labstack/echo/v4", "golang.org/x/sys"},
}

// imports is what go list says of a package.
type imports struct {
	ImportPath string
	Imports    []string
}

// broken lists the imports that the rules do not allow.
func broken(packages []imports) (edges []string) {
	for _, p := range packages {
		name := strings.TrimPrefix(p.ImportPath, "revenant/")
		allowed, known := rules[name]
		if !known {
			edges = append(edges, name+" has no rule")
		}
		for _, path := range p.Imports {
			ours, is := strings.CutPrefix(path, "revenant/")
			external := strings.Contains(strings.Split(path, "/")[0], ".")
			fits := slices.ContainsFunc(allowed, func(a string) bool { return a == ours || external && (path == a || strings.HasPrefix(path, a+"/")) })
			if (is || external) && !fits {
				edges = append(edges, fmt.Sprintf("%s imports %s", name, ours))
			}
		}
	}
	return edges
}

// listed asks the go command for the packages that make up the product.
func listed(t *testing.T) []imports {
	t.Helper()
	c := exec.Command("go", "list", "-json=ImportPath,Imports", "./cmd/...", "./supervisor/...", "./worker/...")
	c.Dir = supervisortest.Root()
	out, err := c.Output()
	if err != nil {
		t.Fatal(err)
	}
	var packages []imports
	for in := json.NewDecoder(strings.NewReader(string(out))); in.More(); {
		var p imports
		if err := in.Decode(&p); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(p.ImportPath, "/internal/") { // for tests
			packages = append(packages, p)
		}
	}
	return packages
}

func TestImportsPointOneWay(t *testing.T) {
	packages := listed(t)
	if edges := broken(packages); len(edges) > 0 {
		t.Errorf("imports against the rules:\n%s", strings.Join(edges, "\n"))
	}
	found := map[string]bool{}
	for _, p := range packages {
		found[strings.TrimPrefix(p.ImportPath, "revenant/")] = true
	}
	for _, name := range slices.Sorted(maps.Keys(rules)) {
		if !found[name] {
			t.Errorf("a rule is about %s, which does not exist", name)
		}
	}
}

// The twin: edges that somebody might draw are seen.
func TestImportThatBreaksARuleIsReported(t *testing.T) {
	for _, edge := range []imports{
		{"revenant/supervisor", []string{"revenant/worker"}},
		{"revenant/supervisor", []string{"revenant/supervisor/control"}},
		{"revenant/supervisor", []string{"github.com/labstack/echo/v4"}},
		{"revenant/worker", []string{"revenant/supervisor"}},
		{"revenant/worker", []string{"github.com/cloudflare/tableflip"}},
		{"revenant/supervisor/keeper", []string{"revenant/supervisor/event"}},
		{"revenant/supervisor/keeper", []string{"net/http", "github.com/prometheus/procfs"}},
		{"revenant/supervisor/notify", []string{"revenant/worker/scoreboard"}},
		{"revenant/supervisor/newcomer", nil},
	} {
		if edges := broken([]imports{edge}); len(edges) != 1 {
			t.Errorf("%v: reported %q, want one edge", edge, edges)
		}
	}
	if edges := broken([]imports{{"revenant/supervisor/keeper", []string{"os", "golang.org/x/sys/unix", "revenant/supervisor/notify"}}}); len(edges) > 0 {
		t.Errorf("reported %q, and it is allowed", edges)
	}
}

// Standard library and golang.org/x/sys, all the way down: the first process
// must not be able to hang in somebody's HTTP client.
func TestKeeperDependsOnAlmostNothing(t *testing.T) {
	c := exec.Command("go", "list", "-deps", "./supervisor/keeper")
	c.Dir = supervisortest.Root()
	out, err := c.Output()
	if err != nil {
		t.Fatal(err)
	}
	for path := range strings.FieldsSeq(string(out)) {
		external := strings.Contains(strings.Split(path, "/")[0], ".") && !strings.HasPrefix(path, "golang.org/x/sys/")
		ours := strings.HasPrefix(path, "revenant/") && path != "revenant/supervisor/keeper" && path != "revenant/supervisor/notify"
		if external || ours || path == "net/http" || path == "os/exec" {
			t.Errorf("the keeper depends on %s", path)
		}
	}
}
