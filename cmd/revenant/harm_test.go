package main

import (
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor"
	"revenant/supervisor/event"
	"revenant/supervisor/supervisortest"
)

// harmed waits for the event and a worker that answers.
func harmed(t *testing.T, events <-chan event.Event, i *supervisortest.Instance, word string) {
	t.Helper()
	e := supervisortest.AwaitEvent(t, events, "what was done to the listener", func(e event.Event) bool { return e.Kind == event.ListenerHarmed })
	if !strings.Contains(e.Message, word) {
		t.Errorf("the event says %q, want %q", e.Message, word)
	}
}

// harms are what a worker can do to the listener that all share.
var harms = []struct {
	name   string
	says   string
	anew   bool // every worker is replaced
	family int
	do     func(fd int) error
}{
	{"O_NONBLOCK cleared, tcp", "O_NONBLOCK was cleared", false, unix.AF_INET, block},
	{"O_NONBLOCK cleared, unix", "O_NONBLOCK was cleared", false, unix.AF_UNIX, block},
	{"shut down, tcp", "the socket was shut down", false, unix.AF_INET, shutDown},
	{"shut down for reading, tcp", "the socket was shut down", false, unix.AF_INET, func(fd int) error { return unix.Shutdown(fd, unix.SHUT_RD) }},
	{"shut down, unix", "the socket was shut down; every worker gets a new one", true, unix.AF_UNIX, shutDown},
}

func block(fd int) error    { return unix.SetNonblock(fd, false) }
func shutDown(fd int) error { return unix.Shutdown(fd, unix.SHUT_RDWR) }

// All workers live on, and none of them says a word.
func TestListenerThatIsHarmedIsHealedWithin200ms(t *testing.T) {
	for _, h := range harms {
		t.Run(h.name, func(t *testing.T) {
			network, listener := "tcp", "tcp://127.0.0.1:0"
			if h.family == unix.AF_UNIX {
				network, listener = "unix", "unix:"+filepath.Join(openDir(t), "s.sock")
			}
			i := supervisortest.Start(t, append([]string{"--workers=2", "--listen=" + listener}, actor(t, "quiet", "poll")...)...)
			address := i.Address()
			first, keeper := i.Now(), i.Now().KeeperPID // which holds what all do
			blocks := func() (is bool) {
				onListener(t, keeper, h.family, func(fd int) error {
					flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
					is = flags&unix.O_NONBLOCK == 0
					return err
				})
				return is
			}
			var took []time.Duration
			for range 10 {
				if h.anew {
					i.Await("settled", settledAgain)
				}
				var began time.Time
				onListener(t, keeper, h.family, func(fd int) error { began = time.Now(); return h.do(fd) })
				awaitTrue(t, "a new connection is answered, and O_NONBLOCK is set", func() bool { return answered(network, address) && !blocks() })
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			t.Logf("median %v, most %v", took[5], took[9])
			if took[5] >= healed {
				t.Errorf("healed in %v", took)
			}
			harmed(t, i.Follow(), i, h.says)
			s := i.Await("ready", isReady)
			if same := workerIDs(s) == workerIDs(first); same == h.anew || s.Workers[0].Failures+s.Workers[1].Failures > 0 {
				t.Errorf("workers %s, at first %s: %+v", workerIDs(s), workerIDs(first), s.Workers)
			}
		})
	}
}

// settledAgain: all have served for so long that nobody suspects them, and were
// started so long ago that they may be at once.
func settledAgain(s supervisor.Status) bool {
	return isReady(s) && !slices.ContainsFunc(s.Workers, func(w supervisor.WorkerStatus) bool { return w.State != "ready" || w.Uptime < 1200 })
}

// answered tells whether a new connection is answered.
func answered(network, address string) bool {
	c, err := net.DialTimeout(network, address, supervisortest.Patience)
	if err != nil {
		return false
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(supervisortest.Patience))
	_, _ = c.Write([]byte("GET / HTTP/1.0\r\n\r\n"))
	text, err := io.ReadAll(c)
	return err == nil && strings.HasPrefix(string(text), "HTTP/1.1 200 OK")
}

// Many programs end when they cannot accept: they are there again at once, as often
// as it happens, and nobody takes it for their failure.
func TestProgramsThatEndWhenTheyCannotAcceptAreThereAgainAtOnce(t *testing.T) {
	i := runActor(t, []string{"--workers=2"}, "quiet", "strict", "poll")
	address, keeper := i.Address(), i.Now().KeeperPID
	var took []time.Duration
	for range 7 {
		i.Await("settled", settledAgain)
		var began time.Time
		onListener(t, keeper, unix.AF_INET, func(fd int) error { began = time.Now(); return shutDown(fd) })
		awaitTrue(t, "a new connection is answered", func() bool { return answered("tcp", address) })
		took = append(took, time.Since(began))
	}
	s := i.Await("ready", isReady)
	slices.Sort(took)
	t.Logf("median %v, most %v, %d ends", took[3], took[6], s.Workers[0].Restarts+s.Workers[1].Restarts)
	if took[3] >= healed {
		t.Errorf("answered again in %v", took)
	}
	events := i.Follow()
	for range s.Workers[0].Restarts + s.Workers[1].Restarts {
		e := supervisortest.AwaitEvent(t, events, "the end of a worker", func(e event.Event) bool { return e.Kind == event.WorkerExited || e.Kind == event.WorkerBackoff })
		if e.Kind == event.WorkerBackoff || e.Cause != "exit 68" || e.Message != "its listener had just been shut down" {
			t.Errorf("%s %q: %q", e.Kind, e.Cause, e.Message)
		}
	}
}

// A unix socket cannot be repaired: there is a new one, and new workers on it.
func TestUnixSocketThatAWorkerShutDownIsReplacedWithAllWorkers(t *testing.T) {
	path := filepath.Join(openDir(t), "s.sock")
	once := filepath.Join(openDir(t), "once")
	i := supervisortest.Begin(t, nil, append([]string{"--workers=2", "--listen=unix:" + path}, actor(t, "quiet", "only=1:once="+once+":shut", "poll")...)...)
	harmed(t, i.Follow(), i, "the socket was shut down; every worker gets a new one")
	s := i.Await("anew", func(s supervisor.Status) bool {
		return isReady(s) && s.Workers[0].Worker > 2 && s.Workers[1].Worker > 2
	})
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = c.Write([]byte("GET / HTTP/1.0\r\n\r\n"))
	answer := make([]byte, 4096)
	n, _ := c.Read(answer)
	if text := string(answer[:n]); !strings.Contains(text, fmt.Sprintln(s.Workers[0].PID)) && !strings.Contains(text, fmt.Sprintln(s.Workers[1].PID)) {
		t.Errorf("the new socket answers %q", text)
	}
	killMaster(i, t, s) // the keeper has the new one too
	i.Await("alone", func(n supervisor.Status) bool { return isReady(n) && n.Orphans == 0 && n.Generation == 2 })
}
