package docs_test

import (
	"strings"
	"testing"
)

// detached is a script: the supervisors of a cluster's three nodes are killed, and
// the nodes detached; then the first of them serves packets.
const detached = `
kernel() { # what lbd may have changed, on every node
	for n in edge-1 edge-2 edge-3; do
		echo "$n:"
		on $n ip -d link show eth0 2>&1 | grep -oE 'prog/xdp|xdp[a-z]*|mtu [0-9]+'
		on $n ip route show table all 2>&1 | grep -v "^Error: Peer" | grep -v fe80 | sort
		on $n ip rule 2>&1
		on $n sh -c 'grep -H . /proc/sys/net/ipv4/conf/*/arp_* /proc/sys/net/ipv4/conf/*/rp_filter /proc/sys/net/ipv4/ip_forward'
	done
	on edge-1 find /sys/fs/bpf
}
kernel >"$root/before"
on edge-1 bash -c 'umask 077; lbctl cluster key new >/etc/lbd/cluster.key'
with examples/cluster.yaml
cluster
kernel >"$root/during"
cmp -s "$root/before" "$root/during" && echo "FAIL three nodes change nothing: the test sees nothing"
kill -9 $(pgrep -f '^lbd run'); sleep 0.5
[ "$(pgrep -fc '^lbd worker')" -ge 3 ] || echo "FAIL no worker outlives its supervisor: the test sees nothing"
for i in 1 2 3; do
	file=/etc/lbd/edge-$i.yaml; [ $i != 1 ] || file=/etc/lbd/lbd.yaml
	on edge-$i lbd detach -c $file >"$root/said" 2>&1 || { echo "FAIL detach of edge-$i"; cat "$root/said"; }
done
! pgrep -fa '^lbd worker' || echo "FAIL these still serve"
kernel >"$root/after"
diff "$root/before" "$root/after" >"$root/differ" && echo "ok nothing is left" || { echo "FAIL left:"; cat "$root/differ"; }
`

func TestWhatWasKilledAndDetachedLeavesNothing(t *testing.T) {
	needs(t, "curl", "ethtool")
	script := detached
	for _, b := range blocks(t, "services.md") {
		if b.with != "" {
			script += "\nclustered=\nwith " + b.with + "\n"
		}
		if b.commands() != "" && b.notRun == "" {
			host := "edge-1"
			if b.on != "" {
				host = b.on
			}
			script += "run service " + host + " wait <<'BLOCK'\n" + b.commands() + "BLOCK\n"
		}
	}
	ok, failures := inWorld(t, programs(t), script)
	if want := 1 + strings.Count(script, "\nrun service"); ok != want || len(failures) > 0 {
		t.Errorf("%d of %d: %s", ok, want, strings.Join(failures, "\n"))
	}
}
