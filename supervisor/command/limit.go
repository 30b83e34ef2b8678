package command

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Limit is one of setrlimit(2), by its name in lower case without RLIMIT_.
type Limit struct {
	Name       string
	Soft, Hard uint64
}

// Unlimited is the value for no limit.
const Unlimited = math.MaxUint64

var resources = map[string]int{
	"as": unix.RLIMIT_AS, "core": unix.RLIMIT_CORE, "cpu": unix.RLIMIT_CPU, "data": unix.RLIMIT_DATA, "fsize": unix.RLIMIT_FSIZE,
	"locks": unix.RLIMIT_LOCKS, "memlock": unix.RLIMIT_MEMLOCK, "msgqueue": unix.RLIMIT_MSGQUEUE, "nice": unix.RLIMIT_NICE,
	"nofile": unix.RLIMIT_NOFILE, "nproc": unix.RLIMIT_NPROC, "rss": unix.RLIMIT_RSS, "rtprio": unix.RLIMIT_RTPRIO,
	"rttime": unix.RLIMIT_RTTIME, "sigpending": unix.RLIMIT_SIGPENDING, "stack": unix.RLIMIT_STACK,
}

// ParseLimit reads NAME=SOFT[:HARD]. One number is both. A number may end in K,
// M or G, powers of 1024, or be "unlimited".
func ParseLimit(text string) (Limit, error) {
	name, value, ok := strings.Cut(text, "=")
	if !ok {
		return Limit{}, errors.New("not NAME=SOFT[:HARD] (write it like nofile=65536 or core=0)")
	}
	if _, known := resources[name]; !known {
		return Limit{}, fmt.Errorf("there is no limit %q (use %s)", name, strings.Join(slices.Sorted(maps.Keys(resources)), ", "))
	}
	softText, hardText, both := strings.Cut(value, ":")
	soft, err := parseAmount(softText)
	if err != nil {
		return Limit{}, err
	}
	hard := soft
	if both {
		if hard, err = parseAmount(hardText); err != nil {
			return Limit{}, err
		}
	}
	if soft > hard {
		return Limit{}, errors.New("the first number, the soft limit, is above the hard one (exchange them)")
	}
	return Limit{name, soft, hard}, nil
}

func parseAmount(text string) (uint64, error) {
	if text == "unlimited" {
		return Unlimited, nil
	}
	digits := strings.TrimRight(text, "KMG")
	unit := map[string]uint64{"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}[text[len(digits):]]
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || unit == 0 || n > math.MaxInt64/unit {
		return 0, fmt.Errorf("%q is not an amount (write a number, which may end in K, M or G, or unlimited)", text)
	}
	return n * unit, nil
}

// set changes the limit of this process. It must be package syscall's call: that
// one remembers not to put back the number of open files at the exec.
func (l Limit) set() error {
	err := syscall.Setrlimit(resources[l.Name], &syscall.Rlimit{Cur: l.Soft, Max: l.Hard})
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("cannot set the limit %s to %s: %w (only root can raise a hard limit)", l.Name, l.values(), err)
	}
	if err != nil {
		return fmt.Errorf("cannot set the limit %s to %s: %w", l.Name, l.values(), err)
	}
	return nil
}

func (l Limit) values() string { return amount(l.Soft) + ":" + amount(l.Hard) }

func amount(n uint64) string {
	if n == Unlimited {
		return "unlimited"
	}
	return strconv.FormatUint(n, 10)
}
