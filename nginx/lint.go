package nginx

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Finding is a place where a configuration breaks one of our rules.
type Finding struct {
	File string
	Line int
	Rule string // a word to refer to it by
	Text string
}

func (f Finding) String() string {
	return fmt.Sprintf("%s:%d: %s (%s)", f.File, f.Line, f.Text, f.Rule)
}

var balancers = []string{"least_conn", "ip_hash", "hash", "random", "sticky"}

// Lint checks a whole configuration against the rules that nginx -t does not know: each stands for a
// way to lose requests when a worker dies or a connection is kept.
func Lint(conf []Directive) []Finding {
	l := &linter{}
	l.walk(conf, nil)
	return l.findings
}

type linter struct {
	findings []Finding
}

func (l *linter) report(d Directive, rule, format string, args ...any) {
	l.findings = append(l.findings, Finding{d.File, d.Line, rule, fmt.Sprintf(format, args...)})
}

// walk visits every block. outer is the path of the blocks around it.
func (l *linter) walk(block []Directive, outer []string) {
	for _, d := range block {
		switch d.Name {
		case "http":
			l.http(d)
		case "upstream":
			l.upstream(d)
		case "listen":
			if slices.Contains(d.Args, "reuseport") {
				l.report(d, "reuseport", "each nginx process gets a queue of its own, which is reset when the process ends")
			}
			l.localhost(d)
		case "proxy_pass":
			l.localhost(d)
		case "proxy_set_header":
			if len(outer) > 1 {
				l.report(d, "header", "drops all headers set further out; set it where they are set")
			}
		}
		l.walk(d.Block, append(outer[:len(outer):len(outer)], d.Name))
	}
}

// http checks how requests are passed on and tried again.
func (l *linter) http(http Directive) {
	entries := 0
	pooled := false
	for _, u := range All(http.Block, "upstream") {
		entries = max(entries, len(All(u.Block, "server")))
		pooled = pooled || len(All(u.Block, "keepalive")) > 0
	}
	if entries == 0 {
		return
	}
	if pooled && First(http.Block, "proxy_http_version") != "1.1" {
		l.report(http, "pool", "kept connections need proxy_http_version 1.1")
	}
	if pooled && !slices.ContainsFunc(All(http.Block, "proxy_set_header"), func(d Directive) bool {
		return d.Args[0] == "Connection" && d.Args[1] != "close"
	}) {
		l.report(http, "pool", "kept connections need a Connection header that is not close")
	}
	if tries, err := strconv.Atoi(First(http.Block, "proxy_next_upstream_tries")); err == nil && tries > 0 && tries < entries {
		l.report(http, "tries", "%d tries never reach the last of %d servers", tries, entries)
	}
	l.retries(http)
}

// retries: a timeout as a reason to try again needs a limit that no slow answer can stay under.
func (l *linter) retries(http Directive) {
	reasons := All(http.Block, "proxy_next_upstream")
	if len(reasons) == 0 {
		l.report(http, "retry", "the default tries again after a timeout: a slow request runs twice")
		return
	}
	for _, reason := range reasons[0].Args {
		if strings.HasPrefix(reason, "http_5") || reason == "non_idempotent" {
			l.report(reasons[0], "retry", "%s sends a request again that was answered or may have run", reason)
		}
	}
	if !slices.Contains(reasons[0].Args, "timeout") {
		return
	}
	limit := Duration(First(http.Block, "proxy_next_upstream_timeout"))
	read, send := Duration(First(http.Block, "proxy_read_timeout")), Duration(First(http.Block, "proxy_send_timeout"))
	if limit == 0 || limit >= min(read, send) {
		l.report(reasons[0], "retry", "timeout runs a slow request twice unless proxy_next_upstream_timeout is below proxy_read_timeout and proxy_send_timeout")
	}
}

// upstream checks a group of servers.
func (l *linter) upstream(u Directive) {
	if len(All(u.Block, "zone")) == 0 {
		l.report(u, "zone", "each nginx process has a view of its own")
	}
	listed := map[string]int{}
	hashed, pooled := "", false
	for _, d := range u.Block {
		switch {
		case d.Name == "keepalive":
			pooled = true
		case slices.Contains(balancers, d.Name):
			if pooled {
				l.report(d, "order", "%s must stand before keepalive", d.Name)
			}
			if strings.HasSuffix(d.Name, "hash") || d.Name == "random" {
				hashed = d.Name
			}
		case d.Name == "server":
			l.localhost(d)
			listed[d.Args[0]]++
			if fails := arg(d, "max_fails="); fails != "0" {
				l.report(d, "max_fails", "a worker that dies takes its whole instance out")
			}
		}
	}
	for _, d := range All(u.Block, "server") {
		if hashed != "" && slices.Contains(d.Args, "backup") {
			l.report(d, "backup", "%s does not know backup", hashed)
		}
		if listed[d.Args[0]] == 1 {
			l.report(d, "twice", "listed once: a retry never reaches a sibling worker")
		}
	}
}

func (l *linter) localhost(d Directive) {
	if len(d.Args) > 0 && strings.Contains(d.Args[0], "localhost") {
		l.report(d, "localhost", "may be two addresses, one with nobody listening")
	}
}

// All is every directive of that name in the block itself.
func All(block []Directive, name string) []Directive {
	var found []Directive
	for _, d := range block {
		if d.Name == name {
			found = append(found, d)
		}
	}
	return found
}

// First is the first argument of the first directive of that name in the block, "" if there is none.
func First(block []Directive, name string) string {
	for _, d := range block {
		if d.Name == name && len(d.Args) > 0 {
			return d.Args[0]
		}
	}
	return ""
}

// Duration reads a time as nginx writes it, with the units it shares with Go; 0 if it is none.
func Duration(s string) time.Duration {
	d, _ := time.ParseDuration(s)
	return d
}

// arg is the value of an argument like max_fails=0, "" without it.
func arg(d Directive, prefix string) string {
	for _, a := range d.Args {
		if v, ok := strings.CutPrefix(a, prefix); ok {
			return v
		}
	}
	return ""
}
