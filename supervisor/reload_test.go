package supervisor

import (
	"context"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revenant/scripts/ledger"
	"revenant/supervisor/event"
)

// outcomeOf waits for the end of an operation.
func outcomeOf(t *testing.T, op *Operation, err error) error {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-op.Done():
		return op.Err()
	case <-time.After(patience):
		t.Fatal("the operation does not end")
		return nil
	}
}

func (i *realInstance) reload() error {
	i.t.Helper()
	op, err := i.Reload(context.Background(), "me")
	return outcomeOf(i.t, op, err)
}

func TestSuccessorHasToAnswerThroughItsDoorBeforeTheOldWorkerLeaves(t *testing.T) {
	for _, c := range []struct {
		app      string
		patience time.Duration
		says     []string
	}{
		{"app 500", patience, []string{"does not answer GET /health: status 500"}},
		{"app dies", patience, []string{"ended before it took over: exit 4"}},
		{"app hangs", 2 * time.Second, nil},
	} {
		t.Run(c.app, func(t *testing.T) {
			i := runReal(t, Config{Sockets: bound(t), Settings: Settings{Workers: 2, ProbePath: "/health"}}, "app")
			before := i.awaitReady(2)
			i.startTimeout(c.patience)
			i.behave(c.app)
			err := i.reload()
			if err == nil || !strings.Contains(err.Error(), "goes on serving") {
				t.Fatalf("the reload ended with %v", err)
			}
			for _, word := range c.says {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("%q does not say %q", err, word)
				}
			}
			if s := i.awaitReady(2); !slices.Equal(s.workers(), before.workers()) {
				t.Errorf("the workers %v became %v", before.workers(), s.workers())
			}
			i.startTimeout(patience)
			i.behave("app 404") // whoever answers at all can serve
			if err := i.reload(); err != nil {
				t.Errorf("a reload with a program that answers 404 ended with %v", err)
			}
		})
	}
}

// startTimeout is what the next reload reads.
func (i *realInstance) startTimeout(d time.Duration) {
	s := *i.settings.Load()
	s.Policy.StartTimeout = d
	i.settings.Store(&s)
}

// The request that it was asked goes on, and the reload waits for the answer of
// whoever sits in the slot by then.
func TestWorkerKilledWhileItsSuccessorIsAskedIsFollowedByThatOne(t *testing.T) {
	i := runReal(t, Config{Sockets: bound(t), Settings: Settings{Workers: 1, Policy: Policy{StartTimeout: patience}}}, "app")
	old := i.awaitReady(1).Workers[0]
	i.behave("app hangs")
	op, err := i.Reload(context.Background(), "me")
	if err != nil {
		t.Fatal(err)
	}
	i.await("the successor ready", func(e event.Event) bool { return e.Kind == event.WorkerReady && e.Worker > old.Worker })
	_ = unix.Kill(old.PID, unix.SIGKILL)
	i.await("the old worker's end", func(e event.Event) bool { return e.Kind == event.WorkerExited && e.PID == old.PID })
	s := i.awaitReady(1)
	if s.Workers[0].Worker != old.Worker+1 {
		t.Errorf("worker %d serves, want %d", s.Workers[0].Worker, old.Worker+1)
	}
	i.behave("app")
	_ = unix.Kill(s.Workers[0].PID, unix.SIGKILL)
	if err := outcomeOf(t, op, nil); err != nil {
		t.Errorf("the reload ended with %v", err)
	}
	if s := i.awaitReady(1); s.Workers[0].Worker != old.Worker+2 {
		t.Errorf("worker %d serves, want %d", s.Workers[0].Worker, old.Worker+2)
	}
}

func TestReloadsUnderLoadLoseNothingAndDoNothingTwice(t *testing.T) {
	const perClient = 750
	i := runReal(t, Config{Sockets: bound(t), Settings: Settings{Workers: 2, Policy: Policy{StartTimeout: patience, DrainTimeout: patience}}}, "app")
	status := i.awaitReady(2)
	done := make(chan struct{})
	reports := make(chan ledger.Report, 4)
	var clients sync.WaitGroup
	for _, target := range status.Listeners {
		for _, keep := range []bool{false, true} {
			run := ledger.Load{Target: target, Requests: perClient, Clients: 2, KeepAlive: keep, Post: 16 << 10, ConnectTimeout: patience, Timeout: patience}
			clients.Go(func() { // ends when all are answered
				report, err := run.Run(context.Background())
				if err != nil {
					t.Error(err)
				}
				reports <- report
			})
		}
	}
	go func() { clients.Wait(); close(done) }()
	reloads := 0
	for over := false; !over || reloads < 2; reloads++ {
		if err := i.reload(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-done:
			over = true
		default:
		}
	}
	for range 4 {
		if r := <-reports; r.Failed() > 0 || r.Sent() != perClient {
			t.Errorf("of %d requests %d failed: %v", r.Sent(), r.Failed(), r.Failures)
		}
	}
	journal, err := ledger.ReadJournal(journalOf(i.notes))
	if err != nil {
		t.Fatal(err)
	}
	delete(journal, "") // the master's own questions
	if doubles := ledger.Doubles(journal); len(doubles) > 0 || len(journal) != 4*perClient {
		t.Errorf("the workers' journal has %d requests, want %d; done twice: %v", len(journal), 4*perClient, doubles)
	}
	if fewest, most := servingRange(i.Events().Since(0), 2); fewest < 2 || most > 3 {
		t.Errorf("between %d and %d workers served, want 2 to 3", fewest, most)
	}
	s := i.awaitReady(2)
	if s.Requests != 4*perClient {
		t.Errorf("%d requests are counted, want %d: the master's own are none", s.Requests, 4*perClient)
	}
	t.Logf("%d reloads", reloads)
}

func TestReloadsLeaveNoDescriptor(t *testing.T) {
	i := runReal(t, Config{Sockets: bound(t), Settings: Settings{Workers: 2, Policy: Policy{StartTimeout: patience}}}, "app")
	i.awaitReady(2)
	reload := func(n int) {
		for range n {
			if err := i.reload(); err != nil {
				t.Fatal(err)
			}
		}
		i.awaitAlone(2)
	}
	count := func() int {
		open, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(open)
	}
	reload(2)
	before := count()
	reload(20)
	awaitTrue(t, "as many descriptors as before 20 reloads", func() bool { return count() <= before })
}

// awaitAlone waits until so many are ready and nobody drains.
func (i *realInstance) awaitAlone(n int) {
	i.t.Helper()
	awaitTrue(i.t, "nobody drains", func() bool {
		s, err := i.Status(context.Background())
		return err == nil && s.Ready == n && len(s.Workers) == n
	})
}
