package stage

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"revenant/nginx"
	"revenant/supervisor/listen"
)

// Front is nginx on a copy of a shipped configuration.
type Front struct {
	Config string // production.conf or tutorial.conf
	Ports  nginx.Ports
	Dir    string // its prefix: the copy, logs and temporary files

	process *Process
}

// ErrNoNginx is what Start says where nginx is not installed.
var ErrNoNginx = errors.New("nginx is not installed (Debian: apt-get install nginx-light)")

// FrontPath finds nginx, also where /usr/sbin is not in an ordinary user's PATH.
func FrontPath() (string, error) {
	for _, name := range []string{"nginx", "/usr/sbin/nginx", "/usr/local/sbin/nginx"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", ErrNoNginx
}

// Target is where the front listens.
func (f *Front) Target() string { return Target(f.Ports.Front) }

// Target is an address on loopback, as a ledger wants it.
func Target(port int) string { return "tcp://127.0.0.1:" + strconv.Itoa(port) }

// Start lays the files out and waits until nginx listens.
func (f *Front) Start(ctx context.Context) error {
	path, err := FrontPath()
	if err != nil {
		return fmt.Errorf("cannot start the front: %w", err)
	}
	// nginx would try for seconds and then speak of bind(); this names the owner.
	if err := free(ctx, f.Ports.Front); err != nil {
		return fmt.Errorf("cannot start the front: %w", err)
	}
	// As root, nginx serves as another user, who wants to read and write here.
	if err := errors.Join(os.Chmod(f.Dir, 0o755), nginx.Layout(f.Dir, f.Ports)); err != nil {
		return err
	}
	said := &tail{}
	cmd := exec.Command(path, "-e", "stderr", "-p", f.Dir, "-c", filepath.Join(f.Dir, f.Config), "-g", "daemon off;")
	cmd.Stdout, cmd.Stderr = said, said
	if f.process, err = StartProcess(cmd); err != nil {
		return fmt.Errorf("cannot start the front: %w", err)
	}
	err = f.process.Await(ctx, func() bool {
		conn, err := net.DialTimeout("tcp", "127.0.0.1:"+strconv.Itoa(f.Ports.Front), time.Second)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	if err != nil {
		f.process.Stop(time.Second)
		return fmt.Errorf("cannot start the front on port %d: %w\n%s", f.Ports.Front, err, said.text())
	}
	return nil
}

// Process is nginx's master.
func (f *Front) Process() *Process { return f.process }

// Stop ends nginx at once.
func (f *Front) Stop() error {
	if f.process == nil {
		return nil
	}
	return f.process.Stop(5 * time.Second)
}

func free(ctx context.Context, port int) error {
	address, err := listen.Parse(fmt.Sprintf("tcp://:%d", port))
	if err != nil {
		return err
	}
	s, err := listen.Bind(ctx, address)
	if err != nil {
		return err
	}
	return s.Close()
}

// FreePorts finds ports that nobody listens on and that the kernel does not give
// to clients: under load one of those is taken again before it can be bound.
func FreePorts(n int) ([]int, error) {
	low, high := 15000, clientPorts()
	if high <= low {
		low, high = 1024, 65536
	}
	var ports []int
	for range 100 * n {
		port := low + rand.IntN(high-low)
		ln, err := net.Listen("tcp", ":"+strconv.Itoa(port))
		if err != nil {
			continue
		}
		// Held until all are found, so that none is found twice.
		defer ln.Close()
		if ports = append(ports, port); len(ports) == n {
			return ports, nil
		}
	}
	return nil, fmt.Errorf("cannot find %d free ports from %d to %d", n, low, high)
}

// clientPorts is the first port that the kernel gives to clients.
func clientPorts() int {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return 32768
	}
	first, _, _ := strings.Cut(string(text), "\t")
	n, err := strconv.Atoi(first)
	if err != nil {
		return 32768
	}
	return n
}
