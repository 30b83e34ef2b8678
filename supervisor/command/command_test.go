package command

import (
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The negative twin of the drop's own check: what was not given up is noticed.
func TestRightsThatWereNotGivenUpAreAnError(t *testing.T) {
	mine := &User{UID: os.Geteuid(), GID: os.Getegid()}
	if err := mine.verify(mine.UID); err != nil {
		t.Errorf("of the user it is: %v", err)
	}
	for _, other := range []*User{{UID: mine.UID + 1, GID: mine.GID}, {UID: mine.UID, GID: mine.GID + 1}} {
		if err := other.verify(mine.UID); err == nil {
			t.Errorf("%+v passes for %+v", other, mine)
		}
	}
	if os.Geteuid() == 0 {
		if err := noCapabilities(); err == nil {
			t.Error("root has no capabilities")
		}
	}
}

func TestProgramGetsNothingThatIsForTheStepAlone(t *testing.T) {
	step := []string{"A=1", "X_REVENANT_ROLE=command", "LISTEN_FDS=1", "X_REVENANT_COMMAND={}", "Z=2"}
	if got, want := contract(step, "", 42), []string{"A=1", "LISTEN_FDS=1", "LISTEN_PID=42", "Z=2"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := contract([]string{"A=1"}, "worker", 42); !slices.Equal(got, []string{"A=1", "X_REVENANT_ROLE=worker"}) {
		t.Errorf("%q: there is no listener to tell of", got)
	}
}

func TestLimitIsReadInTheWordsOfSetrlimit(t *testing.T) {
	for text, want := range map[string]Limit{
		"nofile=1024":             {"nofile", 1024, 1024},
		"nofile=1K:2K":            {"nofile", 1024, 2048},
		"core=0:unlimited":        {"core", 0, Unlimited},
		"as=2G":                   {"as", 2 << 30, 2 << 30},
		"memlock=unlimited":       {"memlock", Unlimited, Unlimited},
		"stack=8M:unlimited":      {"stack", 8 << 20, Unlimited},
		"cpu=9223372036854775807": {"cpu", 1<<63 - 1, 1<<63 - 1},
	} {
		if got, err := ParseLimit(text); err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "nofile", "nofile=", "nofile=-1", "nofile=1KK", "nofile=9223372036854775807K", "files=1", "nofile=2:1", "nofile=1:"} {
		if got, err := ParseLimit(text); err == nil || !strings.Contains(err.Error(), "(") {
			t.Errorf("%q: %+v, %v; want an error with a remedy", text, got, err)
		}
	}
}

func TestWhatTheKernelSaysOfAnExecComesWithARemedy(t *testing.T) {
	for _, err := range []error{unix.ENOENT, unix.EACCES, unix.ENOEXEC, unix.ETXTBSY, unix.EAGAIN, unix.E2BIG} {
		if text := explain("/nonexistent/program", err).Error(); !strings.HasPrefix(text, "cannot execute /nonexistent/program: "+err.Error()+" (") {
			t.Errorf("of %v is said: %s", err, text)
		}
	}
}
