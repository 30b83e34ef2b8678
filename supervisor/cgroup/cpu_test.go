package cgroup

import (
	"os"
	"runtime"
	"strings"
	"testing"
)

func TestEffectiveCPUsAreTheTightestRule(t *testing.T) {
	const mask = " CPUs in the affinity mask"
	for _, test := range []struct {
		name      string
		files     tree
		affinity  int
		effective float64
		rule      string
		ignored   int
	}{
		{name: "v1 without a quota", files: v1.with(quotaV1("/a/b", "-1")), affinity: 8, effective: 8, rule: "8" + mask},
		{name: "v1 whole quota", files: v1.with(quotaV1("/a/b", "300000")), affinity: 8, effective: 3, rule: "CPU quota 3 of cgroup /a/b (its own)"},
		{name: "v1 quarter", files: v1.with(quotaV1("/a/b", "25000")), affinity: 8, effective: 0.25, rule: "CPU quota 0.25 of cgroup /a/b (its own)"},
		{name: "v1 one and a half", files: v1.with(quotaV1("/a/b", "150000")), affinity: 8, effective: 1.5, rule: "CPU quota 1.5 of cgroup /a/b (its own)"},
		{name: "v1 tighter parent", files: v1.with(quotaV1("/a", "250000")).with(quotaV1("/a/b", "400000")), affinity: 8, effective: 2.5, rule: "CPU quota 2.5 of cgroup /a (its parent)"},
		{name: "v1 looser parent", files: v1.with(quotaV1("/a", "400000")).with(quotaV1("/a/b", "250000")), affinity: 8, effective: 2.5, rule: "CPU quota 2.5 of cgroup /a/b (its own)"},
		{name: "v1 tightest at the top", files: v1.with(quotaV1("", "100000")).with(quotaV1("/a/b", "250000")), affinity: 8, effective: 1, rule: "CPU quota 1 of cgroup / (an ancestor)"},
		{name: "v1 garbage", files: v1.with(quotaV1("/a/b", "lots")).with(quotaV1("/a", "200000")), affinity: 8, effective: 2, rule: "CPU quota 2 of cgroup /a (its parent)", ignored: 1},
		{name: "v1 zero period", files: v1.with(quotaV1("/a/b", "200000")).with(tree{"sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_period_us": "0\n"}), affinity: 8, effective: 8, rule: "8" + mask, ignored: 1},
		{name: "v1 empty file", files: v1.with(tree{"sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_quota_us": ""}), affinity: 8, effective: 8, rule: "8" + mask, ignored: 1},
		{name: "v2 max", files: v2.with(quotaV2("/a/b", "max 100000")), affinity: 8, effective: 8, rule: "8" + mask},
		{name: "v2 half", files: v2.with(quotaV2("/a/b", "50000 100000")), affinity: 8, effective: 0.5, rule: "CPU quota 0.5 of cgroup /a/b (its own)"},
		{name: "v2 other period", files: v2.with(quotaV2("/a/b", "25000 10000")), affinity: 8, effective: 2.5, rule: "CPU quota 2.5 of cgroup /a/b (its own)"},
		{name: "v2 period left out", files: v2.with(quotaV2("/a/b", "200000")), affinity: 8, effective: 2, rule: "CPU quota 2 of cgroup /a/b (its own)"},
		{name: "v2 tighter ancestor", files: v2.with(quotaV2("/a", "150000 100000")).with(quotaV2("/a/b", "max 100000")), affinity: 8, effective: 1.5, rule: "CPU quota 1.5 of cgroup /a (its parent)"},
		{name: "v2 quota above the CPUs", files: v2.with(quotaV2("/a/b", "1600000 100000")), affinity: 8, effective: 8, rule: "8" + mask},
		{name: "v2 affinity below the quota", files: v2.with(quotaV2("/a/b", "400000 100000")), affinity: 3, effective: 3, rule: "3" + mask},
		{name: "v2 one CPU", files: v2.with(quotaV2("/a/b", "400000 100000")), affinity: 1, effective: 1, rule: "1 CPU in the affinity mask"},
		{name: "v2 garbage", files: v2.with(quotaV2("/a/b", "many 100000")).with(quotaV2("/a", "300000 100000")), affinity: 8, effective: 3, rule: "CPU quota 3 of cgroup /a (its parent)", ignored: 1},
		{name: "v2 own cgroup in a namespace", files: tree{
			"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": mountsV2, "sys/fs/cgroup/cpu.max": "200000 100000\n",
		}, affinity: 8, effective: 2, rule: "CPU quota 2 of cgroup / (its own)"},
		{name: "v2 outside of its namespace's root", files: tree{
			"proc/self/cgroup": "0::/../other\n", "proc/self/mountinfo": mountsV2, "sys/fs/cgroup/cpu.max": "200000 100000\n",
		}, affinity: 8, effective: 2, rule: "CPU quota 2 of cgroup / (its own)"},
		{name: "v2 mounted elsewhere", files: tree{
			"proc/self/cgroup":    "0::/a\n",
			"proc/self/mountinfo": "31 25 0:28 / /my\\040groups rw - cgroup2 none rw\n",
			"my groups/a/cpu.max": "200000 100000\n",
		}, affinity: 8, effective: 2, rule: "CPU quota 2 of cgroup /a (its own)"},
		{name: "hybrid with the controller in v1", files: v1.with(quotaV1("/a/b", "200000")).with(tree{
			"proc/self/cgroup":    v1["proc/self/cgroup"] + "0::/a/b\n",
			"proc/self/mountinfo": mountsHybrid,
		}), affinity: 8, effective: 2, rule: "CPU quota 2 of cgroup /a/b (its own)"},
		{name: "hybrid with the controller in v2", files: tree{
			"proc/self/cgroup":                     "4:memory:/a/b\n0::/a/b\n",
			"proc/self/mountinfo":                  mountsHybrid,
			"sys/fs/cgroup/unified/a/b/cpu.max":    "150000 100000\n",
			"sys/fs/cgroup/unified/cgroup.procs":   "1\n",
			"sys/fs/cgroup/cpu,cpuacct/notthisone": "",
		}, affinity: 8, effective: 1.5, rule: "CPU quota 1.5 of cgroup /a/b (its own)"},
		{name: "v1 container whose mount is its own cgroup", files: tree{
			"proc/self/cgroup":                     "3:cpu:/docker/abc\n",
			"proc/self/mountinfo":                  "32 31 0:29 /docker/abc /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n",
			"sys/fs/cgroup/cpu/cpu.cfs_quota_us":   "250000\n",
			"sys/fs/cgroup/cpu/cpu.cfs_period_us":  "100000\n",
			"sys/fs/cgroup/cpu/docker/cpu.cfs_x_y": "",
		}, affinity: 8, effective: 2.5, rule: "CPU quota 2.5 of cgroup /docker/abc (its own)"},
		{name: "v1 nested container", files: tree{
			"proc/self/cgroup":                              "3:cpu:/docker/abc/docker/def\n",
			"proc/self/mountinfo":                           "32 31 0:29 /docker/abc /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n",
			"sys/fs/cgroup/cpu/cpu.cfs_quota_us":            "150000\n",
			"sys/fs/cgroup/cpu/cpu.cfs_period_us":           "100000\n",
			"sys/fs/cgroup/cpu/docker/def/cpu.cfs_quota_us": "-1\n",
		}, affinity: 8, effective: 1.5, rule: "CPU quota 1.5 of cgroup /docker/abc (an ancestor)"},
		{name: "v1 moved out of the visible cgroup", files: tree{
			"proc/self/cgroup":                    "3:cpu:/docker/abcdef\n",
			"proc/self/mountinfo":                 "32 31 0:29 /docker/abc /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n",
			"sys/fs/cgroup/cpu/cpu.cfs_quota_us":  "250000\n",
			"sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
		}, affinity: 8, effective: 2.5, rule: "CPU quota 2.5 of cgroup /docker/abc (its own)"},
		{name: "no files at all", files: tree{}, affinity: 4, effective: 4, rule: "4" + mask, ignored: 1},
		{name: "no cgroup mounted", files: tree{"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": "garbage\n1 - 2\n"}, affinity: 4, effective: 4, rule: "4" + mask},
		{name: "garbage memberships", files: tree{"proc/self/cgroup": "what\n::\n", "proc/self/mountinfo": mountsV2}, affinity: 4, effective: 4, rule: "4" + mask},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := test.files.host(test.affinity).CPUs()
			if got.Effective != test.effective || got.Rule != test.rule || got.Affinity != test.affinity {
				t.Errorf("CPUs = %v by %q (affinity %d), want %v by %q", got.Effective, got.Rule, got.Affinity, test.effective, test.rule)
			}
			if len(got.Ignored) != test.ignored {
				t.Errorf("ignored %v, want %d", got.Ignored, test.ignored)
			}
		})
	}
}

func TestIgnoredFilesAreNamed(t *testing.T) {
	ignored := v2.with(quotaV2("/a/b", "many 100000")).host(8).CPUs().Ignored
	want := `cannot understand cpu.max of cgroup /a/b: "many" of "100000" is not a quota`
	if len(ignored) != 1 || ignored[0].Error() != want {
		t.Errorf("ignored %v, want %s", ignored, want)
	}
}

func TestAutomaxprocsIsHeardOnlyWhenItIsTighter(t *testing.T) {
	host := v2.with(quotaV2("/a/b", "300000 100000")).host(8)
	for _, test := range []struct {
		quota float64
		rule  string
	}{
		{2, "CPU quota 2 by automaxprocs (its own cgroup)"},
		{3, "CPU quota 3 of cgroup /a/b (its own)"},
		{16, "CPU quota 3 of cgroup /a/b (its own)"},
	} {
		host.ownQuota = func() (float64, bool) { return test.quota, true }
		if got := host.CPUs(); got.Rule != test.rule {
			t.Errorf("with automaxprocs saying %v: %q, want %q", test.quota, got.Rule, test.rule)
		}
	}
}

func TestReadingLeavesTheProcessAsItWas(t *testing.T) {
	for _, value := range []string{"", "1"} {
		if value != "" {
			t.Setenv("GOMAXPROCS", value)
		} else if old, ok := os.LookupEnv("GOMAXPROCS"); ok {
			os.Unsetenv("GOMAXPROCS")
			t.Cleanup(func() { os.Setenv("GOMAXPROCS", old) })
		}
		before, procs := strings.Join(os.Environ(), "\n"), runtime.GOMAXPROCS(0)
		cpus := Self().CPUs()
		if cpus.Effective <= 0 || cpus.Rule == "" {
			t.Errorf("CPUs = %+v, want a figure and its rule", cpus)
		}
		if after := strings.Join(os.Environ(), "\n"); after != before {
			t.Errorf("environment %q, want %q", after, before)
		}
		if after := runtime.GOMAXPROCS(0); after != procs {
			t.Errorf("GOMAXPROCS %d, want %d", after, procs)
		}
	}
}

func FuzzCPUsNeverFail(f *testing.F) {
	f.Add("0::/a/b\n", mountsV2, "max 100000\n")
	f.Add("3:cpu,cpuacct:/a/b\n", mountsV1, "150000")
	f.Add("0::/../..\n", `1 2 3 /\057 /\04 5 - cgroup2 - -`, "1 0")
	f.Fuzz(func(t *testing.T, memberships, mounts, quota string) {
		host := tree{
			"proc/self/cgroup": memberships, "proc/self/mountinfo": mounts,
			"sys/fs/cgroup/a/b/cpu.max":                       quota,
			"sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_quota_us":  quota,
			"sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_period_us": quota,
		}.host(4)
		if got := host.CPUs(); got.Effective <= 0 || got.Effective > 4 || got.Rule == "" {
			t.Errorf("CPUs = %+v, want more than 0 and at most 4", got)
		}
	})
}
