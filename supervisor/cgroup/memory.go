package cgroup

import (
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// Memory is how much memory the instance may use.
type Memory struct {
	// Limit is the tightest limit in bytes, 0 when there is none but the
	// machine's own.
	Limit int64
	// Rule says where it comes from: "memory limit 512 MiB of cgroup /a (its
	// own)".
	Rule string
	// KilledTogether is set when the kernel answers a lack of memory by killing
	// every process of the instance at once (memory.oom.group).
	KilledTogether bool
	// Ignored are the files that could not be understood.
	Ignored []error
}

// Memory reads the limits of the own cgroup and of all its visible ancestors.
func (h Host) Memory() Memory {
	var memory Memory
	found, err := h.hierarchies("memory")
	if err != nil {
		memory.Ignored = append(memory.Ignored, err)
	}
	machine := h.machineMemory()
	for _, hierarchy := range found {
		for i, level := range hierarchy.levels {
			limit, err := h.memoryLimit(hierarchy.version, level)
			if err != nil {
				memory.Ignored = append(memory.Ignored, err)
				continue
			}
			if limit > 0 && (machine == 0 || limit < machine) && (memory.Limit == 0 || limit < memory.Limit) {
				memory.Limit = limit
				memory.Rule = fmt.Sprintf("memory limit %d MiB of cgroup %s (%s)", limit>>20, level.name, hierarchy.relation(i))
			}
			if group, err := h.read(level, "memory.oom.group"); err == nil && group != nil && group[0] == "1" {
				memory.KilledTogether = true
			}
		}
	}
	if memory.Limit == 0 {
		memory.Rule = "no memory limit"
	}
	return memory
}

func (h Host) memoryLimit(version int, l level) (int64, error) {
	file := "memory.max"
	if version == 1 {
		file = "memory.limit_in_bytes"
	}
	fields, err := h.read(l, file)
	if err != nil || fields == nil || fields[0] == "max" {
		return 0, err
	}
	limit, err := strconv.ParseInt(fields[0], 10, 64)
	if err != nil || limit < 0 {
		return 0, fmt.Errorf("cannot understand %s of cgroup %s: %q is not a size", file, l.name, fields[0])
	}
	return limit, nil
}

// machineMemory is the memory of the machine in bytes, 0 when unknown. Version 1
// spells "no limit" as a number far above it.
func (h Host) machineMemory() int64 {
	text, _ := fs.ReadFile(h.files, "proc/meminfo")
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "MemTotal:" {
			continue
		}
		kib, _ := strconv.ParseInt(fields[1], 10, 53)
		return kib << 10
	}
	return 0
}

const (
	// supervision is what keeper and master may use of the limit.
	supervision = 32 << 20
	// leastMemory keeps the garbage collector of a worker from doing nothing
	// else when the limit is tiny.
	leastMemory = 16 << 20
)

// Share is GOMEMLIMIT for each of n workers, 0 for none. One worker more can
// exist while a successor starts, and a tenth is left to what Go does not count.
func (m Memory) Share(n int) int64 {
	if m.Limit == 0 || n < 1 {
		return 0
	}
	return max((m.Limit-supervision)/int64(n+1)/10*9, leastMemory)
}

// OOMKills counts the processes of the own cgroup that the kernel has killed
// for want of memory, whichever limit they met. A death is put down to it only
// when the count has risen meanwhile.
func (h Host) OOMKills() (uint64, error) {
	found, err := h.hierarchies("memory")
	if err != nil {
		return 0, fmt.Errorf("cannot count OOM kills: %w", err)
	}
	for _, hierarchy := range found {
		file := "memory.events"
		if hierarchy.version == 1 {
			file = "memory.oom_control"
		}
		for _, level := range hierarchy.levels {
			fields, err := h.read(level, file)
			if err != nil {
				return 0, fmt.Errorf("cannot count OOM kills: %w", err)
			}
			for i := 0; i+1 < len(fields); i += 2 {
				if fields[i] == "oom_kill" {
					return strconv.ParseUint(fields[i+1], 10, 64)
				}
			}
		}
	}
	return 0, fmt.Errorf("cannot count OOM kills: the memory controller of the own cgroup is not visible")
}
