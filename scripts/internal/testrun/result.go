package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// result counts tests and their subtests, as go test -json tells them.
type result struct {
	passed, failed int
	skipped        []string // name and reason
	timings        []timing // of whole tests, without their subtests
}

// timing is how long a test took.
type timing struct {
	pkg, test string
	seconds   float64
}

func (r *result) add(other result) {
	r.passed += other.passed
	r.failed += other.failed
	r.skipped = append(r.skipped, other.skipped...)
	r.timings = append(r.timings, other.timings...)
}

// record is a line of go test -json; see `go doc test2json`.
type record struct {
	Action     string
	Package    string
	ImportPath string
	Test       string
	Output     string
	Elapsed    float64
}

// key is where the output of a test is collected until its verdict.
func (e record) key() string { return e.Package + " " + e.Test }

// read counts what go test reports and prints what failed, with its output.
func read(from io.Reader, verbose bool) result {
	var r result
	output := map[string]*strings.Builder{}
	failedIn := map[string]bool{}
	lines := bufio.NewReader(from)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			r.take(line, output, failedIn, verbose)
		}
		if err != nil {
			return r
		}
	}
}

func (r *result) take(line []byte, output map[string]*strings.Builder, failedIn map[string]bool, verbose bool) {
	var e record
	if err := json.Unmarshal(line, &e); err != nil {
		fmt.Printf("%s", line) // go itself has something to say
		return
	}
	switch e.Action {
	case "output":
		if output[e.key()] == nil {
			output[e.key()] = &strings.Builder{}
		}
		output[e.key()].WriteString(e.Output)
		return
	case "build-output":
		fmt.Print(e.Output)
		return
	case "pass", "fail", "skip":
	default:
		return
	}
	text := ""
	if b := output[e.key()]; b != nil {
		text = b.String()
		delete(output, e.key())
	}
	if e.Test == "" {
		r.packageEnded(e, text, failedIn[e.Package])
		return
	}
	if verbose {
		fmt.Printf("%-5s %s %s (%.2fs)\n", e.Action, e.Package, e.Test, e.Elapsed)
	}
	if !strings.Contains(e.Test, "/") {
		r.timings = append(r.timings, timing{e.Package, e.Test, e.Elapsed})
	}
	switch e.Action {
	case "pass":
		r.passed++
	case "skip":
		r.skipped = append(r.skipped, fmt.Sprintf("%s %s: %s", e.Package, e.Test, reason(text)))
	case "fail":
		r.failed++
		failedIn[e.Package] = true
		fmt.Printf("--- FAIL: %s %s (%.2fs)\n%s", e.Package, e.Test, e.Elapsed, text)
	}
}

// packageEnded counts a failure that no test owns: it did not build, it
// panicked, or it took too long.
func (r *result) packageEnded(e record, text string, testFailed bool) {
	switch {
	case e.Action == "fail" && !testFailed:
		r.failed++
		fmt.Printf("--- FAIL: %s\n%s", e.Package, text)
	case e.Action == "fail":
		fmt.Printf("FAIL  %s (%.1fs)\n", e.Package, e.Elapsed)
	case e.Action == "pass":
		fmt.Printf("ok    %s (%.1fs)\n", e.Package, e.Elapsed)
	case e.Action == "skip":
		fmt.Printf("none  %s\n", e.Package)
	}
}

// reason is what a skipped test says, without the frame that go test puts
// around it: "    x_test.go:12: no nginx".
func reason(text string) string {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "===") || strings.HasPrefix(line, "---") {
			continue
		}
		if place, said, ok := strings.Cut(line, ": "); ok && strings.Contains(place, "_test.go:") {
			return said
		}
		return line
	}
	return "no reason given"
}
