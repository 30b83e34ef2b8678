package main

import (
	"slices"
	"strings"
	"testing"
)

func TestEveryPackageHasItsGroup(t *testing.T) {
	for path, want := range map[string]string{
		"revenant/cmd/revenant":       "process",
		"revenant/supervisor":         "process",
		"revenant/supervisor/keeper":  "process",
		"revenant/supervisor/control": "process",
		"revenant/supervisor/listen":  "unit",
		"revenant/worker":             "process",
		"revenant/worker/scoreboard":  "unit",
		"revenant/nginx":              "nginx",
		"revenant/docker":             "docker",
		"revenant/scripts":            "scripts",
		"revenant/scripts/ledger":     "unit",
		"revenant/something/new":      "unit",
		"revenant":                    "unit",
	} {
		if got := groupOf(path); got != want {
			t.Errorf("groupOf(%s) = %s, want %s", path, got, want)
		}
	}
}

func TestCountsAreThoseOfGoTest(t *testing.T) {
	r := read(strings.NewReader(strings.Join([]string{
		`{"Action":"run","Package":"p","Test":"TestA"}`,
		`{"Action":"pass","Package":"p","Test":"TestA/one"}`,
		`{"Action":"pass","Package":"p","Test":"TestA"}`,
		`{"Action":"output","Package":"p","Test":"TestB","Output":"=== RUN   TestB\n"}`,
		`{"Action":"output","Package":"p","Test":"TestB","Output":"    b_test.go:7: no engine: here\n"}`,
		`{"Action":"output","Package":"p","Test":"TestB","Output":"--- SKIP: TestB\n"}`,
		`{"Action":"skip","Package":"p","Test":"TestB"}`,
		`{"Action":"pass","Package":"p"}`,
		`{"Action":"fail","Package":"q","Test":"TestC"}`,
		`{"Action":"fail","Package":"q"}`,
		`{"ImportPath":"r","Action":"build-output","Output":"syntax error\n"}`,
		`{"ImportPath":"r","Action":"build-fail"}`,
		`{"Action":"fail","Package":"r"}`,
		`{"Action":"skip","Package":"without tests"}`,
		`not JSON`,
	}, "\n")), false)
	if r.passed != 2 || r.failed != 2 || !slices.Equal(r.skipped, []string{"p TestB: no engine: here"}) {
		t.Errorf("%d passed, %d failed, skipped %q, want 2, 2 (one test, one build), one with its reason", r.passed, r.failed, r.skipped)
	}
}
