package cgroup

import (
	"fmt"
	"strconv"
)

// CPUs is how many CPUs the instance may keep busy.
type CPUs struct {
	// Effective is the smaller of the affinity and the tightest quota.
	Effective float64
	// Affinity counts the CPUs on which the process may run.
	Affinity int
	// Quota is the tightest CPU quota, 0 when there is none.
	Quota float64
	// Rule says which of them decided: "CPU quota 2.5 of cgroup /a (its
	// parent)", "4 CPUs in the affinity mask".
	Rule string
	// Ignored are the files that could not be understood.
	Ignored []error
}

// CPUs reads the affinity and the quotas of the own cgroup and of all its
// visible ancestors, now. What cannot be read is ignored, and said.
func (h Host) CPUs() CPUs {
	cpus := CPUs{Affinity: max(h.affinity(), 1)}
	cpus.Effective = float64(cpus.Affinity)
	cpus.Rule = count(cpus.Affinity, "CPU") + " in the affinity mask"

	found, err := h.hierarchies("cpu")
	if err != nil {
		cpus.Ignored = append(cpus.Ignored, err)
	}
	for _, hierarchy := range found {
		for i, level := range hierarchy.levels {
			quota, err := h.quota(hierarchy.version, level)
			if err != nil {
				cpus.Ignored = append(cpus.Ignored, err)
				continue
			}
			cpus.limit(quota, fmt.Sprintf("of cgroup %s (%s)", level.name, hierarchy.relation(i)))
		}
	}
	if quota, ok := h.ownQuota(); ok {
		cpus.limit(quota, "by automaxprocs (its own cgroup)")
	}
	return cpus
}

func (c *CPUs) limit(quota float64, where string) {
	if quota <= 0 || c.Quota > 0 && quota >= c.Quota {
		return
	}
	c.Quota = quota
	if quota < float64(c.Affinity) {
		c.Effective = quota
		c.Rule = fmt.Sprintf("CPU quota %s %s", decimal(quota), where)
	}
}

// quota is in CPUs, 0 when the level has none.
func (h Host) quota(version int, l level) (float64, error) {
	if version == 2 {
		fields, err := h.read(l, "cpu.max")
		if err != nil || fields == nil || fields[0] == "max" {
			return 0, err
		}
		period := "100000"
		if len(fields) > 1 {
			period = fields[1]
		}
		return ratio(l, "cpu.max", fields[0], period)
	}
	quota, err := h.read(l, "cpu.cfs_quota_us")
	if err != nil || quota == nil || quota[0] == "-1" {
		return 0, err
	}
	period, err := h.read(l, "cpu.cfs_period_us")
	if err != nil || period == nil {
		return 0, err
	}
	return ratio(l, "cpu.cfs_quota_us", quota[0], period[0])
}

func ratio(l level, file, quota, period string) (float64, error) {
	q, quotaErr := strconv.ParseUint(quota, 10, 63)
	p, periodErr := strconv.ParseUint(period, 10, 63)
	if quotaErr != nil || periodErr != nil || q == 0 || p == 0 {
		return 0, fmt.Errorf("cannot understand %s of cgroup %s: %q of %q is not a quota", file, l.name, quota, period)
	}
	return float64(q) / float64(p), nil
}

func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return strconv.Itoa(n) + " " + thing + "s"
}

// decimal spells a figure as people do: 2, 2.5, 0.33.
func decimal(f float64) string {
	return strconv.FormatFloat(float64(int64(f*100+0.5))/100, 'f', -1, 64)
}
