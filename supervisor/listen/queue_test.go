package listen

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const queued = 5

func queueUp(t *testing.T, s *Socket) []net.Conn {
	t.Helper()
	conns := make([]net.Conn, queued)
	for i := range conns {
		conns[i] = dial(t, s)
	}
	want := queued
	if s.Name().Network() == "unix" {
		want = 1
	}
	waitUntil(t, "the queue has its length", func() bool {
		depth, err := s.QueueDepth()
		return err == nil && depth == want
	})
	return conns
}

func TestQueueDepthCountsWhoWaits(t *testing.T) {
	each(t, func(t *testing.T, s *Socket) {
		if depth, err := s.QueueDepth(); depth != 0 || err != nil || s.Pending() {
			t.Errorf("depth %d, %v, pending %v, want an empty queue", depth, err, s.Pending())
		}
		queueUp(t, s)
		if !s.Pending() {
			t.Error("Pending = false with connections in the queue")
		}
		for range queued {
			answerOne(t, s)
		}
		if depth, err := s.QueueDepth(); depth != 0 || err != nil || s.Pending() {
			t.Errorf("depth %d, %v, pending %v, want an empty queue again", depth, err, s.Pending())
		}
	})
}

func TestStopNewAnswersTheQueueAndRefusesTheLate(t *testing.T) {
	each(t, func(t *testing.T, s *Socket) {
		conns := queueUp(t, s)
		if err := s.StopNew(); err != nil {
			t.Fatal(err)
		}
		// The late client dials while the queue is drained and gets its answer,
		// a refusal, only when the socket is closed.
		late := make(chan error, 1)
		go func() {
			conn, err := net.DialTimeout(s.Bound().Network(), s.Bound().Dial(), patience)
			if err == nil {
				_, err = io.ReadAll(conn)
				conn.Close()
			}
			late <- err
		}()
		if s.Name().Network() == "tcp" {
			// One SYN at least has been dropped before the drain begins.
			conn, err := net.DialTimeout("tcp", s.Bound().Dial(), 50*time.Millisecond)
			if err == nil {
				conn.Close()
				t.Fatal("a connection was made after StopNew")
			}
			if timeout := net.Error(nil); !errors.As(err, &timeout) || !timeout.Timeout() {
				t.Fatalf("dial after StopNew = %v, want a time-out", err)
			}
		}
		for range queued {
			answerOne(t, s)
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if err := s.WaitEmpty(ctx, 20*time.Millisecond); err != nil {
			t.Fatal(err)
		}
		s.Close()
		for i, conn := range conns {
			if got, err := io.ReadAll(conn); string(got) != "hello" || err != nil {
				t.Errorf("queued client %d read %q, %v, want hello", i, got, err)
			}
		}
		if err := <-late; !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.ENOENT) {
			t.Errorf("late client: %v, want a refusal", err)
		}
	})
}

// The twin: closing alone resets those who wait.
func TestCloseAloneResetsTheQueue(t *testing.T) {
	s := mustBind(t, "tcp://127.0.0.1:0")
	conns := queueUp(t, s)
	s.Close()
	for i, conn := range conns {
		if got, err := io.ReadAll(conn); !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("queued client %d read %q, %v, want a reset", i, got, err)
		}
	}
}

func TestStopNewHoldsForEveryoneWhoSharesTheSocket(t *testing.T) {
	s := mustBind(t, "tcp://127.0.0.1:0")
	fd, err := unix.FcntlInt(uintptr(s.FD()), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		t.Fatal(err)
	}
	sibling, err := Adopt(fd, s.Name().String())
	if err != nil {
		t.Fatal(err)
	}
	defer sibling.Close()
	if err := s.StopNew(); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if conn, err := net.DialTimeout("tcp", sibling.Bound().Dial(), 50*time.Millisecond); err == nil {
		conn.Close()
		t.Error("a connection was made on the sibling's descriptor")
	}
}

func TestWaitEmptyGivesUpWithItsContext(t *testing.T) {
	s := mustBind(t, "tcp://127.0.0.1:0")
	queueUp(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := s.WaitEmpty(ctx, time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("WaitEmpty = %v, want the context's end", err)
	}
}
