package cgroup

import (
	"testing"
)

func memoryV1(cgroup, limit string) tree {
	return tree{"sys/fs/cgroup/memory" + cgroup + "/memory.limit_in_bytes": limit + "\n"}
}

func memoryV2(cgroup, limit string) tree {
	return tree{"sys/fs/cgroup" + cgroup + "/memory.max": limit + "\n"}
}

func TestMemoryLimitIsTheTightest(t *testing.T) {
	const unlimited = "9223372036854771712"
	for _, test := range []struct {
		name  string
		files tree
		limit int64
		rule  string
		group bool
	}{
		{name: "v1 none", files: v1.with(memoryV1("/a/b", unlimited)), rule: "no memory limit"},
		{name: "v1 own", files: v1.with(memoryV1("/a/b", "536870912")).with(memoryV1("", unlimited)), limit: 512 << 20, rule: "memory limit 512 MiB of cgroup /a/b (its own)"},
		{name: "v1 parent", files: v1.with(memoryV1("/a/b", "536870912")).with(memoryV1("/a", "268435456")), limit: 256 << 20, rule: "memory limit 256 MiB of cgroup /a (its parent)"},
		{name: "v2 none", files: v2.with(memoryV2("/a/b", "max")), rule: "no memory limit"},
		{name: "v2 own", files: v2.with(memoryV2("/a/b", "536870912")), limit: 512 << 20, rule: "memory limit 512 MiB of cgroup /a/b (its own)"},
		{name: "v2 parent that kills together", files: v2.with(memoryV2("/a/b", "max")).with(memoryV2("/a", "268435456")).with(tree{"sys/fs/cgroup/a/memory.oom.group": "1\n"}), limit: 256 << 20, rule: "memory limit 256 MiB of cgroup /a (its parent)", group: true},
		{name: "v2 more than the machine has", files: v2.with(memoryV2("/a/b", "17179869184")), rule: "no memory limit"},
		{name: "v2 garbage", files: v2.with(memoryV2("/a/b", "plenty")), rule: "no memory limit"},
		{name: "no files", files: tree{}, rule: "no memory limit"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := test.files.host(8).Memory()
			if got.Limit != test.limit || got.Rule != test.rule || got.KilledTogether != test.group {
				t.Errorf("Memory = %+v, want %d by %q, killed together %v", got, test.limit, test.rule, test.group)
			}
		})
	}
}

func TestMemoryShareLeavesRoomForASuccessor(t *testing.T) {
	limited := Memory{Limit: 1 << 30}
	for _, n := range []int{1, 2, 8} {
		share := limited.Share(n)
		if total := share * int64(n+1); total > limited.Limit-supervision || total < limited.Limit/2 {
			t.Errorf("%d workers and a successor get %d MiB each, %d MiB together of 1024", n, share>>20, total>>20)
		}
	}
	if share := (Memory{}).Share(2); share != 0 {
		t.Errorf("share of no limit = %d, want 0", share)
	}
	if share := (Memory{Limit: 8 << 20}).Share(2); share != leastMemory {
		t.Errorf("share of a tiny limit = %d, want %d", share, leastMemory)
	}
}

func TestOOMKillsAreThoseOfTheOwnCgroup(t *testing.T) {
	for _, test := range []struct {
		name  string
		files tree
		kills uint64
		fails bool
	}{
		{name: "v1", files: v1.with(tree{
			"sys/fs/cgroup/memory/a/b/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
			"sys/fs/cgroup/memory/a/memory.oom_control":   "oom_kill_disable 0\nunder_oom 0\noom_kill 9\n",
		}), kills: 3},
		{name: "v2", files: v2.with(tree{"sys/fs/cgroup/a/b/memory.events": "low 0\nhigh 0\nmax 4\noom 2\noom_kill 2\noom_group_kill 0\n"}), kills: 2},
		{name: "v2 charged to the parent", files: v2.with(tree{"sys/fs/cgroup/a/memory.events": "oom 2\noom_kill 5\n"}), kills: 5},
		{name: "garbage", files: v2.with(tree{"sys/fs/cgroup/a/b/memory.events": "oom_kill many\n"}), fails: true},
		{name: "not visible", files: v2, fails: true},
		{name: "no files", files: tree{}, fails: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			kills, err := test.files.host(8).OOMKills()
			if kills != test.kills || err != nil != test.fails {
				t.Errorf("OOMKills = %d, %v, want %d, an error: %v", kills, err, test.kills, test.fails)
			}
		})
	}
}
