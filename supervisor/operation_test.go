package supervisor

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor/event"
)

// beginNow begins an operation in the loop.
func (i *fakeInstance) beginNow(kind, who string) (op *Operation, err error) {
	i.t.Helper()
	if asked := i.ask(context.Background(), func() { op, err = i.begin(kind, who) }); asked != nil {
		i.t.Fatal(asked)
	}
	return op, err
}

func (i *fakeInstance) finishNow(op *Operation, err error) {
	i.t.Helper()
	if asked := i.ask(context.Background(), func() { i.finish(op, err) }); asked != nil {
		i.t.Fatal(asked)
	}
}

func TestSecondOperatorIsToldWhoHoldsTheInstanceAndSinceWhen(t *testing.T) {
	inBubble(t, two, serve(time.Millisecond, 0), func(i *fakeInstance) {
		i.pass(time.Second)
		op, err := i.beginNow(opUpgrade, "uid 7, pid 4711")
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if s := i.status().Operation; s == nil || s.Kind != "upgrade" || s.Who != "uid 7, pid 4711" || !s.Since.Equal(began) {
			t.Errorf("ps shows the operation %+v", s)
		}
		i.pass(3 * time.Second)
		_, err = i.beginNow(opReload, "SIGHUP")
		var busy *BusyError
		if !errors.As(err, &busy) || busy.Who != "uid 7, pid 4711" || !busy.Since.Equal(began) {
			t.Fatalf("the second operator is told %v", err)
		}
		for _, word := range []string{"upgrade", "uid 7, pid 4711", "3.0s ago"} {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("%q does not say %q", err, word)
			}
		}
		i.finishNow(op, nil)
		if i.status().Operation != nil || op.Err() != nil {
			t.Errorf("after its end: %+v, %v", i.status().Operation, op.Err())
		}
		if op, err = i.beginNow(opReload, "SIGHUP"); err != nil {
			t.Fatalf("the first one has ended, and the second is told %v", err)
		}
		i.finishNow(op, errors.New("no"))
		if i.count(event.OperationStarted) != 2 || i.count(event.OperationDone) != 1 || i.count(event.OperationFailed) != 1 {
			t.Error("two operations, of which one failed, are told otherwise")
		}
	})
}

func TestStopCancelsTheOperationUnderWayAndAllowsNoOther(t *testing.T) {
	inBubble(t, two, serve(time.Millisecond, time.Second), func(i *fakeInstance) {
		i.pass(time.Second)
		op, err := i.beginNow(opUpgrade, "SIGUSR2")
		if err != nil {
			t.Fatal(err)
		}
		i.signals <- unix.SIGTERM
		i.pass(time.Millisecond)
		var stopping *StoppingError
		if cause := context.Cause(op.ctx); !errors.As(cause, &stopping) || stopping.Why != "SIGTERM" || op.Err() != cause {
			t.Errorf("the operation ended with %v, its context with %v", op.Err(), cause)
		}
		i.finishNow(op, nil) // whoever works for it hears of it later
		if !errors.As(op.Err(), &stopping) {
			t.Errorf("a cancelled operation became one that ended with %v", op.Err())
		}
		if _, err := i.beginNow(opReload, "SIGHUP"); !errors.As(err, &stopping) {
			t.Errorf("an operation of a stopping instance begins with %v", err)
		}
	})
}
