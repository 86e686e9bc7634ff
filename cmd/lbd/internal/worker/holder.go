package worker

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// listening is one row of /proc/net/tcp or tcp6 in state LISTEN.
type listening struct {
	addr  netip.AddrPort
	inode uint64
}

const stateListen = "0A"

// conflicts lists the listening sockets that stand in the way of a bind.
func conflicts(name netip.AddrPort) []listening {
	var out []listening
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		for _, l := range listeners(table) {
			if l.addr.Port() == name.Port() && overlap(l.addr.Addr(), name.Addr()) {
				out = append(out, l)
			}
		}
	}
	return out
}

// overlap reports whether two bound addresses can meet the same packet. [::]
// counts as taking IPv4 too.
func overlap(a, b netip.Addr) bool {
	a, b = a.Unmap(), b.Unmap()
	switch {
	case a == b:
		return true
	case a.IsUnspecified() && (a.Is6() || b.Is4()):
		return true
	case b.IsUnspecified() && (b.Is6() || a.Is4()):
		return true
	}
	return false
}

// onlyOurs reports whether nothing but our own sockets stands in the way.
func onlyOurs(name netip.AddrPort, ours map[uint64]bool) bool {
	found := conflicts(name)
	for _, l := range found {
		if !ours[l.inode] {
			return false
		}
	}
	return len(found) > 0
}

// holders names the processes that listen where we want to, as far as we may
// see them.
func holders(name netip.AddrPort, ours map[uint64]bool) string {
	inodes := map[string]bool{}
	for _, l := range conflicts(name) {
		if !ours[l.inode] {
			inodes["socket:["+strconv.FormatUint(l.inode, 10)+"]"] = true
		}
	}
	if len(inodes) == 0 {
		return ""
	}
	var names []string
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, link := range links {
		target, err := os.Readlink(link)
		if err != nil || !inodes[target] {
			continue
		}
		if who := nameOf(strings.Split(link, "/")[2]); !slices.Contains(names, who) {
			names = append(names, who)
		}
	}
	const most = 3
	if len(names) > most {
		names = append(names[:most], fmt.Sprintf("%d more", len(names)-most))
	}
	return strings.Join(names, ", ")
}

func nameOf(pid string) string {
	comm, err := os.ReadFile("/proc/" + pid + "/comm")
	if err != nil {
		return "pid " + pid
	}
	return strings.TrimSpace(string(comm)) + " (pid " + pid + ")"
}

// listeners reads one of the kernel's tables.
func listeners(table string) []listening {
	f, err := os.Open(table)
	if err != nil {
		return nil
	}
	defer f.Close()
	var out []listening
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 10 || f[3] != stateListen {
			continue
		}
		addr, ok := hexAddr(f[1])
		inode, err := strconv.ParseUint(f[9], 10, 64)
		if ok && err == nil {
			out = append(out, listening{addr, inode})
		}
	}
	return out
}

// hexAddr reads "0100007F:1F90": the address in 32-bit words of the machine's
// byte order (little-endian wherever Cirque runs), the port as a number.
func hexAddr(s string) (netip.AddrPort, bool) {
	host, port, ok := strings.Cut(s, ":")
	raw, err := hex.DecodeString(host)
	n, err2 := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil || err2 != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		slices.Reverse(raw[i : i+4])
	}
	addr, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(addr, uint16(n)), ok
}
