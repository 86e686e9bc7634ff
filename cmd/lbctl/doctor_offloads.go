package main

import (
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What a network card does to frames before XDP sees them; <linux/ethtool.h>.
const (
	ethtoolFlags = 0x25 // ETHTOOL_GFLAGS
	stripsVLANs  = 1 << 8
	mergesFrames = 1 << 15 // LRO
)

// offloads looks at what the card does to frames before XDP sees them.
func (p *patient) offloads(name string) []finding {
	flags, err := cardFlags(name)
	if err != nil {
		return nil // it has none of that, or the interface's own finding says what is wrong
	}
	return frameFindings(name, flags, carriesVLANs(name))
}

func frameFindings(name string, flags uint32, vlans bool) (found []finding) {
	if flags&mergesFrames != 0 {
		found = append(found, bad("LRO "+name, "on: packets are merged into some that no encapsulation has room for", "ethtool -K "+name+" lro off"))
	}
	if flags&stripsVLANs != 0 && vlans {
		found = append(found, warn("VLAN "+name, "the card takes tags off: what XDP answers, probes and ICMP, goes back without them", "ethtool -K "+name+" rxvlan off"))
	}
	return found
}

// carriesVLANs reports whether VLAN interfaces are on top of this one.
func carriesVLANs(name string) bool {
	under, err := netlink.LinkByName(name)
	if err != nil {
		return false
	}
	links, err := netlink.LinkList()
	if err != nil {
		return false
	}
	for _, l := range links {
		if l.Type() == "vlan" && l.Attrs().ParentIndex == under.Attrs().Index {
			return true
		}
	}
	return false
}

func cardFlags(name string) (uint32, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	value := struct{ command, data uint32 }{command: ethtoolFlags}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&value)}
	copy(request.name[:unix.IFNAMSIZ-1], name)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return 0, errno
	}
	return value.data, nil
}
