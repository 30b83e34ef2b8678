package notify

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestQuestionBringsEachAnswerUntilItIsClosed(t *testing.T) {
	server, client := pairOf(t)
	q, err := client.Open("X_QUESTION=1")
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	asked, err := server.Receive()
	if err != nil || len(asked.Files) != 1 {
		t.Fatalf("the question is %+v, %v", asked, err)
	}
	line, err := Detach(asked.Files[0])
	if err != nil {
		t.Fatal(err)
	}
	asked.Close()
	for _, say := range []string{"X_N=1", "X_N=2"} {
		if err := Reply(line, []int{0}, say); err != nil {
			t.Fatal(err)
		}
	}
	unix.Close(line)
	for _, want := range []string{"X_N=1", "X_N=2"} {
		m, err := q.Next(context.Background())
		if err != nil || !m.Says(want) || len(m.Files) != 1 {
			t.Errorf("the answer is %+v, %v, want %s", m, err, want)
		}
		m.Close()
	}
	if _, err := q.Next(context.Background()); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("after the last answer comes %v", err)
	}
}

func TestSuccessorGetsWhatIsStoredHoweverMuch(t *testing.T) {
	server, client := pairOf(t)
	// Ends with the answer.
	go func() {
		asked, err := server.Receive()
		if err != nil || !asked.Says(GenerationVariable+"=7") {
			t.Errorf("the question is %+v, %v", asked, err)
			return
		}
		defer asked.Close()
		line, err := Detach(asked.Files[0])
		if err != nil {
			t.Error(err)
			return
		}
		defer unix.Close(line)
		many := make([]int, 200)
		names := strings.Repeat("board-1:", 199) + "last%3A"
		if err := errors.Join(Reply(line, many, NamesVariable+"="+names, MoreVariable+"=1"), Reply(line, []int{0}, NamesVariable+"=state")); err != nil {
			t.Error(err)
		}
	}()
	stored, later, err := client.Succeed(context.Background(), 7)
	if err != nil {
		t.Fatal(err)
	}
	defer later.Close()
	if len(stored) != 201 || stored[199].Name != "last:" || stored[200].Name != "state" {
		t.Errorf("%d descriptors came", len(stored))
	}
	for _, f := range stored {
		if flags, err := unix.FcntlInt(uintptr(f.FD), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("descriptor %d is open for children: %v", f.FD, err)
		}
		unix.Close(f.FD)
	}
}

func TestSuccessorThatIsRefusedHearsSo(t *testing.T) {
	server, client := pairOf(t)
	// Ends when the question has come.
	go func() {
		if m, err := server.Receive(); err == nil {
			m.Close()
		}
	}()
	if _, _, err := client.Succeed(context.Background(), 7); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("the refusal is %v", err)
	}
}

func pairOf(t *testing.T) (*Server, *Client) {
	t.Helper()
	server, err := Listen(fmt.Sprintf("notify-question-%d-%s", os.Getpid(), t.Name()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	client, err := Dial(server.Address())
	if err != nil {
		t.Fatal(err)
	}
	return server, client
}

func TestQuestionHowAProcessEndedIsAnsweredWithAllOfIt(t *testing.T) {
	server, client := pairOf(t)
	want := Ended{Status: unix.WaitStatus(unix.SIGKILL), Asked: unix.SIGTERM, Killed: true, Time: time.UnixMicro(1764210000123456)}
	// Ends with the second answer.
	go func() {
		for range 2 {
			asked, err := server.Receive()
			pid, began, asks := asked.AsksEnd()
			if err != nil || !asks || pid != 4242 {
				t.Errorf("the question is %+v, %v", asked, err)
			}
			if began == 77 {
				_ = asked.Answer(nil, want.Assignment())
			}
			asked.Close()
		}
	}()
	if got, err := client.HowEnded(context.Background(), 4242, 77); err != nil || got != want {
		t.Errorf("it ended %+v, %v, want %+v", got, err, want)
	}
	if got, err := client.HowEnded(context.Background(), 4242, 78); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("of one that nobody knows: %+v, %v", got, err)
	}
}
