package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"revenant/supervisor/control"
)

func stopCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "stop [flags]",
		Short: "Finish every request, then end the instance; wait until it is gone",
	}
	target := addTarget(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		client, err := target()
		if err != nil {
			return err
		}
		return stopInstance(c.Context(), client)
	}
	return c
}

func stopInstance(ctx context.Context, client *control.Client) error {
	began := time.Now()
	status, err := client.Status(ctx)
	if silent := new(control.SilentError); errors.As(err, &silent) {
		return stopWithout(ctx, silent.Master, began)
	}
	if err != nil {
		return err
	}
	keeper, err := watchKeeper(status.KeeperPID)
	if err != nil {
		return err
	}
	if err := client.Stop(ctx); err != nil {
		_ = unix.Close(keeper)
		return err
	}
	if err := awaitEnd(ctx, keeper); err != nil {
		return err
	}
	fmt.Printf("instance %s stopped in %v\n", status.Name, time.Since(began).Round(time.Millisecond))
	return nil
}

// stopWithout ends an instance whose master does not answer. The keeper is asked
// by signal, and the master, which would never hand that on, is killed: then the
// keeper itself has the workers finish their requests.
func stopWithout(ctx context.Context, master int, began time.Time) error {
	pid := parentOf(master)
	if pid <= 0 {
		return fmt.Errorf("cannot find the keeper, the parent of the master (pid %d), which does not answer", master)
	}
	keeper, err := watchKeeper(pid)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "revenant: the master (pid %d) does not answer: it is killed, and its keeper (pid %d) ends the instance\n", master, pid)
	if err := errors.Join(unix.Kill(pid, unix.SIGTERM), unix.Kill(master, unix.SIGKILL)); err != nil {
		_ = unix.Close(keeper)
		return fmt.Errorf("cannot signal: %w", err)
	}
	if err := awaitEnd(ctx, keeper); err != nil {
		return err
	}
	fmt.Printf("instance stopped in %v\n", time.Since(began).Round(time.Millisecond))
	return nil
}

func watchKeeper(pid int) (pidfd int, err error) {
	if pidfd, err = unix.PidfdOpen(pid, 0); err != nil {
		return -1, fmt.Errorf("cannot watch the keeper, pid %d: %w", pid, err)
	}
	return pidfd, nil
}

// parentOf is a process's parent, 0 when unknown.
func parentOf(pid int) int {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "PPid:"); ok {
			parent, _ := strconv.Atoi(strings.TrimSpace(value))
			return parent
		}
	}
	return 0
}

// awaitEnd waits for a process that is not our child. It owns the pidfd.
func awaitEnd(ctx context.Context, pidfd int) error {
	_ = unix.SetNonblock(pidfd, true)
	f := os.NewFile(uintptr(pidfd), "keeper")
	defer f.Close()
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Now()) })
	defer stop()
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	err = raw.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n > 0 || err != nil && err != unix.EINTR
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}
