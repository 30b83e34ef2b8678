package nginx

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// reloadLimit is how long nginx may take to start its new processes.
const reloadLimit = 20 * time.Second

// Process is an nginx on this machine. It is Running.
type Process struct {
	Path   string // of the program
	Prefix string // as in nginx -p
	Config string // as in nginx -c
	PID    string // the pid file; nginx.pid in the prefix by default
	Status string // the URL of stub_status, "" without one
}

// NotRunningError says that nobody runs with that pid file.
type NotRunningError struct {
	PIDFile string
	Cause   error
}

func (e *NotRunningError) Error() string {
	return fmt.Sprintf("nginx is not running: %s: %v (start it with -p and -c as they are given here)", e.PIDFile, e.Cause)
}

func (e *NotRunningError) Unwrap() error { return e.Cause }

// Master is the pid of the running nginx, or a NotRunningError.
func (p *Process) Master() (int, error) {
	file := p.PID
	if file == "" {
		file = filepath.Join(p.Prefix, "nginx.pid")
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, &NotRunningError{file, errors.Unwrap(err)}
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 1 {
		return 0, &NotRunningError{file, fmt.Errorf("%.20q is not a pid", text)}
	}
	if title := titleOf(pid); !strings.HasPrefix(title, "nginx: master") {
		return 0, &NotRunningError{file, fmt.Errorf("pid %d is not its master process", pid)}
	}
	return pid, nil
}

// Check runs nginx -t.
func (p *Process) Check(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, p.Path, "-t", "-q", "-e", "stderr", "-p", p.Prefix, "-c", p.Config)
	return Refusal(cmd.CombinedOutput())
}

// Refusal is the error of an nginx -t that printed said and ended with err.
func Refusal(said []byte, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("nginx refuses the configuration: %w\n%s", err, bytes.TrimSpace(said))
}

// Reload sends HUP and waits for the change of processes.
func (p *Process) Reload(ctx context.Context) error {
	master, err := p.Master()
	if err != nil {
		return err
	}
	log := openLogs(master)
	defer log.Close()
	turn := Turn{Old: Workers(processesOf(master))}
	if err := syscall.Kill(master, syscall.SIGHUP); err != nil {
		return fmt.Errorf("cannot ask nginx (pid %d) to reload: %w", master, err)
	}
	return turn.Await(ctx, func() (map[int]string, string, error) {
		if _, err := p.Master(); err != nil {
			return nil, "", err
		}
		return processesOf(master), log.failures(), nil
	})
}

// Turn is the change from old worker processes to new ones.
type Turn struct {
	Old []int // the pids of those that took connections before
}

// Workers are the pids of the worker processes that take connections, among processes by title.
func Workers(processes map[int]string) []int {
	var pids []int
	for pid, title := range processes {
		if strings.HasPrefix(title, "nginx: worker process") && !strings.Contains(title, "shutting down") {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Done says whether new ones take connections and no old one does.
func (t Turn) Done(processes map[int]string) bool {
	old := map[int]bool{}
	for _, pid := range t.Old {
		old[pid] = true
	}
	now := Workers(processes)
	for _, pid := range now {
		if old[pid] {
			return false
		}
	}
	return len(now) > 0
}

// Await asks look for the processes, and for what nginx has complained of, until the turn is done.
func (t Turn) Await(ctx context.Context, look func() (processes map[int]string, complaint string, err error)) error {
	ctx, cancel := context.WithTimeout(ctx, reloadLimit)
	defer cancel()
	for {
		processes, complaint, err := look()
		switch {
		case err != nil:
			return err
		case t.Done(processes):
			return nil
		case complaint != "":
			return fmt.Errorf("nginx does not reload:\n%s", complaint)
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return fmt.Errorf("nginx has no new processes: %w (its error log may say why)", err)
		}
	}
}

// processesOf are the titles of a process's children.
func processesOf(parent int) map[int]string {
	titles := map[int]string{}
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		stat, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), "stat"))
		// The name in parentheses may hold anything; the state and the parent follow it.
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(fields) > 1 && fields[1] == strconv.Itoa(parent) {
			titles[pid] = titleOf(pid)
		}
	}
	return titles
}

func titleOf(pid int) string {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return strings.TrimRight(strings.ReplaceAll(string(text), "\x00", " "), " ")
}

// logs are the files that nginx writes, from where they ended when they were opened.
type logs struct {
	master int
	files  []*os.File
}

// openLogs finds the logs among what the master has open: where they lie differs from start to start.
func openLogs(master int) *logs {
	l := &logs{master: master}
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", master))
	for _, fd := range fds {
		if info, err := os.Stat(fd); err != nil || !info.Mode().IsRegular() {
			continue
		}
		f, err := os.Open(fd)
		if err != nil {
			continue
		}
		_, _ = f.Seek(0, io.SeekEnd)
		l.files = append(l.files, f)
	}
	return l
}

func (l *logs) Close() {
	for _, f := range l.files {
		f.Close()
	}
}

// failures are the new lines that say why a configuration was not taken.
func (l *logs) failures() string {
	var all []byte
	for _, f := range l.files {
		text, _ := io.ReadAll(f)
		all = append(all, text...)
	}
	return Failures(all, l.master)
}

// Failures are the lines of a log in which a master says why it did not take a configuration.
func Failures(log []byte, master int) string {
	var lines []string
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, fmt.Sprintf(" [emerg] %d#", master)) {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return strings.Join(lines, "\n")
}

var waitingClients = regexp.MustCompile(`Waiting: (\d+)`)

// Waiting asks stub_status.
func (p *Process) Waiting(ctx context.Context) (n int, known bool) {
	if p.Status == "" {
		return 0, false
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.Status, nil)
	if err != nil {
		return 0, false
	}
	req.Close = true // not one that waits itself
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, false
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	m := waitingClients.FindSubmatch(text)
	if err != nil || m == nil {
		return 0, false
	}
	n, err = strconv.Atoi(string(m[1]))
	return n, err == nil
}
