package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
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
		status, err := client.Status(c.Context())
		if err != nil {
			return err
		}
		pid := status.KeeperPID
		keeper, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			return fmt.Errorf("cannot watch the keeper, pid %d: %w", pid, err)
		}
		began := time.Now()
		if err := client.Stop(c.Context()); err != nil {
			return err
		}
		if err := awaitEnd(c.Context(), keeper); err != nil {
			return err
		}
		fmt.Printf("instance %s stopped in %v\n", status.Name, time.Since(began).Round(time.Millisecond))
		return nil
	}
	return c
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
