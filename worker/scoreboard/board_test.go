package scoreboard

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func create(t testing.TB, id Identity) *Board {
	t.Helper()
	b, err := Create(id)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// again maps the same page a second time, as another process would.
func again(t testing.TB, b *Board) *Board {
	t.Helper()
	fd, err := unix.Dup(b.FD())
	if err != nil {
		t.Fatal(err)
	}
	o, err := Open(fd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	return o
}

func TestAnotherMappingSeesWhatWasWritten(t *testing.T) {
	id := Identity{Worker: 41, Slot: 3, Generation: 7}
	master := create(t, id)
	master.SetPID(4242)
	worker := again(t, master)
	if worker.Identity() != id || worker.PID() != 4242 {
		t.Fatalf("opened board is of %v pid %d, want %v pid 4242", worker.Identity(), worker.PID(), id)
	}

	began := time.Now()
	worker.Accepting(true)
	worker.ConnNew()
	worker.Accepting(false)
	worker.ConnNew()
	worker.ConnNew()
	worker.ConnMove(Unread, Active)
	worker.ConnMove(Active, Idle)
	worker.ConnMove(Unread, Active)
	worker.Request(204, began, 3*time.Microsecond)
	worker.Request(0, began, time.Hour)
	worker.Accepting(true)

	s := master.Snapshot()
	want := Snapshot{Identity: id, PID: 4242, Accepted: 3, Accepting: 1, Unread: 1, Active: 1, Idle: 1}
	want.Requests[2], want.Requests[0] = 1, 1
	want.Latency[2], want.Latency[LatencyBuckets-1] = 1, 1
	want.LatencySum = time.Hour + 3*time.Microsecond
	if got := s.LastActivity.UnixNano(); got != began.UnixNano()+int64(time.Hour) {
		t.Errorf("last activity %v, want %v", s.LastActivity, began.Add(time.Hour))
	}
	s.LastActivity = time.Time{}
	if s != want {
		t.Errorf("snapshot\n%+v, want\n%+v", s, want)
	}
	if s.InFlight() != 2 || s.Answered() != 2 {
		t.Errorf("in flight %d, answered %d, want 2, 2", s.InFlight(), s.Answered())
	}
}

func TestNewMasterReadsBoardOfDeadMaster(t *testing.T) {
	old := create(t, Identity{Worker: 9, Slot: 1, Generation: 2})
	old.SetPID(77)
	old.SetBegan(1234)
	old.SetAsked(unix.SIGTERM)
	old.ConnNew()
	kept, err := unix.Dup(old.FD()) // as the keeper holds it
	if err != nil {
		t.Fatal(err)
	}
	old.Close()
	b, err := Open(kept)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if s := b.Snapshot(); s.Worker != 9 || s.Slot != 1 || s.Generation != 2 || s.PID != 77 || s.Unread != 1 {
		t.Errorf("board after its master's death: %+v", s)
	}
	if b.Began() != 1234 || b.Asked() != unix.SIGTERM {
		t.Errorf("the worker began at %d and was asked by %v", b.Began(), b.Asked())
	}
}

func TestWritersWithoutSupervisorDoNothing(t *testing.T) {
	var b *Board
	b.Accepting(true)
	b.ConnNew()
	b.ConnMove(Unread, Active)
	b.Request(200, time.Now(), time.Second)
	if s := b.Snapshot(); s != (Snapshot{}) {
		t.Errorf("snapshot of no board: %+v", s)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

func TestGarbageCannotHurtTheReader(t *testing.T) {
	id := Identity{Worker: 1}
	master := create(t, id)
	worker := again(t, master)
	deadline := time.Now().Add(200 * time.Millisecond)
	var wg sync.WaitGroup
	// Ends at the deadline; the test waits for it below.
	wg.Go(func() {
		for time.Now().Before(deadline) {
			for i := range worker.mem {
				worker.mem[i] = byte(rand.Uint32())
			}
		}
	})
	for time.Now().Before(deadline) {
		s := master.Snapshot()
		if s.Identity != id {
			t.Fatalf("identity changed to %v", s.Identity)
		}
		if s.PID < 0 || s.Unread < 0 || s.Active < 0 || s.Idle < 0 || s.Hijacked < 0 || s.LatencySum < 0 || s.Accepting > ceiling {
			t.Fatalf("garbage came through: %+v", s)
		}
		if _, err := json.Marshal(s); err != nil {
			t.Fatalf("snapshot has no JSON: %v", err)
		}
	}
	wg.Wait()
}

func TestNegativeGaugesReadAsNone(t *testing.T) {
	b := create(t, Identity{})
	b.ConnMove(Active, Idle)
	b.Accepting(false)
	if s := b.Snapshot(); s.Active != 0 || s.Idle != 1 || s.Accepting != 0 {
		t.Errorf("after a move from where nothing was: %+v", s)
	}
}

func TestPageCanBeNeitherShrunkNorGrown(t *testing.T) {
	b := create(t, Identity{})
	for _, n := range []int64{0, size / 2, size * 2} {
		if err := unix.Ftruncate(b.FD(), n); !errors.Is(err, unix.EPERM) {
			t.Errorf("ftruncate to %d: %v, want EPERM", n, err)
		}
	}
	if _, err := unix.FcntlInt(uintptr(b.FD()), unix.F_ADD_SEALS, unix.F_SEAL_WRITE); err == nil {
		t.Error("seals can still be added")
	}
	if flags, err := unix.FcntlInt(uintptr(b.FD()), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("descriptor flags %#x, %v, want close-on-exec", flags, err)
	}
}

func TestOpenRefusesWhatIsNoBoard(t *testing.T) {
	memfd := func(n int64, sealed int) int {
		fd, err := unix.MemfdCreate("other", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
		if err != nil {
			t.Fatal(err)
		}
		unix.Ftruncate(fd, n)
		unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, sealed)
		return fd
	}
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	future := create(t, Identity{})
	future.page.version.Store(version + 1)
	fd, _ := unix.Dup(future.FD())
	for name, fd := range map[string]int{
		"not sealed":      memfd(size, 0),
		"can shrink":      memfd(size, unix.F_SEAL_GROW|unix.F_SEAL_SEAL),
		"too short":       memfd(8, seals),
		"all zero":        memfd(size, seals),
		"device":          null,
		"another version": fd,
	} {
		if b, err := Open(fd); !errors.Is(err, ErrNotABoard) {
			t.Errorf("%s: opened %v, %v", name, b, err)
		}
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); !errors.Is(err, unix.EBADF) {
			t.Errorf("%s: descriptor left open", name)
		}
	}
	if _, err := Open(-1); err == nil {
		t.Error("opened descriptor -1")
	}
}

func TestManyWritersLoseNothing(t *testing.T) {
	b := create(t, Identity{})
	const writers, rounds = 8, 2000
	var wg sync.WaitGroup
	for range writers {
		// Ends after its rounds; waited for below.
		wg.Go(func() {
			for range rounds {
				b.ConnNew()
				b.ConnMove(Unread, Active)
				b.Request(200, time.Now(), time.Microsecond)
				b.ConnMove(Active, Nowhere)
			}
		})
	}
	for range 100 {
		b.Snapshot()
	}
	wg.Wait()
	s := b.Snapshot()
	if s.Accepted != writers*rounds || s.Answered() != writers*rounds || s.InFlight() != 0 {
		t.Errorf("after %d requests: %+v", writers*rounds, s)
	}
}

func TestLatencyBucketsCoverEverything(t *testing.T) {
	for _, d := range []time.Duration{0, 999, time.Microsecond, 2*time.Microsecond - 1, time.Millisecond, time.Second, 20 * time.Second, 1 << 62} {
		i := bucket(d)
		if bound := LatencyBound(i); bound != 0 && d >= bound {
			t.Errorf("%v in bucket %d, which ends at %v", d, i, bound)
		}
		if i > 0 && d < LatencyBound(i-1) {
			t.Errorf("%v in bucket %d, fits in %d", d, i, i-1)
		}
	}
	if LatencyBound(LatencyBuckets-1) != 0 || LatencyBound(-1) != 0 {
		t.Error("the last bucket has an end")
	}
}

// bookkeeping is all that one request on a kept connection costs.
func bookkeeping(b *Board, began time.Time) {
	b.ConnMove(Idle, Active)
	b.Request(200, began, 150*time.Microsecond)
	b.ConnMove(Active, Idle)
}

func TestBookkeepingDoesNotAllocate(t *testing.T) {
	b, began := create(t, Identity{}), time.Now()
	if n := testing.AllocsPerRun(100, func() { bookkeeping(b, began) }); n != 0 {
		t.Errorf("%v allocations per request, want none", n)
	}
}

func BenchmarkBookkeepingOfARequest(b *testing.B) {
	board, began := create(b, Identity{}), time.Now()
	b.ReportAllocs()
	for b.Loop() {
		bookkeeping(board, began)
	}
}

func BenchmarkSnapshot(b *testing.B) {
	board := create(b, Identity{})
	for b.Loop() {
		board.Snapshot()
	}
}
