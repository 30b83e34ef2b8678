package command

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// User is whose rights a program has.
type User struct {
	UID, GID int
	// Groups are the supplementary ones.
	Groups []int
	// Environ are the variables that a service manager sets for its user: HOME,
	// LOGNAME and USER. Empty when only the group changes.
	Environ []string `json:"-"`
}

// ErrGroup is what LookUp says of a group that does not exist.
var ErrGroup = errors.New("there is no such group (create it, or give a number)")

// highestID is that of users and groups: to the kernel, the number above it means
// "leave it as it is".
const highestID = math.MaxUint32 - 1

// LookUp finds a user and a group by name or number; either may be "". Without
// a group it is the user's own, with his supplementary ones.
func LookUp(name, group string) (*User, error) {
	u := &User{UID: os.Geteuid(), GID: os.Getegid()}
	if name != "" {
		if err := u.named(name, group != ""); err != nil {
			return nil, err
		}
	} else {
		u.Groups, _ = unix.Getgroups()
	}
	if group != "" {
		gid, err := groupID(group)
		if err != nil {
			return nil, err
		}
		u.GID = gid
	}
	if os.Geteuid() != 0 && (u.UID != os.Geteuid() || u.GID != os.Getegid()) {
		return nil, errors.New("only root can give a program another user or group (start as root, or leave it out)")
	}
	return u, nil
}

func (u *User) named(name string, hasGroup bool) error {
	found, err := user.Lookup(name)
	if number, isNumber := strconv.Atoi(name); err != nil && isNumber == nil && number >= 0 {
		if found, err = user.LookupId(name); err != nil {
			if number > highestID {
				return fmt.Errorf("is no number of a user (give one below %d)", highestID+1)
			}
			if !hasGroup {
				return errors.New("there is no user with this number (create one, or name a group too)")
			}
			u.UID = number
			return nil
		}
	}
	if err != nil {
		return errors.New("there is no such user (create it, or give a number and a group)")
	}
	u.UID, _ = strconv.Atoi(found.Uid)
	u.GID, _ = strconv.Atoi(found.Gid)
	u.Environ = []string{"HOME=" + found.HomeDir, "LOGNAME=" + found.Username, "USER=" + found.Username}
	groups, err := found.GroupIds()
	if err != nil {
		return fmt.Errorf("cannot find the groups of this user: %w", err)
	}
	for _, g := range groups {
		if gid, err := strconv.Atoi(g); err == nil {
			u.Groups = append(u.Groups, gid)
		}
	}
	return nil
}

func groupID(name string) (int, error) {
	if g, err := user.LookupGroup(name); err == nil {
		return strconv.Atoi(g.Gid)
	}
	if gid, err := strconv.Atoi(name); err == nil && gid >= 0 && gid <= highestID {
		return gid, nil
	}
	return 0, ErrGroup
}

// become gives up this process's rights for the user's, in the one order that
// works: only root can change groups, so the user comes last. Package syscall
// changes all threads.
func (u *User) become() error {
	was := os.Geteuid()
	if was == 0 {
		if err := syscall.Setgroups(u.Groups); err != nil {
			return fmt.Errorf("cannot set the supplementary groups %v: %w", u.Groups, err)
		}
	}
	if err := syscall.Setresgid(u.GID, u.GID, u.GID); err != nil {
		return fmt.Errorf("cannot become group %d: %w", u.GID, err)
	}
	if err := syscall.Setresuid(u.UID, u.UID, u.UID); err != nil {
		return fmt.Errorf("cannot become user %d: %w", u.UID, err)
	}
	return u.verify(was)
}

// verify makes sure that the rights are gone for good.
func (u *User) verify(was int) error {
	ruid, euid, suid := unix.Getresuid()
	rgid, egid, sgid := unix.Getresgid()
	if ruid != u.UID || euid != u.UID || suid != u.UID || rgid != u.GID || egid != u.GID || sgid != u.GID {
		return fmt.Errorf("became user %d/%d/%d and group %d/%d/%d, and not %d and %d", ruid, euid, suid, rgid, egid, sgid, u.UID, u.GID)
	}
	if was != 0 || u.UID == 0 {
		return nil
	}
	groups, err := unix.Getgroups()
	slices.Sort(groups)
	want := slices.Sorted(slices.Values(u.Groups))
	if err != nil || !slices.Equal(groups, want) {
		return fmt.Errorf("has the supplementary groups %v, and not %v", groups, want)
	}
	if syscall.Setuid(0) == nil {
		return errors.New("could become root again: the rights were not given up")
	}
	return noCapabilities()
}

// noCapabilities finds what survives the change of the user in a process whose
// secure bits say so.
func noCapabilities() error {
	text, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		return nil // hidden from other users; the user's number decides
	}
	for line := range strings.Lines(string(text)) {
		for _, set := range []string{"CapPrm:", "CapEff:", "CapAmb:"} {
			if bits, is := strings.CutPrefix(line, set); is && strings.Trim(strings.TrimSpace(bits), "0") != "" {
				return fmt.Errorf("still has capabilities: %s", strings.TrimSpace(line))
			}
		}
	}
	return nil
}
