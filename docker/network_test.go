package docker

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const shippedNetwork = "10.33.33"

// sweep removes what runs of these tests have left that were killed. The lock in
// TestMain says that there is no other run.
func sweep() {
	remove := func(list []string, command ...string) {
		out, err := exec.Command("docker", list...).Output()
		if names := strings.Fields(string(out)); err == nil && len(names) > 0 {
			fmt.Fprintf(os.Stderr, "removing what a killed run has left: %s\n", strings.Join(names, " "))
			_ = exec.Command("docker", append(command, names...)...).Run()
		}
	}
	remove([]string{"ps", "-aq", "--filter", "name=" + anyRun}, "rm", "-f", "-v")
	remove([]string{"network", "ls", "-q", "--filter", "name=" + anyRun}, "network", "rm")
	remove([]string{"image", "ls", "--filter", "reference=" + anyRun + "*", "--format", "{{.Repository}}:{{.Tag}}"}, "rmi", "-f")
}

// freeNetwork is one that neither docker nor this machine uses, by the first
// three numbers of its addresses.
func freeNetwork(t *testing.T) string {
	t.Helper()
	taken := routes(t)
	for _, id := range strings.Fields(docker(t, "network", "ls", "-q")) {
		for _, subnet := range strings.Fields(docker(t, "network", "inspect", "--format", "{{range .IPAM.Config}}{{.Subnet}} {{end}}", id)) {
			if p, err := netip.ParsePrefix(subnet); err == nil {
				taken = append(taken, p)
			}
		}
	}
	for range 1000 {
		network := fmt.Sprintf("10.%d.%d", 1+rand.IntN(254), rand.IntN(255))
		wanted := netip.MustParsePrefix(network + ".0/24")
		free := network != shippedNetwork
		for _, p := range taken {
			free = free && !p.Overlaps(wanted)
		}
		if free {
			return network
		}
	}
	t.Fatalf("no network is free beside %v", taken)
	return ""
}

// routes are the networks that this machine reaches, but for the rest of the
// world.
func routes(t *testing.T) (all []netip.Prefix) {
	t.Helper()
	for line := range strings.Lines(read(t, "/proc/net/route")) {
		fields := strings.Fields(line)
		var to, mask uint32
		if len(fields) < 8 {
			continue
		}
		if _, err := fmt.Sscanf(fields[1]+" "+fields[7], "%x %x", &to, &mask); err != nil || mask == 0 {
			continue
		}
		bits := 0
		for m := mask; m != 0; m >>= 1 {
			bits += int(m & 1)
		}
		// The kernel prints the address as it lies in memory.
		all = append(all, netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(to), byte(to >> 8), byte(to >> 16), byte(to >> 24)}), bits))
	}
	return all
}

// siteOn is a copy of site/ for another network.
func siteOn(t *testing.T, network string) string {
	t.Helper()
	dir := t.TempDir()
	names, err := filepath.Glob("site/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		text := bytes.ReplaceAll([]byte(read(t, name)), []byte(shippedNetwork+"."), []byte(network+"."))
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(name)), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
