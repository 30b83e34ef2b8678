package keeper

import (
	"bufio"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// terminal makes a terminal with "stty tostop" the controlling one of the instance yet to be run,
// and returns its far end, where the operator sits. Its lines are events.
func (i *instance) terminal() *os.File {
	i.t.Helper()
	check := func(err error) {
		i.t.Helper()
		if err != nil {
			i.t.Fatal(err)
		}
	}
	far, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		i.t.Skipf("SKIPPED: no terminal can be made here: %v", err)
	}
	i.t.Cleanup(func() { far.Close() })
	check(unix.IoctlSetPointerInt(int(far.Fd()), unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(int(far.Fd()), unix.TIOCGPTN)
	check(err)
	near, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	check(err)
	i.t.Cleanup(func() { near.Close() })
	modes, err := unix.IoctlGetTermios(int(near.Fd()), unix.TCGETS)
	check(err)
	modes.Lflag |= unix.TOSTOP
	check(unix.IoctlSetTermios(int(near.Fd()), unix.TCSETS, modes))
	i.command.Stdin, i.command.Stdout = near, near
	i.command.SysProcAttr.Setsid, i.command.SysProcAttr.Setctty = true, true
	// Ends with the terminal, which the test closes.
	go func() {
		for lines := bufio.NewScanner(far); lines.Scan(); {
			i.arrived <- event{log: map[string]any{"msg": "on the terminal", "line": lines.Text()}}
		}
	}()
	return far
}

func TestTerminalDoesNotDisturbTheMaster(t *testing.T) {
	i := prepare(t, "subreaper")
	operator := i.terminal()
	m := i.run().master(1)
	m.does("write hello")
	i.logged("on the terminal", "line", "hello")
	m.does("say READY=1")
	// Ctrl-C is for the keeper alone, which then asks the master.
	if _, err := operator.WriteString("\x03"); err != nil {
		t.Fatal(err)
	}
	i.logged("stopping", "signal", "SIGINT")
	i.said("X_MASTER=1", "X_SIGNAL=SIGTERM")
	m.does("say STOPPING=1")
	m.order("exit 0")
	i.ends(0)
	if n := i.happened(func(e event) bool { _, got := e.message.Value("X_SIGNAL"); return got }); n > 0 {
		t.Errorf("the terminal sent %d signals to the master", n)
	}
}

// As after "revenant run &".
func TestKeeperInTheBackgroundOfATerminalCanWrite(t *testing.T) {
	i := prepare(t, "subreaper", "KEEPER_TEST_TALKS=1")
	i.command.Env = append(i.command.Env, "KEEPER_TEST_ROLE=shell")
	i.terminal()
	m := i.run().master(1)
	m.does("say READY=1")
	i.logged("master ready")
	m.does("say STOPPING=1")
	m.order("exit 0")
	i.ends(0)
	if n := i.happened(isSaid("X_SIGNAL=SIGTTOU")); n > 0 {
		t.Errorf("the keeper's lines took %d workers", n)
	}
}
