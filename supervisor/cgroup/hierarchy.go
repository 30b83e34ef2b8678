package cgroup

import (
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// hierarchy is where one controller's files of this process are: from its own
// cgroup up to the highest one that can be seen from here.
type hierarchy struct {
	version int
	levels  []level
}

type level struct {
	dir  string // as fs.FS wants it: no leading slash
	name string // the cgroup's path, as /proc/self/cgroup names it
}

// relation says in an operator's words which level decided.
func (h hierarchy) relation(i int) string {
	switch i {
	case 0:
		return "its own"
	case 1:
		return "its parent"
	default:
		return "an ancestor"
	}
}

// hierarchies finds the places where a controller may be, the likelier first. A
// controller belongs to version 1 or to version 2, never to both; on a hybrid
// system version 2 is mounted without it, and its files are simply not there.
func (h Host) hierarchies(controller string) ([]hierarchy, error) {
	memberships, err := fs.ReadFile(h.files, "proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	mounts, err := fs.ReadFile(h.files, "proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var found []hierarchy
	for _, version := range []int{1, 2} {
		own, ok := membership(string(memberships), version, controller)
		if !ok {
			continue
		}
		for line := range strings.Lines(string(mounts)) {
			m, ok := parseMount(line)
			if ok && m.holds(version, controller) {
				found = append(found, hierarchy{version: version, levels: m.levels(own)})
				break
			}
		}
	}
	return found, nil
}

// membership reads the lines "7:cpu,cpuacct:/path" of version 1 and "0::/path"
// of version 2.
func membership(lines string, version int, controller string) (own string, ok bool) {
	for line := range strings.Lines(lines) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(fields) != 3 {
			continue
		}
		if version == 2 && fields[0] == "0" && fields[1] == "" || version == 1 && contains(fields[1], controller) {
			return fields[2], true
		}
	}
	return "", false
}

type mount struct {
	root, point, kind, options string
}

// parseMount reads a line of proc_pid_mountinfo(5). A number of optional fields
// stands before the lone "-".
func parseMount(line string) (mount, bool) {
	before, after, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
	left, right := strings.Fields(before), strings.Fields(after)
	if !ok || len(left) < 6 || len(right) < 3 {
		return mount{}, false
	}
	return mount{root: unescape(left[3]), point: unescape(left[4]), kind: right[0], options: right[2]}, true
}

func (m mount) holds(version int, controller string) bool {
	if version == 2 {
		return m.kind == "cgroup2"
	}
	return m.kind == "cgroup" && contains(m.options, controller)
}

// levels maps a cgroup to directories. A container sees only what lies under
// the root of its mount. When its own cgroup does not, because the container
// has no cgroup namespace or the process was moved, the mount point is the
// nearest thing that applies to it.
func (m mount) levels(own string) []level {
	below, ok := strings.CutPrefix(path.Clean(own), strings.TrimSuffix(path.Clean(m.root), "/"))
	// "/.." is how the kernel names what lies outside of a cgroup namespace.
	outside := strings.HasPrefix(own, "/..") || strings.HasPrefix(m.root, "/..")
	if !ok || outside || below != "" && !strings.HasPrefix(below, "/") {
		return []level{{dir: strings.TrimPrefix(m.point, "/"), name: m.root}}
	}
	var levels []level
	for below = path.Join("/", below); ; below = path.Dir(below) {
		levels = append(levels, level{
			dir:  strings.TrimPrefix(path.Join(m.point, below), "/"),
			name: path.Join(m.root, below),
		})
		if below == "/" {
			return levels
		}
	}
}

func contains(list, item string) bool {
	for entry := range strings.SplitSeq(list, ",") {
		if entry == item {
			return true
		}
	}
	return false
}

// unescape turns the kernel's \040 back into a space.
func unescape(s string) string {
	for i := 0; i+3 < len(s); i++ {
		if s[i] != '\\' {
			continue
		}
		if code, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
			s = s[:i] + string([]byte{byte(code)}) + s[i+4:]
		}
	}
	return s
}

// read returns the fields of a small file of a level. A file that is not there
// is no error and no fields: the controller is off at this level.
func (h Host) read(l level, file string) ([]string, error) {
	text, err := fs.ReadFile(h.files, path.Join(l.dir, file))
	if isAbsent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read %s of cgroup %s: %w", file, l.name, err)
	}
	fields := strings.Fields(string(text))
	if len(fields) == 0 {
		return nil, fmt.Errorf("cannot read %s of cgroup %s: the file is empty", file, l.name)
	}
	return fields, nil
}
