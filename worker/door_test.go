package worker_test

import (
	"net"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"revenant/supervisor/notify"
	"revenant/worker/internal/workertest"
)

// startWithDoor starts a worker that gets a private connection, and returns the master's end of it.
func startWithDoor(t *testing.T, ln net.Listener, env ...string) (*workertest.Process, *workertest.Client) {
	t.Helper()
	doors := make(chan *workertest.Client, 1)
	p := workertest.Start(t, workertest.Setup{Role: "serve", Listeners: []net.Listener{ln}, Env: env, Hello: func(p *workertest.Process, m notify.Message) {
		if _, asked := m.Value("X_REVENANT_DOOR"); !asked {
			t.Error("the worker does not ask for a door")
		}
		doors <- p.GreetWithDoor(m)
	}}).AwaitReady()
	return p, <-doors
}

func TestDoorLeadsToThisWorkerAndNothingOnItIsCounted(t *testing.T) {
	ln := listen(t)
	p, door := startWithDoor(t, ln)
	for range 3 {
		if got, want := door.Get(t, "/").Text, "pid "+strconv.Itoa(p.PID()); got != want {
			t.Errorf("the door leads to %q, want %q", got, want)
		}
	}
	if a := door.Get(t, "/status?code=503"); a.StatusCode != 503 {
		t.Errorf("status %d through the door, want 503", a.StatusCode)
	}
	if s := p.Board.Snapshot(); s.Answered() != 0 || s.Accepted != 0 || s.InFlight() != 0 {
		t.Errorf("requests through the door were counted: %+v", s)
	}
	workertest.Dial(t, ln.Addr()).Get(t, "/") // the control: those of clients are
	workertest.Until(t, "a client's request is counted", func() bool { return p.Board.Snapshot().Answered() == 1 })
}

func TestRequestThroughTheDoorDoesNotHoldUpADrain(t *testing.T) {
	p, door := startWithDoor(t, listen(t))
	if err := door.Send("GET", "/hold"); err != nil {
		t.Fatal(err)
	}
	p.Signal(unix.SIGTERM)
	exits(t, p, "exit status 0")
	if !door.Ended(workertest.Patience) {
		t.Error("the door outlives the worker")
	}
}

func TestWorkerServesOnWhenTheMasterBehindTheDoorDies(t *testing.T) {
	ln := listen(t)
	p, door := startWithDoor(t, ln)
	door.Get(t, "/")
	door.Close()
	c := workertest.Dial(t, ln.Addr())
	c.Get(t, "/")
	c.Close()
	p.Signal(unix.SIGTERM)
	exits(t, p, "exit status 0")
}

func TestDoorWaitsForAsLongAsTheMasterIsSilent(t *testing.T) {
	ln := listen(t)
	_, door := startWithDoor(t, ln, "HEADER=50ms")
	slow := workertest.Dial(t, ln.Addr()) // the control, and the clock: clients are not waited for
	if err := slow.Send("GET", "/"); err != nil {
		t.Fatal(err)
	}
	if _, err := slow.Receive(); err != nil {
		t.Fatal(err)
	}
	late := workertest.Dial(t, ln.Addr())
	if _, err := late.Write([]byte("GET / HTTP/1.1\r\n")); err != nil || !late.Ended(workertest.Patience) {
		t.Fatalf("a client that sends half a header is waited for (%v)", err)
	}
	door.Get(t, "/")
}
