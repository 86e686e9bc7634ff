package l4

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// routeProtocol marks the routes that are ours (rtm_protocol; unassigned).
const routeProtocol = 0x4c

// vipRoutes makes VIPs local addresses: ip route add local VIP dev lo.
type vipRoutes struct {
	network *netlink.Handle
	lo      int // index of lo
	metric  int // tells them from those of another lbd, or agent, of this host
}

func newVIPRoutes(network *netlink.Handle, o Options) (*vipRoutes, error) {
	lo, err := network.LinkByName("lo")
	if err != nil {
		return nil, fmt.Errorf("find lo: %w", err)
	}
	return &vipRoutes{network, lo.Attrs().Index, routeMetric(cmp.Or(o.RunDir, o.Pins))}, nil
}

// routeMetric is the same for every life of an lbd: no two share a run directory.
func routeMetric(owner string) int {
	h := fnv.New32a()
	h.Write([]byte(owner))
	return routeProtocol<<24 | int(h.Sum32()>>8)
}

func (v *vipRoutes) route(vip netip.Addr) *netlink.Route {
	return &netlink.Route{
		Dst:       &net.IPNet{IP: vip.AsSlice(), Mask: net.CIDRMask(vip.BitLen(), vip.BitLen())},
		LinkIndex: v.lo,
		Table:     unix.RT_TABLE_LOCAL,
		Type:      unix.RTN_LOCAL,
		Scope:     unix.RT_SCOPE_HOST,
		Protocol:  routeProtocol,
		Priority:  v.metric,
	}
}

func (v *vipRoutes) put(vip netip.Addr) error {
	err := v.network.RouteAdd(v.route(vip))
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("make %s local (ip route add local %s dev lo): %w", vip, vip, err)
	}
	return nil
}

func (v *vipRoutes) remove(vip netip.Addr) error {
	err := v.network.RouteDel(v.route(vip))
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("remove the local route of %s: %w", vip, err)
	}
	return nil
}

// list returns the VIPs that have a route of ours.
func (v *vipRoutes) list() (map[netip.Addr]bool, error) {
	found := map[netip.Addr]bool{}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		filter := &netlink.Route{Table: unix.RT_TABLE_LOCAL, Protocol: routeProtocol}
		routes, err := v.network.RouteListFiltered(family, filter, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
		if err != nil {
			return nil, fmt.Errorf("list the local routes: %w", err)
		}
		for _, r := range routes {
			if r.Dst == nil || r.Priority != v.metric {
				continue
			}
			if a, ok := netip.AddrFromSlice(r.Dst.IP); ok {
				found[a.Unmap()] = true
			}
		}
	}
	return found, nil
}

// arpSettings keep a node from answering ARP for VIPs on the fabric, where
// every node has them.
var arpSettings = map[string]string{"arp_ignore": "1", "arp_announce": "2"}

// arp sets and restores the ARP sysctls of interfaces. What was there before
// is kept in a file, so that a later process can restore it.
type arp struct {
	interfaces []string
	file       string // "": nothing is restored
}

func newARP(interfaces []string, runDir string) arp {
	a := arp{interfaces: interfaces}
	if runDir != "" {
		a.file = filepath.Join(runDir, "arp.json")
	}
	return a
}

func arpPath(iface, setting string) string {
	return filepath.Join("/proc/sys/net/ipv4/conf", iface, setting)
}

func (a arp) set() error {
	before, _ := a.before()
	var errs []error
	for _, iface := range a.interfaces {
		for setting, value := range arpSettings {
			path := arpPath(iface, setting)
			now, err := os.ReadFile(path)
			if err != nil || keeps(setting, strings.TrimSpace(string(now)), value) {
				errs = append(errs, ignoring(fs.ErrNotExist, err))
				continue
			}
			if _, known := before[path]; !known {
				before[path] = string(now)
			}
			errs = append(errs, os.WriteFile(path, []byte(value), 0o644))
		}
	}
	if a.file != "" && len(before) > 0 {
		text, _ := json.Marshal(before)
		errs = append(errs, os.WriteFile(a.file, text, 0o600))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("keep the interfaces from answering ARP for VIPs: %w", err)
	}
	return nil
}

// keeps reports whether a setting may stay: these values of arp_ignore all keep a
// node from answering for what no interface has.
func keeps(setting, now, value string) bool {
	return now == value || setting == "arp_ignore" && slices.Contains([]string{"2", "3", "8"}, now)
}

func (a arp) restore() error {
	before, err := a.before()
	if err != nil {
		return err
	}
	var errs []error
	for path, value := range before {
		errs = append(errs, ignoring(fs.ErrNotExist, os.WriteFile(path, []byte(value), 0o644)))
	}
	if a.file != "" {
		errs = append(errs, ignoring(fs.ErrNotExist, os.Remove(a.file)))
	}
	return errors.Join(errs...)
}

// before returns the sysctls' values from before set, by path.
func (a arp) before() (map[string]string, error) {
	values := map[string]string{}
	if a.file == "" {
		return values, nil
	}
	text, err := os.ReadFile(a.file)
	if err != nil {
		return values, ignoring(fs.ErrNotExist, err)
	}
	return values, json.Unmarshal(text, &values)
}

// Local reports whether an interface other than lo owns the address: then it
// is not a VIP. Unspecified and loopback addresses are local, too.
func Local(a netip.Addr) (bool, error) {
	a = a.Unmap()
	if a.IsUnspecified() || a.IsLoopback() {
		return true, nil
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		return false, fmt.Errorf("list the interfaces: %w", err)
	}
	for _, i := range interfaces {
		if i.Flags&net.FlagLoopback != 0 {
			continue
		}
		addresses, err := i.Addrs()
		if err != nil {
			return false, fmt.Errorf("list the addresses of %s: %w", i.Name, err)
		}
		for _, own := range addresses {
			if n, ok := own.(*net.IPNet); ok && n.IP.Equal(a.AsSlice()) {
				return true, nil
			}
		}
	}
	return false, nil
}
