package notify

import (
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// private lists the variables that are meant for one process and must not reach those it starts.
// They are named one by one: LISTEN_ADDR or WATCHDOG_URL are the operator's.
var private = []string{
	SocketVariable, FDsVariable, NamesVariable, PIDVariable, "LISTEN_PIDFDID",
	WatchdogVariable, WatchdogPIDVariable, "FDSTORE", "MAINPID", "MAINPIDFDID",
	WorkerInstanceVariable, WorkerVariable, WorkerSlotVariable, WorkerGenerationVariable,
}

// Clean returns environ without what the level above said to this process alone.
func Clean(environ []string) []string {
	kept := make([]string, 0, len(environ))
	for _, entry := range environ {
		name, _, _ := strings.Cut(entry, "=")
		if slices.Contains(private, name) || strings.HasPrefix(name, "X_REVENANT_") || strings.HasPrefix(name, "TABLEFLIP_") {
			continue
		}
		kept = append(kept, entry)
	}
	return kept
}

// Watchdog is how often a level above wants to hear WATCHDOG=1 from this process, 0 for never. Twice
// as often is polite.
func Watchdog(getenv func(string) string) time.Duration {
	if pid := getenv(WatchdogPIDVariable); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0
	}
	us, err := strconv.ParseInt(getenv(WatchdogVariable), 10, 64)
	if err != nil || us <= 0 || us > int64(math.MaxInt64/time.Microsecond) {
		return 0
	}
	return time.Duration(us) * time.Microsecond
}

// NamedFile is a descriptor that was inherited. It is a bare number, so that nothing watches or
// closes it behind the owner's back.
type NamedFile struct {
	Name string
	FD   int
}

// File makes an os.File of the descriptor, which then owns it: close the File, never the number.
func (f NamedFile) File() *os.File { return os.NewFile(uintptr(f.FD), f.Name) }

// Inherited returns the descriptors that LISTEN_FDS and LISTEN_FDNAMES describe, none unless
// LISTEN_PID is this process. It sets close-on-exec on them.
func Inherited(getenv func(string) string) []NamedFile {
	if pid, err := strconv.Atoi(getenv(PIDVariable)); err != nil || pid != os.Getpid() {
		return nil
	}
	count, err := strconv.Atoi(getenv(FDsVariable))
	if err != nil || count <= 0 {
		return nil
	}
	names := strings.Split(getenv(NamesVariable), ":")
	var files []NamedFile
	for i := range count {
		fd := 3 + i
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
			break
		}
		name := "unknown"
		if i < len(names) && names[i] != "" {
			name = UnescapeName(names[i])
		}
		files = append(files, NamedFile{Name: name, FD: fd})
	}
	return files
}

// EscapeName makes a descriptor's name fit FDNAME and LISTEN_FDNAMES, which allow neither ':' nor
// anything but printable ASCII: other bytes become %XX.
func EscapeName(name string) string {
	var b strings.Builder
	for i := range len(name) {
		if c := name[i]; c < ' ' || c >= 127 || c == ':' || c == '%' {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// UnescapeName undoes EscapeName. What it cannot read as an escape it leaves as it is.
func UnescapeName(name string) string {
	var b strings.Builder
	for i := 0; i < len(name); i++ {
		if name[i] == '%' && i+2 < len(name) {
			if c, err := strconv.ParseUint(name[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(c))
				i += 2
				continue
			}
		}
		b.WriteByte(name[i])
	}
	return b.String()
}

// ValidName tells whether an escaped name may stand in LISTEN_FDNAMES.
func ValidName(name string) bool {
	return name != "" && len(name) <= 255 && !strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r >= 127 || r == ':' })
}
