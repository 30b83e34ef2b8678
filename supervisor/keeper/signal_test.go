package keeper

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The table of signals, as --help prints it.
var (
	stops    = []syscall.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGQUIT}
	forwards = []syscall.Signal{unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2, unix.SIGTTIN, unix.SIGTTOU}
)

func TestStopSignalAsksTheMasterAndItsCodeIsOurs(t *testing.T) {
	inBothPlaces(t, func(t *testing.T, place string) {
		for _, s := range stops {
			i := begin(t, place)
			m := i.master(1)
			m.does("say READY=1")
			i.signal(s)
			i.said("X_MASTER=1", "X_SIGNAL=SIGTERM")
			i.logged("stopping", "signal", unix.SignalName(s), "drain_timeout", "20s")
			m.does("say STOPPING=1")
			m.order("exit 0")
			i.ends(0)
			for _, routine := range []string{"master started", "master ready", "master left"} {
				i.logged(routine, "level", "DEBUG")
			}
		}
	})
}

func TestSecondStopSignalEndsAllAtOnce(t *testing.T) {
	inBothPlaces(t, func(t *testing.T, place string) {
		for _, s := range stops {
			i := begin(t, place)
			m := i.master(1)
			worker := m.worker("1", "deaf")
			m.does("say READY=1")
			i.signal(s)
			i.said("X_MASTER=1", "X_SIGNAL=SIGTERM")
			i.signal(s)
			i.said("X_MASTER=1", "X_SIGNAL="+unix.SignalName(s))
			i.ends(128 + int(s))
			if alive(m.pid) || alive(worker) {
				t.Error("a process outlived its instance")
			}
		}
	})
}

func TestSecondStopSignalCutsTheDrainOfOrphansShort(t *testing.T) {
	inBothPlaces(t, func(t *testing.T, place string) {
		i := begin(t, place)
		m := i.master(1)
		deaf := m.worker("1", "deaf")
		m.does("say READY=1")
		i.signal(unix.SIGTERM)
		m.does("say STOPPING=1")
		m.order("exit 0")
		i.said("X_WORKER=1", "X_SIGNAL=SIGTERM")
		i.signal(unix.SIGINT)
		i.ends(128 + 2)
		if alive(deaf) {
			t.Error("the deaf worker outlived its instance")
		}
	})
}

func TestOtherSignalsAreForwardedOrIgnored(t *testing.T) {
	inBothPlaces(t, func(t *testing.T, place string) {
		i := begin(t, place)
		m := i.master(1)
		m.does("say STATUS=here")
		for s := syscall.Signal(1); s <= 64; s++ {
			if s == unix.SIGKILL || s == unix.SIGSTOP || s >= 32 && s <= 34 || slices.Contains(stops, s) || slices.Contains(forwards, s) {
				continue
			}
			i.signal(s)
			if slices.Contains(caught(), os.Signal(s)) && s != unix.SIGPROF { // the runtime keeps that to itself
				i.logged("signal ignored", "signal", signalName(s))
			}
			i.signal(s)
		}
		for _, s := range forwards {
			i.signal(s)
			i.said("X_MASTER=1", "X_SIGNAL="+unix.SignalName(s))
		}
		// What was sent before was seen before: the keeper takes signals in turn.
		if n := i.happened(func(e event) bool { _, got := e.message.Value("X_SIGNAL"); return got }); n > 0 {
			t.Errorf("%d signals reached the master that should not", n)
		}
		if n := i.happened(isLog("signal ignored")); n > 0 {
			t.Errorf("%d signals were called ignored a second time", n)
		}
		if got := m.does("describe"); !strings.Contains(got, "ignored=0000000000000000") {
			t.Errorf("the master was started with signals ignored: %s", got)
		}
		m.does("say STOPPING=1")
		m.order("exit 0")
		i.ends(0)
	})
}

func TestStopWithoutAMasterDrainsOrphans(t *testing.T) {
	inBothPlaces(t, func(t *testing.T, place string) {
		i := begin(t, place)
		m := i.master(1)
		m.worker("1", "polite")
		m.does("say READY=1")
		m.kill()
		for generation := 2; generation <= 6; generation++ {
			i.master(generation).kill()
		}
		i.logged("master died", "generation", "6") // and the next start is 800 ms away
		i.signal(unix.SIGTERM)
		i.logged("former worker exited", "worker", "1", "exit_code", "5")
		i.ends(0)
		if n := i.happened(isLog("master started")); n != 6 {
			t.Errorf("%d masters were started, want 6", n)
		}
	})
}

// refuses waits until nobody listens on the address any more.
func (i *instance) refuses(address string) {
	i.t.Helper()
	i.eventually("late clients are refused", func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
		}
		return errors.Is(err, unix.ECONNREFUSED)
	})
}

func TestStopWithoutAMasterRefusesLateClients(t *testing.T) {
	endings := map[string]func(i *instance, m *actor){
		"stopped while no master lived": func(i *instance, m *actor) {
			m.kill()
			for generation := 2; generation <= 6; generation++ {
				i.master(generation).kill()
			}
			i.logged("master died", "generation", "6") // and the next start is 800 ms away
			i.signal(unix.SIGTERM)
		},
		"master killed when it was asked to stop": func(i *instance, m *actor) {
			i.signal(unix.SIGTERM)
			i.said("X_MASTER=1", "X_SIGNAL=SIGTERM")
			m.kill()
		},
		"master killed while it stopped": func(i *instance, m *actor) {
			i.signal(unix.SIGTERM)
			m.does("say STOPPING=1")
			m.kill()
		},
		"master killed while it stopped by itself": func(_ *instance, m *actor) {
			m.does("say STOPPING=1")
			m.kill()
		},
	}
	inBothPlaces(t, func(t *testing.T, place string) {
		for name, ending := range endings {
			t.Run(name, func(t *testing.T) {
				i := begin(t, place, "KEEPER_TEST_DRAIN=10m")
				m := i.master(1)
				address, _, _ := strings.Cut(m.does("listen tcp"), " ")
				busy := m.worker("1", "deaf")
				m.does("say READY=1")
				ending(i, m)
				i.said("X_WORKER=1", "X_SIGNAL=SIGTERM")
				i.refuses(address)
				unix.Kill(busy, unix.SIGKILL) // it has finished
				i.ends(0)
				if n := i.happened(isLog("stopped, but not everything had drained")); n > 0 {
					t.Error("something was cut though all left in time")
				}
			})
		}
	})
}

func TestStopOfAMasterThatCannotHearYetIsNoFailure(t *testing.T) {
	i := begin(t, "subreaper", "KEEPER_TEST_EXECUTABLE=/bin/sleep", "KEEPER_TEST_ARGUMENT=100")
	i.logged("master started")
	i.signal(unix.SIGINT)
	i.ends(0)
}

func TestMasterThatDoesNotStopIsKilled(t *testing.T) {
	inBothPlaces(t, func(t *testing.T, place string) {
		i := begin(t, place, "KEEPER_TEST_HASTY=1", "KEEPER_TEST_DRAIN=300ms")
		m := i.master(1)
		deaf := m.worker("1", "deaf")
		m.does("say READY=1")
		i.signal(unix.SIGTERM)
		i.ends(0)
		// Both, unless the master still reaped its worker when both were killed.
		if line := i.logged("stopped, but not everything had drained"); fmt.Sprint(line["killed"]) != "2" && fmt.Sprint(line["killed"]) != "1" {
			t.Errorf("the last line says %v", line)
		}
		if alive(m.pid) || alive(deaf) {
			t.Error("a process outlived its instance")
		}
	})
}

func TestSignalsWaitForAMasterThatCanHearThem(t *testing.T) {
	i := begin(t, "subreaper")
	m := i.master(1)
	i.signal(unix.SIGHUP)
	i.signal(unix.SIGPWR) // signals are taken in turn
	i.logged("signal ignored", "signal", "SIGPWR")
	if i.happened(isSaid("X_SIGNAL=SIGHUP")) > 0 {
		t.Error("a master that had not said a word was sent SIGHUP, which ends one that cannot hear yet")
	}
	m.does("say STATUS=here")
	i.said("X_MASTER=1", "X_SIGNAL=SIGHUP")
}

func TestMasterThatWasAskedToStopByOthersAndHangsIsKilled(t *testing.T) {
	i := begin(t, "subreaper", "KEEPER_TEST_HASTY=1")
	m := i.master(1)
	m.does("say READY=1")
	m.does("say STOPPING=1 EXTEND_TIMEOUT_USEC=300000")
	i.ends(0)
	if alive(m.pid) {
		t.Error("the master outlived its instance")
	}
}

func TestEverythingBelowIsGoneAtTheEnd(t *testing.T) {
	inBothPlaces(t, func(t *testing.T, place string) {
		i := begin(t, place, "KEEPER_TEST_DRAIN=500ms")
		m := i.master(1)
		polite, deaf := m.worker("1", "polite"), m.worker("2", "deaf")
		m.does("stranger")
		i.eventually("the stranger is the keeper's", func() bool { return i.children() == 2 })
		m.does("say READY=1")
		m.does("say STOPPING=1")
		m.order("exit 3")
		i.logged("former worker exited", "worker", "1", "exit_code", "5")
		i.logged("former worker exited", "worker", "2", "signal", "SIGKILL")
		i.ends(3)
		if alive(polite) || alive(deaf) {
			t.Error("a worker outlived its instance")
		}
		if n := i.happened(isLog("leaving processes that do not die")); n > 0 {
			t.Error("something was left behind")
		}
	})
}

func TestMasterIsToldWhoItIs(t *testing.T) {
	i := begin(t, "subreaper")
	want := fmt.Sprintf("%q leader=true,true ignored=0000000000000000 blocked=0000000000000000 keeper=true %q", []string{"revenant: master g1", "--flag", "value"},
		[]string{"GOMAXPROCS=1", "PATH=" + pathHere(), "LISTEN_ADDR=:80", "X_REVENANT_ROLE=master", "KEEPER_TEST_ROLE="})
	if got := i.master(1).does("describe"); got != want {
		t.Errorf("the master found itself to be\n%s, want\n%s", got, want)
	}
}
