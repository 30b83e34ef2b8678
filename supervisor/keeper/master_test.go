package keeper

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"revenant/supervisor/notify"
)

func pathHere() string { return os.Getenv("PATH") }

func TestInstanceThatNeverWasReadyIsGivenUp(t *testing.T) {
	inBothPlaces(t, func(t *testing.T, place string) {
		i := begin(t, place, "KEEPER_TEST_EXIT=7")
		line := i.logged("giving up: no master became ready")
		if fmt.Sprintf("%v %v", line["exit_code"], line["masters"]) != "7 5" {
			t.Errorf("the last line says %v", line)
		}
		i.ends(ExitGaveUp)
		if n := i.happened(isLog("master started")); n != 5 {
			t.Errorf("%d masters were started, want 5", n)
		}
	})
}

func TestProgramThatCannotBeStartedIsGivenUp(t *testing.T) {
	i := begin(t, "subreaper", "KEEPER_TEST_EXECUTABLE=/nonexistent")
	if line := i.logged("giving up: no master became ready"); !strings.Contains(fmt.Sprint(line["err"]), "/nonexistent: no such file") {
		t.Errorf("the last line says %v", line)
	}
	i.ends(ExitGaveUp)
}

func TestInstanceThatOnceWasReadyIsNeverGivenUp(t *testing.T) {
	i := begin(t, "subreaper")
	m := i.master(1)
	m.does("say READY=1")
	m.order("exit 2")
	m = i.master(2)
	for generation := 3; generation <= 7; generation++ {
		m.kill()
		i.logged("master died", "restart_in", pause(generation-1).String())
		m = i.master(generation)
	}
	m.does("say STOPPING=1")
	m.order("exit 0")
	i.ends(0)
}

func TestReadyMasterThatIsKilledIsReplacedWithoutBackoff(t *testing.T) {
	i := begin(t, "subreaper")
	for generation := 1; generation <= 10; generation++ {
		m := i.master(generation)
		m.does("say READY=1")
		boot := i.duration("master ready", "took")
		m.kill()
		if wait := i.duration("master died", "restart_in"); wait > 4*boot+4*time.Millisecond {
			t.Errorf("after %d kills the next start waits %v, the last took %v", generation, wait, boot)
		}
	}
	// The twin: one that fails by itself is not started again at once for ever.
	i.master(11).order("exit 2")
	i.logged("master died", "restart_in", "0s")
	i.master(12).order("exit 2")
	i.logged("master died", "restart_in", firstPause.String())
}

func TestBreathAfterAKillIsShareOfTheBootAndNeverLong(t *testing.T) {
	for _, c := range []struct{ boot, ready, want time.Duration }{
		{50 * time.Millisecond, time.Hour, 0},
		{50 * time.Millisecond, 200 * time.Millisecond, 0},
		{50 * time.Millisecond, 0, 200 * time.Millisecond},
		{50 * time.Millisecond, 150 * time.Millisecond, 50 * time.Millisecond},
		{10 * time.Second, 0, time.Second}, // nobody heals meanwhile
	} {
		if got := breath(2, c.boot, c.ready); got != c.want {
			t.Errorf("breath(2, %v, %v) = %v, want %v", c.boot, c.ready, got, c.want)
		}
	}
}

func TestFirstKillIsAnsweredAtOnceHoweverLongTheBoot(t *testing.T) {
	i := begin(t, "subreaper", "KEEPER_TEST_SHARE=1000000") // as if each boot took very long
	for generation, want := range []string{1: "0s", 2: longestBreath.String()} {
		if generation == 0 {
			continue
		}
		m := i.master(generation)
		m.does("say READY=1")
		m.kill()
		i.logged("master died", "restart_in", want)
	}
}

func TestPauseDoublesUpToFiveSeconds(t *testing.T) {
	want := []time.Duration{0, 0, 100, 200, 400, 800, 1600, 3200, 5000, 5000}
	for deaths, w := range want {
		if got := pause(deaths); got != w*time.Millisecond {
			t.Errorf("pause(%d) = %v, want %v", deaths, got, w*time.Millisecond)
		}
	}
	if got := pause(1 << 30); got != longestStep {
		t.Errorf("pause after very many deaths = %v", got)
	}
}

func TestDescriptorSentWithTheLastBreathIsKept(t *testing.T) {
	inBothPlaces(t, func(t *testing.T, place string) {
		i := begin(t, place)
		i.master(1).order("listen last die")
		if got := i.master(2).does("inherited"); !strings.HasPrefix(got, "last cookie=") {
			t.Errorf("the second master inherited %q", got)
		}
	})
}

// inProcess makes a keeper whose master is this test, with one message of it waiting to be read.
func inProcess(t *testing.T) *keeper {
	server, err := notify.Listen(fmt.Sprintf("keeper-test-%d-%d", os.Getpid(), serial.Add(1)))
	if err != nil {
		t.Fatal(err)
	}
	k := &keeper{server: server, orphans: map[int]*orphan{}, master: master{pid: os.Getpid(), generation: 1}, started: 1}
	k.Logger = slog.New(slog.DiscardHandler)
	k.Executable, k.Instance = "/nonexistent", "no instance"
	t.Cleanup(func() { server.Close(); k.store.clear() })
	c, err := notify.Dial(server.Address())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SendFiles([]int{0}, notify.StoreFD, "FDNAME=kept", notify.Ready); err != nil {
		t.Fatal(err)
	}
	return k
}

func TestDeathIsJudgedAfterAllThatWasSaid(t *testing.T) {
	k := inProcess(t)
	k.exited(syscall.WaitStatus(unix.SIGKILL), time.Now())
	if len(k.store) != 1 || k.committed != 1 {
		t.Errorf("%d descriptors stored, generation %d committed; want 1 and 1", len(k.store), k.committed)
	}
	// The twin judges first: what was said is then a stranger's.
	k = inProcess(t)
	k.died(time.Now(), true)
	k.read(time.Now())
	if len(k.store) != 0 || k.committed != 0 {
		t.Error("judging before reading lost nothing: the test above proves nothing")
	}
}

func TestStrangersAreNotListenedTo(t *testing.T) {
	i := begin(t, "subreaper")
	m := i.master(1)
	m.does("sender READY=1 FDSTORE=1 FDNAME=forged STOPPING=1")
	i.logged("message of a stranger ignored")
	if n := i.happened(isLog("master ready")); n > 0 {
		t.Error("a stranger made the master ready")
	}
	m.kill()
	m = i.master(2) // so the forged STOPPING=1 was not believed
	if got := m.does("inherited"); got != "" {
		t.Errorf("a stranger stored %q", got)
	}
	// The twin: the same words of the master are believed.
	m.does("say READY=1")
	i.logged("master ready", "generation", "2")
}

func TestNonsenseFromTheMasterDoesNoHarm(t *testing.T) {
	i := begin(t, "subreaper")
	m := i.master(1)
	long := strings.Repeat("x", 256)
	orders := []string{
		"say FDSTORE=1 FDNAME=none", "store a:b 1", "store \x01 1", "store " + long + " 1", "say FDSTOREREMOVE=1", "say FDSTOREREMOVE=1 FDNAME=unknown",
		"say READY=0", "say =", "say ==", "say X=" + strings.Repeat("=", 3000), "say READY=1 READY=1", "store many 253", "store lots 253",
	}
	var removals []string
	for n := range maxStored/253 - 2 {
		orders = append(orders, fmt.Sprintf("store full%d 253", n))
		removals = append(removals, fmt.Sprintf("say FDSTOREREMOVE=1 FDNAME=full%d", n))
	}
	for _, order := range append(append(orders, "store toomany 253"), removals...) {
		m.does(order)
	}
	i.logged("master ready")
	m.kill()
	if got := strings.Split(i.master(2).does("inherited-names"), ","); len(got) != 2*253 || got[0] != "many" || got[len(got)-1] != "lots" {
		t.Errorf("the second master inherited %d descriptors: %.200q", len(got), got)
	}
	for _, name := range []string{"a:b", long, "toomany"} {
		e := i.await("refusal of "+name, func(e event) bool {
			return isLog("descriptor not stored: it would be lost if the master died")(e) && e.log["name"] == name
		})
		if name == long && e.log["err"] != "its name has 256 bytes, escaped, and no more than 255 can be given to the next master" {
			t.Errorf("the refusal says %v", e.log)
		}
	}
}

func TestEveryValidNameIsKeptAsItCame(t *testing.T) {
	i := begin(t, "subreaper")
	m := i.master(1)
	longest := strings.Repeat("%3A", 85) // 255 bytes
	for _, name := range []string{"tcp%3A//127.0.0.1%3A3000", "twice%253A", "100%", "a~!\"b", longest} {
		m.does("store " + name + " 1")
	}
	m.kill()
	want := "tcp://127.0.0.1:3000,twice%3A,100%,a~!\"b," + strings.Repeat(":", 85)
	if got := i.master(2).does("inherited-names"); got != want {
		t.Errorf("the second master inherited %q, want %q", got, want)
	}
}

func TestStoreReplacesAndRemovesByName(t *testing.T) {
	i := begin(t, "subreaper")
	m := i.master(1)
	m.does("listen a")
	m.does("store b 2")
	m.does("listen c")
	_, cookie, _ := strings.Cut(m.does("listen a"), " ")
	m.does("say FDSTOREREMOVE=1 FDNAME=c")
	m.kill()
	want := "b cookie=0 nonblock=false,b cookie=0 nonblock=false,a cookie=" + cookie + " nonblock=true"
	if got := i.master(2).does("inherited"); got != want {
		t.Errorf("the second master inherited %q, want %q", got, want)
	}
}

func TestManyDeathsLeaveNothingBehind(t *testing.T) {
	i := begin(t, "subreaper", "KEEPER_TEST_HASTY=1")
	files := func() int { return len(numbered(fmt.Sprintf("/proc/%d/fd", i.command.Process.Pid))) }
	threads := func() int { return len(numbered(fmt.Sprintf("/proc/%d/task", i.command.Process.Pid))) }
	m := i.master(1)
	m.does("listen tcp")
	m.does("say READY=1")
	filesBefore, threadsBefore := files(), threads()
	for generation := 2; generation <= 201; generation++ {
		m.kill()
		m = i.master(generation)
		m.does("listen tcp")
		m.does("say READY=1")
		i.logged("master ready", "generation", m.generation)
		if generation == 10 {
			filesBefore, threadsBefore = max(filesBefore, files()), max(threadsBefore, threads())
		}
	}
	// A look at the children or a message under way has one open for a moment.
	i.eventually("no more descriptors than before", func() bool { return files() <= filesBefore })
	if threads() > threadsBefore+2 || i.children() != 1 {
		t.Errorf("after 200 deaths %d threads (%d before), %d children", threads(), threadsBefore, i.children())
	}
	i.seen = nil
}

func TestReadinessIsToldUpward(t *testing.T) {
	i := begin(t, "subreaper", "NOTIFY_SOCKET=above")
	m := i.master(1)
	m.does("say READY=1")
	if got := i.said("READY=1"); got.PID != i.command.Process.Pid {
		t.Errorf("READY=1 came from %d, not from the keeper", got.PID)
	}
	m.does("say STOPPING=1")
	i.said("STOPPING=1")
	m.order("exit 0")
	i.ends(0)
}
