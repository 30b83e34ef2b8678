package scripts

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revenant/scripts/internal/stage"
	"revenant/supervisor/supervisortest"
)

// The README's commands use the ports that it names, so they are run in a
// network namespace of their own, where nobody else has them.
const insideReadme = "REVENANT_TEST_INSIDE_README"

func TestEveryCommandOfTheReadmeWorks(t *testing.T) {
	if os.Getenv(insideReadme) == "" {
		inOwnNetwork(t)
		return
	}
	if err := loopbackUp(); err != nil {
		t.Fatal(err)
	}
	p := newPicture(t)
	p.environ = append(os.Environ(), "REVENANT_RUNTIME_DIR="+p.runtime, "TMPDIR="+p.tempDirs)
	r := &reader{t: t, picture: p, left: supervisortest.ReadmeCommands(t)}

	r.start("go run ./cmd/revenant run --chaos", "instance ready")
	r.run("curl http://127.0.0.1:3000/", `^Hello, I am worker \[\d+\] of server \[[0-9a-f-]{36}\]\.\n$`)
	r.run("curl http://127.0.0.1:3000/workerKiller", `dies now: graceful`)
	r.run("go run ./cmd/revenant ps", `^(READY|DEGRADED) .*generation 1`)
	r.run("go run ./cmd/revenant events", `worker.exited .*cause=chaos planned=true`)
	r.run("go run ./cmd/revenant stop", `stopped in`)
	r.ended("go run ./cmd/revenant run --chaos", 0)

	r.environ = append(r.environ, "FILE="+exampleFile(t))
	r.run(`go run ./cmd/revenant check "$FILE"`, `^ok: .* \(4 settings\)`)

	if _, err := stage.FrontPath(); err == nil {
		r.start("./scripts/demo", "3333")
		r.run("go run ./cmd/revenant ps --name one", `^READY 2/2`)
		r.run("./scripts/chaos", `kept`)
		r.interrupt("./scripts/demo")
		r.environ = append(r.environ, "DIR="+nginxPrefix(t))
		r.run(`nginx -p "$DIR" -c "$PWD/nginx/production.conf"`, ``)
		r.run2(`nginx -p "$DIR" -c "$PWD/nginx/production.conf" -s quit`)
	} else {
		t.Logf("SKIPPED, NOT TESTED: the README's commands with nginx: %v", err)
		r.leave("./scripts/demo", "go run ./cmd/revenant ps --name one", "./scripts/chaos", `nginx -p "$DIR" -c "$PWD/nginx/production.conf"`)
	}
	// What runs this test; .ci/run must run the same.
	r.leave("./scripts/test")
	ci, err := os.ReadFile("../.ci/run")
	if err != nil || !strings.Contains(string(ci), "./scripts/test") {
		t.Errorf(".ci/run does not run the README's test command (%v)", err)
	}
	for _, command := range r.left {
		if !strings.HasPrefix(command, "docker") { // those are run by package docker's tests
			t.Errorf("no test runs the README's command %q", command)
		}
	}
}

// exampleFile holds the README's configuration file.
func exampleFile(t *testing.T) (path string) {
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	example := regexp.MustCompile("(?s)```toml\n(.*?)```").FindSubmatch(text)
	if example == nil {
		t.Fatal("there is no configuration file in the README")
	}
	path = filepath.Join(t.TempDir(), "revenant.toml")
	if err := os.WriteFile(path, example[1], 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestProgramInTheReadmeWorks(t *testing.T) {
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	program := regexp.MustCompile("(?s)```go\n(.*?)```").FindSubmatch(text)
	if program == nil {
		t.Fatal("there is no program in the README")
	}
	dir := t.TempDir()
	source, binary := filepath.Join(dir, "main.go"), filepath.Join(dir, "program")
	if err := os.WriteFile(source, program[1], 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "build", "-o", binary, source).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	// By the worker contract, on a socket of ours: its own port may be taken here.
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	file, err := socket.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	// The shell's pid becomes the program's.
	cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$0"`, binary)
	cmd.ExtraFiles = []*os.File{file}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = socket.Close()
	out, err := exec.Command("curl", "-sS", "--max-time", "20", "http://"+socket.Addr().String()).Output()
	if err != nil || string(out) != "hello\n" {
		t.Errorf("it answers %q, %v", out, err)
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
}

// reader does what the README says and keeps book of what is left.
type reader struct {
	picture
	t       *testing.T
	left    []string
	running map[string]*running
}

type running struct {
	cmd  *exec.Cmd
	said *output
	done chan error
}

// leave strikes commands from the list.
func (r *reader) leave(commands ...string) {
	r.t.Helper()
	for _, c := range commands {
		i := slices.Index(r.left, c)
		if i < 0 {
			r.t.Fatalf("the README no longer says %q: this test does", c)
		}
		r.left = slices.Delete(r.left, i, i+1)
	}
}

func (r *reader) shell(ctx context.Context, command string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "bash", "-c", command)
	cmd.Dir, cmd.Env = supervisortest.Root(), r.environ
	return cmd
}

// run runs a command to its end.
func (r *reader) run(command, want string) {
	r.t.Helper()
	r.leave(command)
	out := r.run2(command)
	if !regexp.MustCompile(want).MatchString(out) {
		r.t.Fatalf("%s printed\n%s\nwant %s", command, out, want)
	}
}

func (r *reader) run2(command string) string {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := r.shell(ctx, command)
	// Files and not pipes: what a command leaves running, as nginx, holds them open.
	dir := r.t.TempDir()
	stdout, err1 := os.Create(filepath.Join(dir, "stdout"))
	stderr, err2 := os.Create(filepath.Join(dir, "stderr"))
	if err := errors.Join(err1, err2); err != nil {
		r.t.Fatal(err)
	}
	defer stdout.Close()
	defer stderr.Close()
	cmd.Stdout, cmd.Stderr = stdout, stderr
	err := cmd.Run()
	out, _ := os.ReadFile(stdout.Name())
	if err != nil {
		errs, _ := os.ReadFile(stderr.Name())
		r.t.Fatalf("%s: %v\n%s%s", command, err, out, errs)
	}
	return string(out)
}

// start runs a command that stays, and waits until it has said something.
func (r *reader) start(command, until string) {
	r.t.Helper()
	r.leave(command)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	r.t.Cleanup(cancel)
	p := &running{cmd: r.shell(ctx, command), said: &output{}, done: make(chan error, 1)}
	p.cmd.Stdout, p.cmd.Stderr = p.said, p.said
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.cmd.Cancel = func() error { return syscall.Kill(-p.cmd.Process.Pid, syscall.SIGTERM) }
	if err := p.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	// Ends with the command, which ends with the test.
	go func() { p.done <- p.cmd.Wait() }()
	if r.running == nil {
		r.running = map[string]*running{}
	}
	r.running[command] = p
	awaitCondition(r.t, func() bool { return strings.Contains(p.said.String(), until) }, func() string {
		return fmt.Sprintf("%s never said %q:\n%s", command, until, p.said)
	})
}

// ended waits for a command that something else has ended.
func (r *reader) ended(command string, code int) {
	r.t.Helper()
	p := r.running[command]
	select {
	case <-p.done:
		if got := p.cmd.ProcessState.ExitCode(); got != code {
			r.t.Errorf("%s: exit code %d, want %d:\n%s", command, got, code, p.said)
		}
	case <-time.After(patience):
		r.t.Fatalf("%s does not end:\n%s", command, p.said)
	}
}

// interrupt is Ctrl-C in the command's terminal.
func (r *reader) interrupt(command string) {
	r.t.Helper()
	_ = syscall.Kill(-r.running[command].cmd.Process.Pid, syscall.SIGINT)
	r.ended(command, 0)
}

func awaitCondition(t *testing.T, good func() bool, otherwise func() string) {
	t.Helper()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for limit := time.After(2 * patience); !good(); {
		select {
		case <-again.C:
		case <-limit:
			t.Fatal(otherwise())
		}
	}
}

// inOwnNetwork runs the test again where all ports are free.
func inOwnNetwork(t *testing.T) {
	t.Helper()
	again := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=8m")
	again.Env = append(os.Environ(), insideReadme+"=1")
	again.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	out, err := again.CombinedOutput()
	if again.Process == nil {
		t.Skipf("SKIPPED, NOT TESTED: the README's commands need a network namespace of their own: %v", err)
	}
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
}

// loopbackUp switches lo on in a new network namespace.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
}

// nginxPrefix is a folder that nginx may write, whoever it runs as.
func nginxPrefix(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "front")
	if err == nil {
		err = os.Chmod(dir, 0o777)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
