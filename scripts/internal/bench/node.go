package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"revenant/scripts/internal/stage"
)

// nodeCluster is the tutorial's server: a primary that forks again on exit.
const nodeCluster = `
const cluster = require('node:cluster');
if (cluster.isPrimary) {
  cluster.on('listening', (w) => console.log(JSON.stringify({
    pid: w.process.pid, ms: performance.timeOrigin + performance.now() })));
  cluster.on('exit', () => cluster.fork());
  for (let i = 0; i < 2; i++) cluster.fork();
} else {
  require('node:http').createServer((request, response) =>
    response.end('Hello, I am worker [' + cluster.worker.id + '].\n')).listen(process.env.PORT, '127.0.0.1');
}
`

// node is a running Node cluster.
type node struct {
	process *stage.Process
	ready   chan nodeReady
	workers []int
}

type nodeReady struct {
	PID int
	MS  float64
}

func startNode(ctx context.Context, dir string) (*node, error) {
	path, err := exec.LookPath("node")
	if err != nil {
		return nil, errors.New("node is not installed")
	}
	ports, err := stage.FreePorts(1)
	if err != nil {
		return nil, err
	}
	script := filepath.Join(dir, "cluster.js")
	if err := os.WriteFile(script, []byte(nodeCluster), 0o600); err != nil {
		return nil, err
	}
	cmd := exec.Command(path, script)
	cmd.Env = append(os.Environ(), fmt.Sprintf("PORT=%d", ports[0]))
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdout = write
	n := &node{ready: make(chan nodeReady, 16)}
	n.process, err = stage.StartProcess(cmd)
	write.Close()
	if err != nil {
		read.Close()
		return nil, err
	}
	// Ends when the cluster has, and its end of the pipe is closed.
	go func() {
		defer close(n.ready)
		defer read.Close()
		for lines := bufio.NewScanner(read); lines.Scan(); {
			var r nodeReady
			if json.Unmarshal(lines.Bytes(), &r) == nil {
				n.ready <- r
			}
		}
	}()
	for range 2 {
		r, err := n.next(ctx)
		if err != nil {
			n.stop()
			return nil, err
		}
		n.workers = append(n.workers, r.PID)
	}
	return n, nil
}

func (n *node) next(ctx context.Context) (nodeReady, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	select {
	case r, ok := <-n.ready:
		if !ok {
			return r, errors.New("the cluster has ended")
		}
		return r, nil
	case <-ctx.Done():
		return nodeReady{}, fmt.Errorf("no worker is listening: %w", ctx.Err())
	}
}

func (n *node) respawnOnce(ctx context.Context, slot int) (time.Duration, error) {
	killed := time.Now()
	if err := stage.Kill(n.workers[slot], syscall.SIGKILL); err != nil {
		return 0, err
	}
	r, err := n.next(ctx)
	if err != nil {
		return 0, err
	}
	n.workers[slot] = r.PID
	took := time.UnixMicro(int64(r.MS * 1000)).Sub(killed)
	return took, stage.Pause(ctx, 50*time.Millisecond)
}

func (n *node) stop() { n.process.Stop(5 * time.Second) }
