package main

import (
	"errors"
	"fmt"
	"math"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"revenant/cmd/revenant/configfile"
	"revenant/supervisor"
	"revenant/supervisor/cgroup"
	"revenant/supervisor/listen"
)

// option is one setting: a flag, the same as a variable in the environment, and
// the same as a key in the configuration file. The flag wins over the variable,
// and that over the file. Values are read here and not by the flag library, so that every
// error has the same form: the name that was used, the value, the cause, the
// remedy.
type option struct {
	name  string
	kind  string // what --help calls the value; "bool" for a flag that needs none
	value string // the default
	usage string
}

// The settings of revenant run.
var runOptions = append([]option{
	{"listen", "ADDRESS", "tcp://127.0.0.1:3000", "tcp://HOST:PORT or unix:/PATH; may be given again, or a list with commas"},
	{"workers", "N", "auto", "how many workers: auto (one per CPU that we may use, at least 2), a number, or auto/K for one of K instances on a host"},
	nameOption,
	runtimeDirOption,
	configOption,
	{"start-timeout", "TIME", "30s", "how long a worker may take until it is ready"},
	{"liveness", "TIME", "60s", "for how long a worker may show no sign of life until it is replaced; 0s for ever"},
	{"liveness-probe", "http:/PATH", "", "what every worker must answer once in this time, with a status below 500; a program without package worker is asked through the first listener, and judged by whoever accepted"},
	{"drain-timeout", "TIME", "25s", "how long a worker may take to finish its requests when asked to leave; then it is cut"},
	{"pre-stop", "TIME", "0s", "how long an instance that is told to stop says that it is not ready, and still takes connections, before it does"},
	{"probe-path", "PATH", "/", "what a new worker must answer before the former one leaves, with a status below 500; not for programs without package worker"},
	{"max-requests", "N", "0", "replace a worker that has answered so many requests, a tenth more or less; 0 for never"},
	{"max-age", "TIME", "0s", "replace a worker that has served for so long, a tenth more or less; 0s for never"},
	{"max-memory", "SIZE", "0", "replace a worker that occupies so much memory (512M, 1G), a tenth more or less; 0 for never"},
	{"probation", "TIME", "10s", "how long after an upgrade a new version that crashes again and again is a reason to return to the one before; 0s for never"},
	{"on-crash-loop", "WHAT", "backoff", "when every worker crashes again and again: backoff (never give up) or exit (code 11)"},
	{"chaos", "bool", "false", "let GET /workerKiller end workers"},
	{"chaos-token-file", "FILE", "", "holds the token that /workerKiller then asks for; read when the instance starts, and by a reload that names another file"},
	{"log-format", "FORMAT", "auto", "auto (pretty on a terminal, else json), json or pretty"},
	{"log-passthrough", "bool", "false", "let workers print to our own stdout and stderr, untouched: no lines in the log, none for revenant logs"},
}, programOptions...)

// Settings that name an instance: run and all clients have them.
var (
	nameOption       = option{"name", "NAME", "default", "name of the instance on this machine"}
	runtimeDirOption = option{"runtime-dir", "DIR", "", "folder for the control socket (default $RUNTIME_DIRECTORY, /run/revenant for root, $XDG_RUNTIME_DIR/revenant, /tmp/revenant-UID)"}
)

func (o option) variable() string {
	return "REVENANT_" + strings.ToUpper(strings.ReplaceAll(o.name, "-", "_"))
}

// settings reads options from flags, environment and configuration file.
type settings struct {
	flags   *pflag.FlagSet
	options map[string]option
	file    *configfile.File // nil without one
	faults  error            // of the file
	token   string           // read before, in place of what chaos-token-file says
	command []string         // what stands behind --: the program of the workers
}

// addOptions declares flags and returns their reader.
func addOptions(flags *pflag.FlagSet, options ...option) *settings {
	s := &settings{flags: flags, options: make(map[string]option, len(options))}
	flags.SortFlags = false
	for _, o := range options {
		f := flags.VarPF(&flagValue{kind: o.kind, values: []string{o.value}}, o.name, "", o.usage+" [$"+o.variable()+"]")
		if o.kind == "bool" {
			f.NoOptDefVal = "true"
		}
		s.options[o.name] = o
	}
	return s
}

// flagValue keeps what was given, word for word; it is understood later.
type flagValue struct {
	kind   string
	given  bool
	values []string
}

func (v *flagValue) Type() string   { return v.kind }
func (v *flagValue) String() string { return strings.Join(v.values, ",") }

func (v *flagValue) Set(value string) error {
	if !v.given {
		v.given, v.values = true, nil // the first one replaces the default
	}
	v.values = append(v.values, value)
	return nil
}

// get returns a setting's values and what they were called where they came from.
func (s *settings) get(name string) (values []string, source string) {
	switch s.from(name) {
	case fromEnvironment:
		values = []string{os.Getenv(s.options[name].variable())}
	case fromFile:
		values = s.file.Entries[name].Texts()
	default:
		values, _ = s.onCommandLine(name)
	}
	return values, s.source(name, "")
}

// onCommandLine are the values that a setting has there, or the default ones.
func (s *settings) onCommandLine(name string) (values []string, given bool) {
	if name == commandKey {
		return s.command, len(s.command) > 0
	}
	flag := s.flags.Lookup(name)
	return flag.Value.(*flagValue).values, flag.Changed
}

// source is what one of a setting's values was called where it came from.
func (s *settings) source(name, value string) string {
	switch s.from(name) {
	case fromEnvironment:
		return s.options[name].variable()
	case fromFile:
		return s.file.At(s.file.Entries[name].Find(value), name)
	}
	if name == commandKey {
		return "--"
	}
	return "--" + name
}

// Where a setting's values come from.
type origin string

const (
	fromFlag        origin = "flag"
	fromEnvironment origin = "environment"
	fromFile        origin = "file"
	fromDefault     origin = "default"
)

func (s *settings) from(name string) origin {
	_, given := s.onCommandLine(name)
	switch {
	case given:
		return fromFlag
	case os.Getenv(s.options[name].variable()) != "":
		return fromEnvironment
	case s.file.Has(name):
		return fromFile
	}
	return fromDefault
}

func (s *settings) one(name string) string {
	values, _ := s.get(name)
	return values[len(values)-1]
}

// parse reads a setting with a function whose errors say cause and remedy. The
// error is added to those of other settings.
func parse[T any](s *settings, err *error, name string, read func(string) (T, error)) T {
	value := s.one(name)
	result, e := read(value)
	if e != nil {
		*err = errors.Join(*err, s.wrong(name, value, e))
	}
	return result
}

// wrong is the one form of an error about a setting.
func (s *settings) wrong(name, value string, cause error) error {
	text := cause.Error()
	for _, repeated := range []string{value, strconv.Quote(value)} {
		text = strings.TrimPrefix(text, repeated+": ")
	}
	if s.from(name) == fromFile {
		place := s.file.Entries[name].Find(value)
		return codeError{exitUsage, s.file.Wrong(place, name, value, errors.New(text))}
	}
	return codeError{exitUsage, fmt.Errorf("%s %s: %s", s.source(name, value), value, text)}
}

func oneOf(words ...string) func(string) (string, error) {
	return func(value string) (string, error) {
		if !slices.Contains(words, value) {
			return "", fmt.Errorf("unknown value (use %s)", strings.Join(words, ", "))
		}
		return value, nil
	}
}

func duration(value string) (time.Duration, error) {
	d, err := time.ParseDuration(value)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("not a positive duration (write it like 30s or 1m30s)")
	}
	return d, nil
}

func durationOrNone(value string) (time.Duration, error) {
	d, err := time.ParseDuration(value)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("not a duration (write it like 30s or 1m30s, or 0s for none)")
	}
	return d, nil
}

func limitNumber(value string) (uint64, error) {
	n, err := strconv.ParseUint(value, 10, 63)
	if err != nil {
		return 0, fmt.Errorf("not a number (write it like 10000, or 0 for no limit)")
	}
	return n, nil
}

// size reads bytes, with K, M or G for powers of 1024.
func size(value string) (int64, error) {
	digits, shift := value, 0
	for unit, bits := range map[string]int{"K": 10, "M": 20, "G": 30} {
		if cut, ok := strings.CutSuffix(value, unit); ok {
			digits, shift = cut, bits
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64>>shift {
		return 0, fmt.Errorf("not a size (write it like 512M or 1G, or 0 for no limit)")
	}
	return n << shift, nil
}

func httpPath(value string) (string, error) {
	if u, err := url.ParseRequestURI(value); err != nil || !strings.HasPrefix(value, "/") || u.Host != "" {
		return "", fmt.Errorf("not the path of a URL (write it like /health)")
	}
	return value, nil
}

// livenessProbe is the path that is asked for, "" for none.
func livenessProbe(s *settings, err *error, liveness time.Duration) string {
	path := parse(s, err, "liveness-probe", func(value string) (string, error) {
		kind, detail, _ := strings.Cut(value, ":")
		if _, e := httpPath(detail); value != "" && (kind != string(supervisor.ReadyHTTP) || e != nil) {
			return "", errors.New("not a probe (write it like http:/health)")
		}
		return detail, nil
	})
	if path != "" && liveness == 0 {
		*err = errors.Join(*err, s.wrong("liveness-probe", s.one("liveness-probe"), errors.New("nobody is probed while liveness is 0s (give it a time, like 60s)")))
	}
	return path
}

func boolean(value string) (bool, error) {
	yes, err := strconv.ParseBool(value)
	if err != nil {
		return false, fmt.Errorf("neither true nor false (use true or 1, false or 0)")
	}
	return yes, nil
}

// instanceOptions are the settings of revenant run, understood.
type instanceOptions struct {
	name      string
	dir       string // of this instance: RUNTIME-DIR/NAME
	listen    []listen.Address
	workers   cgroup.Spec
	policy    supervisor.Policy
	preStop   time.Duration
	liveness  time.Duration
	liveProbe string
	probePath string
	probation time.Duration
	recycle   supervisor.Limits
	chaos     bool
	tokenFile string
	token     string
	tokenPath string // of a master: where workers read it
	logFormat string
	logPass   bool // workers print where we do
	program   supervisor.Program
	settings  *settings
}

// readOptions understands all settings. Its error joins everything that is wrong
// with any of them.
func readOptions(s *settings) (o instanceOptions, err error) {
	o.settings, err = s, s.faults
	o.name = parse(s, &err, "name", instanceName)
	o.workers = parse(s, &err, "workers", cgroup.ParseSpec)
	o.policy.StartTimeout = parse(s, &err, "start-timeout", duration)
	o.policy.DrainTimeout = parse(s, &err, "drain-timeout", duration)
	o.liveness = parse(s, &err, "liveness", durationOrNone)
	o.liveProbe = livenessProbe(s, &err, o.liveness)
	o.preStop = parse(s, &err, "pre-stop", durationOrNone)
	o.probation = parse(s, &err, "probation", durationOrNone)
	o.probePath = parse(s, &err, "probe-path", httpPath)
	o.recycle.Requests = parse(s, &err, "max-requests", limitNumber)
	o.recycle.Age = parse(s, &err, "max-age", durationOrNone)
	o.recycle.Memory = parse(s, &err, "max-memory", size)
	o.policy.ExitOnCrashLoop = parse(s, &err, "on-crash-loop", oneOf("backoff", "exit")) == "exit"
	o.chaos = parse(s, &err, "chaos", boolean)
	o.tokenFile = s.one("chaos-token-file")
	if o.token = s.token; o.token == "" {
		o.token = parse(s, &err, "chaos-token-file", tokenIn)
	}
	o.logFormat = parse(s, &err, "log-format", oneOf("auto", "json", "pretty"))
	o.logPass = parse(s, &err, "log-passthrough", boolean)
	o.dir = instanceDir(s, o.name)
	o.listen = listenAddresses(s, &err)
	o.program = readProgram(s, &err, o.listen)
	if limit := o.policy.StartTimeout; limit > 0 && o.program.Ready.Delay >= limit {
		err = errors.Join(err, s.wrong("ready", s.one("ready"), fmt.Errorf("no worker would be ready within the start timeout of %v (shorten it, or raise --start-timeout)", limit)))
	}
	return o, inOrder(err)
}

func listenAddresses(s *settings, err *error) (addresses []listen.Address) {
	seen := map[string]bool{}
	values, _ := s.get("listen")
	wrong := func(value string, cause error) { *err = errors.Join(*err, s.wrong("listen", value, cause)) }
	for _, list := range values {
		for value := range strings.SplitSeq(list, ",") {
			value = strings.TrimSpace(value)
			a, e := listen.Parse(value)
			switch {
			case e != nil:
				wrong(value, e)
			case seen[a.String()]:
				wrong(value, fmt.Errorf("given twice (remove one)"))
			default:
				seen[a.String()] = true
				addresses = append(addresses, a)
			}
		}
	}
	if len(values) == 0 {
		wrong("[]", fmt.Errorf("no address (give one, or remove the line)"))
	}
	return addresses
}

// usageError is the form of an error about anything on the command line.
func usageError(name, value string, cause error) error {
	return fmt.Errorf("%s %s: %w", name, value, cause)
}

func joinOr(words []string) string {
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}
