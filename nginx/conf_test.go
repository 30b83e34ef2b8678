package nginx

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

// The alternatives to upstream.conf that the nginx here must accept, and the includes that need a newer
// one, with the words an older one refuses them with.
var (
	alternatives = []string{"upstream-ip-hash.conf", "upstream-hash.conf"}
	gated        = map[string]string{
		"upstream-resolve.conf": `invalid parameter "resolve"`,
		"upstream-sticky.conf":  `unknown directive "sticky"`,
		"client-keepalive.conf": `unknown directive "keepalive_min_timeout"`,
	}
)

// shipped are the names of all files.
var shipped = append(must(fs.Glob(files, "*.conf")), must(fs.Glob(files, "site/*.conf"))...)

// test runs nginx -t on a file as an ordinary user.
func test(t *testing.T, conf string) (string, error) {
	t.Helper()
	needNginx(t)
	out, err := nginxCommand(prefix(t), conf, "-t").CombinedOutput()
	return string(out), err
}

func TestShippedFilesLoadAsTheyAre(t *testing.T) {
	for _, name := range []string{"production.conf", "tutorial.conf"} {
		path := must(filepath.Abs(name))
		if out, err := test(t, path); err != nil || strings.Contains(out, "[warn]") {
			t.Errorf("nginx -t %s: %v\n%s", name, err, out)
		}
	}
}

func TestAlternativesLoad(t *testing.T) {
	for _, name := range alternatives {
		dir := laidOut(t)
		use(t, name)(dir)
		if out, err := test(t, filepath.Join(dir, "production.conf")); err != nil || strings.Contains(out, "[warn]") {
			t.Errorf("nginx -t with %s: %v\n%s", name, err, out)
		}
	}
}

// What needs a newer nginx says so, and is refused by an older one: else it should not be set apart.
func TestGatedIncludesNeedANewerNginx(t *testing.T) {
	needNginx(t)
	version := string(must(exec.Command("nginx", "-v").CombinedOutput()))
	for name, refusal := range gated {
		text := string(must(files.ReadFile(name)))
		if !regexp.MustCompile(`^# Requires nginx 1\.\d+\.\d+:`).MatchString(text) {
			t.Errorf("%s does not begin with the version it requires", name)
		}
		dir := laidOut(t)
		if strings.HasPrefix(name, "upstream") {
			use(t, name)(dir)
		} else {
			change(t, "production.conf", "# include "+name, "include "+name)(dir)
		}
		out, err := test(t, filepath.Join(dir, "production.conf"))
		if strings.Contains(version, "nginx/1.22.") && (err == nil || !strings.Contains(out, refusal)) {
			t.Errorf("nginx 1.22 with %s: %v, want it refused with %q\n%s", name, err, refusal, out)
		}
	}
}

func TestEveryFileIsEitherIncludedOrAChoice(t *testing.T) {
	included := map[string]bool{"tutorial.conf": true}
	var walk func(block []Directive)
	walk = func(block []Directive) {
		for _, d := range block {
			included[d.File] = true
			walk(d.Block)
		}
	}
	walk(must(Parse(files, "production.conf")))
	for _, name := range shipped {
		_, newer := gated[name]
		if choice := newer || slices.Contains(alternatives, name); choice == included[name] {
			t.Errorf("%s: included %v, want it either included or one of the tested choices", name, included[name])
		}
	}
}

func laidOut(t *testing.T) string {
	t.Helper()
	dir := prefix(t)
	if err := Layout(dir, Ports{}); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestLayoutReplacesThePortsAndNothingElse(t *testing.T) {
	same, other := laidOut(t), prefix(t)
	if err := Layout(other, Ports{Front: 41, Status: 42, Instances: [3]int{43, 44, 45}}); err != nil {
		t.Fatal(err)
	}
	back := strings.NewReplacer("listen 41", "listen 3333", "127.0.0.1:42", "127.0.0.1:3334",
		"127.0.0.1:43", "127.0.0.1:3000", "127.0.0.1:44", "127.0.0.1:3001", "127.0.0.1:45", "127.0.0.1:3002")
	for _, name := range shipped {
		original := string(must(files.ReadFile(name)))
		if got := string(must(os.ReadFile(filepath.Join(same, name)))); got != original {
			t.Errorf("%s changed without a port to change", name)
		}
		got := string(must(os.ReadFile(filepath.Join(other, name))))
		if back.Replace(got) != original {
			t.Errorf("%s: more than the ports changed:\n%s", name, got)
		}
		if directive := regexp.MustCompile(`(?m)^\s*(listen|server) .*[:\s]3\d\d\d\b`); name != "upstream-resolve.conf" && directive.MatchString(got) {
			t.Errorf("%s still has %q", name, directive.FindString(got))
		}
	}
}

// rules are the words of the findings in a configuration.
func rules(t *testing.T, fsys fs.FS, name string) []string {
	t.Helper()
	conf, err := Parse(fsys, name)
	if err != nil {
		t.Fatal(err)
	}
	var words []string
	for _, f := range Lint(conf) {
		if !slices.Contains(words, f.Rule) {
			words = append(words, f.Rule)
		}
	}
	slices.Sort(words)
	return words
}

// with is the shipped files with one replaced by another, and text replaced in it.
func with(t *testing.T, name, other string, replace ...string) fs.FS {
	t.Helper()
	all := fstest.MapFS{}
	for _, n := range shipped {
		all[n] = &fstest.MapFile{Data: must(files.ReadFile(n))}
	}
	text := string(all[other].Data)
	changed := strings.NewReplacer(replace...).Replace(text)
	if len(replace) > 0 && changed == text {
		t.Fatalf("%s has nothing of %q", other, replace)
	}
	all[name] = &fstest.MapFile{Data: []byte(changed)}
	return all
}

func TestProductionIsCleanAndTheTutorialIsNot(t *testing.T) {
	if found := rules(t, files, "production.conf"); found != nil {
		t.Errorf("production.conf breaks %v", found)
	}
	for _, name := range []string{"upstream-ip-hash.conf", "upstream-hash.conf", "upstream-resolve.conf", "upstream-sticky.conf"} {
		if found := rules(t, with(t, "upstream.conf", name), "production.conf"); found != nil {
			t.Errorf("%s breaks %v", name, found)
		}
	}
	want := []string{"max_fails", "retry", "twice", "zone"}
	if found := rules(t, files, "tutorial.conf"); !reflect.DeepEqual(found, want) {
		t.Errorf("tutorial.conf breaks %v, want %v", found, want)
	}
}

func TestLintFindsEachBrokenRule(t *testing.T) {
	tests := []struct{ rule, file, from, to string }{
		{"zone", "upstream.conf", "zone revenant 128k;", ""},
		{"order", "upstream.conf", "keepalive_requests 1000;", "hash $uri;"},
		{"backup", "upstream.conf", "least_conn;", "ip_hash;"},
		{"backup", "upstream.conf", "least_conn;", "random two;"},
		{"localhost", "site/servers.conf", "server 127.0.0.1:", "server localhost:"},
		{"localhost", "production.conf", "proxy_pass http://$pool;", "proxy_pass http://localhost:3000;"},
		{"reuseport", "production.conf", "listen 3333;", "listen 3333 reuseport;"},
		{"max_fails", "site/servers.conf", "127.0.0.1:3000 max_fails=0;", "127.0.0.1:3000 max_fails=3;"},
		{"twice", "site/standby.conf", "3002 max_fails=0 backup;\nserver 127.0.0.1:3002 max_fails=0 backup;", "3002 max_fails=0 backup;"},
		{"tries", "site/retry.conf", "proxy_next_upstream_tries 0;", "proxy_next_upstream_tries 5;"},
		{"retry", "site/retry.conf", "error invalid_header;", "error timeout;"},
		{"retry", "site/retry.conf", "error invalid_header;", "error http_502;"},
		{"retry", "site/retry.conf", "error invalid_header;", "error non_idempotent;"},
		{"retry", "site/retry.conf", "error invalid_header;", "error timeout; proxy_next_upstream_timeout 60s;"},
		{"pool", "proxy.conf", "proxy_http_version 1.1;", ""},
		{"pool", "proxy.conf", "proxy_set_header Connection $upstream_connection;", "proxy_set_header Connection close;"},
		{"header", "production.conf", "proxy_pass http://$pool;", "proxy_set_header X-A b; proxy_pass http://$pool;"},
	}
	for _, test := range tests {
		name := test.file
		if strings.HasPrefix(name, "upstream") {
			name = "upstream.conf"
		}
		if found := rules(t, with(t, name, test.file, test.from, test.to), "production.conf"); !slices.Contains(found, test.rule) {
			t.Errorf("%q instead of %q in %s: found %v, want %s", test.to, test.from, test.file, found, test.rule)
		}
	}
}

func TestParseReadsWhatNginxReads(t *testing.T) {
	conf, err := Parse(fstest.MapFS{
		"main.conf":  {Data: []byte("a; # a comment; {\nb \"two words\" 'th;ree' \"\" {\n  include inner.conf;\n  d ${x}y ~(?<p>:[0-9]+)$;\n}\n")},
		"inner.conf": {Data: []byte("c 1;\n")},
	}, "main.conf")
	if err != nil {
		t.Fatal(err)
	}
	want := []Directive{
		{Name: "a", Args: []string{}, File: "main.conf", Line: 1},
		{Name: "b", Args: []string{"two words", "th;ree", ""}, File: "main.conf", Line: 2, Block: []Directive{
			{Name: "c", Args: []string{"1"}, File: "inner.conf", Line: 1},
			{Name: "d", Args: []string{"${x}y", "~(?<p>:[0-9]+)$"}, File: "main.conf", Line: 4},
		}},
	}
	if !reflect.DeepEqual(conf, want) {
		t.Errorf("Parse = %+v\nwant %+v", conf, want)
	}
	for _, broken := range []string{"a", "a {", "}", "a \"b", ";", "a { b }", "include gone.conf;"} {
		if conf, err := Parse(fstest.MapFS{"main.conf": {Data: []byte(broken)}}, "main.conf"); err == nil {
			t.Errorf("Parse(%q) = %v, want an error", broken, conf)
		}
	}
}

// workerDefault is a default of package worker, from its source.
func workerDefault(t *testing.T, name, unit string) int {
	t.Helper()
	text := string(must(os.ReadFile("../worker/options.go")))
	match := regexp.MustCompile(name + `\s*= (\d+) ` + regexp.QuoteMeta(unit)).FindStringSubmatch(text)
	if match == nil {
		t.Fatalf("worker/options.go has no %s", name)
	}
	return must(strconv.Atoi(match[1]))
}

func TestTimersFitTogether(t *testing.T) {
	workerQuiet := time.Duration(workerDefault(t, "defaultQuiet", "* time.Second")) * time.Second
	workerIdle := time.Duration(workerDefault(t, "defaultIdle", "* time.Second")) * time.Second
	workerHeaderSize := workerDefault(t, "defaultHeaderBytes", "<< 10") << 10
	for _, name := range append([]string{"upstream.conf", "upstream-resolve.conf", "upstream-sticky.conf"}, alternatives...) {
		conf := must(Parse(with(t, "upstream.conf", name), "production.conf"))
		http := All(conf, "http")[0].Block
		upstream := All(http, "upstream")[0].Block
		timer := func(block []Directive, directive string) time.Duration {
			d := Duration(First(block, directive))
			if d == 0 {
				t.Errorf("%s: %s is not set", name, directive)
			}
			return d
		}
		idle := timer(upstream, "keepalive_timeout")
		if idle+time.Second > workerQuiet || idle+time.Second > workerIdle {
			t.Errorf("%s: idle connections are closed after %v, a worker closes them after %v (draining) and %v", name, idle, workerQuiet, workerIdle)
		}
		connect, read := timer(http, "proxy_connect_timeout"), timer(http, "proxy_read_timeout")
		if connect > 2*time.Second || connect >= read {
			t.Errorf("%s: connect %v, read %v", name, connect, read)
		}
		if shutdown := timer(conf, "worker_shutdown_timeout"); shutdown <= read {
			t.Errorf("%s: a reload cuts answers after %v, the longest silence allowed is %v", name, shutdown, read)
		}
		if client := timer(http, "keepalive_timeout"); client >= workerIdle {
			t.Errorf("client connections idle for %v, longer than a worker's %v", client, workerIdle)
		}
	}
	// Four buffers of 8 KiB.
	buffers := All(All(must(Parse(files, "production.conf")), "http")[0].Block, "large_client_header_buffers")
	if len(buffers) != 1 || !slices.Equal(buffers[0].Args, []string{"4", "8k"}) || 4*8<<10 >= workerHeaderSize {
		t.Errorf("header buffers %v, want less than a worker's %d bytes", buffers, workerHeaderSize)
	}
}

func TestScriptsFindWhatTheyNeedInTheConfiguration(t *testing.T) {
	conf := must(Parse(files, "production.conf"))
	for what, got := range map[string][2]string{
		"pid":     {PIDFile(conf, "/dir"), "/dir/nginx.pid"},
		"closing": {ClosingFile(conf, "/dir"), "/dir/closing"},
		"status":  {StatusURL(conf), "http://127.0.0.1:3334/nginx_status"},
	} {
		if got[0] != got[1] {
			t.Errorf("%s: %q, want %q", what, got[0], got[1])
		}
	}
	other := must(Parse(fstest.MapFS{"a.conf": {Data: []byte("pid /run/a.pid; http { server { listen 80; set $closing /c; location /s { stub_status; } } }")}}, "a.conf"))
	if got := []string{PIDFile(other, "/d"), ClosingFile(other, "/d"), StatusURL(other)}; !slices.Equal(got, []string{"/run/a.pid", "/c", "http://127.0.0.1:80/s"}) {
		t.Errorf("found %q", got)
	}
	tutorial := must(Parse(files, "tutorial.conf"))
	if got := ClosingFile(tutorial, "/d"); got != "" {
		t.Errorf("tutorial.conf has the closing file %s", got)
	}
}
