package cgroup

import (
	"testing/fstest"
)

// tree is a machine made of files. Keys have no leading slash.
type tree map[string]string

func (files tree) host(affinity int) Host {
	fixture := fstest.MapFS{}
	for name, text := range files {
		fixture[name] = &fstest.MapFile{Data: []byte(text), Mode: 0o444}
	}
	return Host{
		files:    fixture,
		affinity: func() int { return affinity },
		ownQuota: func() (float64, bool) { return 0, false },
	}
}

// with returns the tree and more files.
func (files tree) with(more tree) tree {
	sum := tree{}
	for name, text := range files {
		sum[name] = text
	}
	for name, text := range more {
		sum[name] = text
	}
	return sum
}

const (
	mountsV1 = `25 1 0:22 / /sys rw,relatime shared:7 - sysfs sysfs rw
31 25 0:28 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:15 - cgroup cgroup rw,cpu,cpuacct
33 31 0:30 / /sys/fs/cgroup/cpuset rw,nosuid shared:16 - cgroup cgroup rw,cpuset
35 31 0:32 / /sys/fs/cgroup/memory rw,nosuid shared:17 - cgroup cgroup rw,memory
`
	mountsV2     = "31 25 0:28 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
	mountsHybrid = mountsV1 + "36 31 0:38 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw\n"
)

// v1 and v2 are a process in cgroup /a/b.
var (
	v1 = tree{
		"proc/self/cgroup":    "12:cpuset:/\n4:memory:/a/b\n3:cpu,cpuacct:/a/b\n1:name=systemd:/a/b\n",
		"proc/self/mountinfo": mountsV1,
		"proc/meminfo":        "MemTotal:        8388608 kB\n",
		"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us":  "-1\n",
		"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
	}
	v2 = tree{
		"proc/self/cgroup":    "0::/a/b\n",
		"proc/self/mountinfo": mountsV2,
		"proc/meminfo":        "MemTotal:        8388608 kB\n",
	}
)

func quotaV1(cgroup, quota string) tree {
	return tree{
		"sys/fs/cgroup/cpu,cpuacct" + cgroup + "/cpu.cfs_quota_us":  quota + "\n",
		"sys/fs/cgroup/cpu,cpuacct" + cgroup + "/cpu.cfs_period_us": "100000\n",
	}
}

func quotaV2(cgroup, quota string) tree {
	return tree{"sys/fs/cgroup" + cgroup + "/cpu.max": quota + "\n"}
}
