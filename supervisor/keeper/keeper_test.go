package keeper

import (
	"io"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestInstanceEndsAsItsMasterDoes(t *testing.T) {
	inBothPlaces(t, func(t *testing.T, place string) {
		for _, code := range []int{0, 3, 12} {
			i := begin(t, place)
			m := i.master(1)
			m.does("say READY=1")
			m.does("say STOPPING=1")
			m.order("exit " + strconv.Itoa(code))
			i.ends(code)
		}
		i := begin(t, place)
		i.master(1).order("die STOPPING=1")
		i.ends(128 + 9)
	})
}

func TestDeadMasterIsReplacedOnTheSameSocketsWhileWorkersServe(t *testing.T) {
	inBothPlaces(t, func(t *testing.T, place string) {
		i := begin(t, place, "KEEPER_TEST_DRAIN=1s")
		first := i.master(1)
		address, cookie, _ := strings.Cut(first.does("listen tcp%3Afirst"), " ")
		polite, deaf := first.worker("1", "polite"), first.worker("2", "deaf")
		first.does("say READY=1")
		i.logged("master ready", "generation", "1")
		first.kill()
		i.logged("master died", "generation", "1", "signal", "SIGKILL")

		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatalf("connection while no master lived: %v", err)
		}
		defer conn.Close()
		second := i.master(2)
		if got, want := second.does("inherited"), "tcp:first cookie="+cookie+" nonblock=true"; got != want {
			t.Errorf("the second master inherited %q, want %q", got, want)
		}
		second.does("accept")
		if text, err := io.ReadAll(conn); string(text) != "hello" || err != nil {
			t.Errorf("queued connection got %q, %v", text, err)
		}
		if !alive(polite) || !alive(deaf) || i.happened(isSaid("X_SIGNAL=SIGTERM")) > 0 {
			t.Error("a worker was disturbed before the next generation was ready")
		}
		second.does("say READY=1")
		i.said("X_WORKER=1", "X_SIGNAL=SIGTERM")
		i.said("X_WORKER=2", "X_SIGNAL=SIGTERM")
		i.logged("former worker exited", "worker", "1", "exit_code", "5", "generation", "1", "slot", "0")
		i.logged("former worker exited", "worker", "2", "signal", "SIGKILL")
		if i.happened(isSaid("X_SIGNAL=SIGTERM")) > 0 {
			t.Error("a worker was asked twice")
		}
		second.does("say STOPPING=1")
		second.order("exit 0")
		i.ends(0)
	})
}

func TestOrphansAreReapedAndNoStatusIsStolen(t *testing.T) {
	inBothPlaces(t, func(t *testing.T, place string) {
		i := begin(t, place)
		m := i.master(1)
		m.does("say READY=1")
		m.does("both 10000 300")
		i.eventually("no child but the master", func() bool { return i.children() == 1 })
		i.eventually("all orphans logged", func() bool { return i.happened(isLog("orphan reaped")) >= 10000 })
		i.seen = nil
		m.does("say STOPPING=1")
		m.order("exit 0")
		i.ends(0)
	})
}

func play(t *testing.T, role string) string {
	t.Helper()
	child := exec.Command("/proc/self/exe")
	child.Env = []string{"GORACE=atexit_sleep_ms=0", "KEEPER_TEST_ROLE=" + role}
	child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := child.Output()
	if err != nil {
		t.Fatalf("%s: %v", role, err)
	}
	return strings.TrimSpace(string(out))
}

// The twin of the above: the same orphans under a parent that does not reap, the same children
// under a parent that reaps next to os/exec.
func TestWithoutTheRulesZombiesStayAndStatusesAreStolen(t *testing.T) {
	if got := play(t, "bystander"); got != "100" {
		t.Errorf("%s zombies without a reaper, want 100", got)
	}
	if got := play(t, "thief"); !strings.Contains(got, "status of child") {
		t.Errorf("statuses beside a wait for all children: %s, want stolen ones", got)
	}
}

func TestKeepersDeathIsSeenOnTheLifeline(t *testing.T) {
	i := begin(t, "subreaper")
	m := i.master(1)
	m.does("say READY=1")
	i.signal(unix.SIGKILL)
	i.said("X_LIFELINE=eof")
	i.ends(-1)
}
