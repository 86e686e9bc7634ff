package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// The oldest kernels: the programs call bpf_xdp_load_bytes, which came with 5.18;
// tests load them on 6.1.
const (
	kernelNeeded = 5_018
	kernelWanted = 6_001
)

func (p *patient) kernel() finding {
	release, err := p.read("/proc/sys/kernel/osrelease")
	if err != nil {
		return warn("kernel", err.Error(), "")
	}
	switch v := kernelVersion(release); {
	case v < kernelNeeded:
		return p.lacking("kernel", release+" does not load the fast path, which needs 5.18", "use Linux 6.1 or later")
	case v < kernelWanted:
		return warn("kernel", release+" is older than any that lbd is tried on", "use Linux 6.1 or later")
	}
	return ok("kernel", release)
}

// kernelVersion is 5018 for "5.18.0-4-amd64".
func kernelVersion(release string) int {
	major, rest, _ := strings.Cut(release, ".")
	digits := 0
	for digits < len(rest) && rest[digits] >= '0' && rest[digits] <= '9' {
		digits++
	}
	a, _ := strconv.Atoi(major)
	b, _ := strconv.Atoi(rest[:digits])
	return a*1000 + b
}

func (p *patient) btf() finding {
	if _, err := os.Stat(p.root + "/sys/kernel/btf/vmlinux"); err != nil {
		return warn("BTF", "the kernel does not describe its types", "use a kernel with CONFIG_DEBUG_INFO_BTF=y")
	}
	return ok("BTF", "/sys/kernel/btf/vmlinux")
}

func (p *patient) bpffs() finding {
	const path = "/sys/fs/bpf"
	var s unix.Statfs_t
	if err := unix.Statfs(p.root+path, &s); err == nil && s.Type == unix.BPF_FS_MAGIC {
		return ok("bpffs", path)
	}
	return p.lacking("bpffs", path+" is not mounted: pins have no place", "mount -t bpf bpf "+path)
}

// capabilities are those of lbctl: root's doctor sees what root's lbd has.
func (p *patient) capabilities() finding {
	held, err := p.effective()
	if err != nil {
		return warn("capabilities", err.Error(), "")
	}
	var lacking []string
	for _, c := range []struct {
		name string
		bit  uint
	}{{"CAP_BPF", unix.CAP_BPF}, {"CAP_NET_ADMIN", unix.CAP_NET_ADMIN}, {"CAP_PERFMON", unix.CAP_PERFMON}} {
		if held&(1<<c.bit) == 0 && held&(1<<unix.CAP_SYS_ADMIN) == 0 {
			lacking = append(lacking, c.name)
		}
	}
	if lacking != nil {
		return p.lacking("capabilities", "without "+strings.Join(lacking, ", ")+" no XDP and no sk_lookup",
			"run lbd as root, or give its unit AmbientCapabilities="+strings.Join(lacking, " "))
	}
	return ok("capabilities", "enough for BPF and XDP")
}

func (p *patient) effective() (uint64, error) {
	f, err := os.Open(p.root + "/proc/self/status")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if text, ok := strings.CutPrefix(lines.Text(), "CapEff:"); ok {
			return strconv.ParseUint(strings.TrimSpace(text), 16, 64)
		}
	}
	return 0, errors.New("/proc/self/status has no CapEff")
}

// What frames may need: encapsulation adds up to 48 bytes over IPv4, 92 over IPv6.
const (
	encapsulation  = 60
	encapsulation6 = 92
	ethernetMTU    = 1500
)

func (p *patient) link(name string) []finding {
	check := "interface " + name
	l, err := netlink.LinkByName(name)
	if err != nil {
		return []finding{bad(check, err.Error(), "ip -br link shows those there are; name one in fastpath.interfaces")}
	}
	a := l.Attrs()
	found := []finding{ok(check, fmt.Sprintf("driver %s, XDP %s", p.driver(name), xdpMode(a.Xdp)))}
	if a.Xdp != nil && a.Xdp.Attached && a.Xdp.AttachMode == nl.XDP_ATTACHED_SKB {
		found[0] = warn(check, "driver "+p.driver(name)+", XDP in generic mode", "a driver with XDP makes it native")
	}
	if need := p.fullMTU(); a.MTU < need {
		found = append(found, warn("MTU "+name, fmt.Sprintf("%d: a full packet has no room for encapsulation to another node", a.MTU),
			fmt.Sprintf("ip link set %s mtu %d, on the fabric too", name, need)))
	}
	return found
}

// fullMTU has room for a full packet of a client in the encapsulation, if the
// configuration has anybody to send it to.
func (p *patient) fullMTU() int {
	switch c := p.config; {
	case c == nil:
		return ethernetMTU + encapsulation
	case c.Cluster == nil && len(c.Services) == 0:
		return 0
	case c.Node.Address.Is6():
		return ethernetMTU + encapsulation6
	}
	return ethernetMTU + encapsulation
}

func (p *patient) driver(name string) string {
	target, err := os.Readlink(p.root + "/sys/class/net/" + name + "/device/driver")
	if err != nil {
		return "virtual"
	}
	return filepath.Base(target)
}

func xdpMode(x *netlink.LinkXdp) string {
	if x == nil || !x.Attached {
		return "not attached"
	}
	switch x.AttachMode {
	case nl.XDP_ATTACHED_DRV:
		return "native"
	case nl.XDP_ATTACHED_SKB:
		return "generic"
	case nl.XDP_ATTACHED_HW:
		return "in hardware"
	}
	return "attached"
}

// reversePath looks at rp_filter: in strict mode the kernel drops packets of
// clients that another node forwards.
func (p *patient) reversePath() []finding {
	all, _ := p.read("/proc/sys/net/ipv4/conf/all/rp_filter")
	var found []finding
	for _, name := range p.interfaces {
		path := "/proc/sys/net/ipv4/conf/" + name + "/rp_filter"
		own, err := p.read(path)
		if err != nil {
			continue // the interface's own finding says that it is not there
		}
		if max(all, own) == "1" { // the kernel takes the greater of the two
			key := "net.ipv4.conf." + name + ".rp_filter"
			found = append(found, bad("sysctl "+key, "1: drops packets that another node forwards", "sysctl -w "+key+"=2"))
			continue
		}
		found = append(found, ok("sysctl rp_filter "+name, max(all, own)))
	}
	return found
}

func (p *patient) backlog() finding {
	const key = "net.core.somaxconn"
	text, err := p.read("/proc/sys/net/core/somaxconn")
	if err != nil {
		return warn("sysctl "+key, err.Error(), "")
	}
	if n, err := strconv.Atoi(text); err != nil || n < 4096 {
		return warn("sysctl "+key, text+": a burst of connections overflows the accept queue", "sysctl -w "+key+"=4096")
	}
	return ok("sysctl "+key, text)
}

func (p *patient) read(path string) (string, error) {
	text, err := os.ReadFile(p.root + path)
	return strings.TrimSpace(string(text)), err
}
