package keeper

import (
	"io"
	"log/slog"
	"syscall"
	"testing"
	"time"

	"revenant/supervisor/notify"
)

func TestTermsOfTheMasterHoldUntilItTellsOthers(t *testing.T) {
	k := &keeper{Config: Config{DrainTimeout: time.Second, StopSignal: syscall.SIGTERM, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}}
	for _, c := range []struct {
		says   string
		drain  time.Duration
		signal syscall.Signal
	}{
		{"READY=1", time.Second, syscall.SIGTERM},
		{notify.TermsKey + "=300000 3", 300 * time.Millisecond, syscall.SIGQUIT},
		{notify.TermsKey + "=soon 3", 300 * time.Millisecond, syscall.SIGQUIT},
		{notify.TermsKey + "=0 15", 300 * time.Millisecond, syscall.SIGQUIT},
		{notify.TermsKey + "=1000 99", 300 * time.Millisecond, syscall.SIGQUIT},
		{notify.TermsKey + "=9223372036854775807 15", 300 * time.Millisecond, syscall.SIGQUIT},
		{notify.TermsKey + "=60000000 15", time.Minute, syscall.SIGTERM},
	} {
		k.agree(notify.Message{State: []string{c.says}})
		if k.DrainTimeout != c.drain || k.StopSignal != c.signal {
			t.Errorf("after %q: %v, %v", c.says, k.DrainTimeout, k.StopSignal)
		}
	}
}
