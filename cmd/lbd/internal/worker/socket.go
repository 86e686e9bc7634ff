package worker

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// backlog is how many connections wait per slot; the kernel caps it at
// net.core.somaxconn.
const backlog = 16384

// group is one bound address: a SO_REUSEPORT group with a socket per slot. The
// order of the group in the kernel is the order of slots, which the steering
// program of steer.go relies on: sockets are added and taken away at the end.
type group struct {
	name   netip.AddrPort // as the configuration says it
	actual netip.AddrPort // with the port that was given for port 0
	fds    []int          // by slot
	live   []bool         // what the kernel was last told; nil: its own hash
}

// openGroup binds one socket per slot; none listens yet. The first is bound
// without SO_REUSEPORT, which otherwise hides a port that somebody else uses: a
// second lbd of the same user would take half of our connections. ours are the
// inodes of sockets that may overlap because they are this node's own.
func openGroup(name netip.AddrPort, slots int, ours map[uint64]bool) (*group, error) {
	g := &group{name: name, actual: name}
	first, err := bindFirst(name, ours)
	if errors.Is(err, unix.EAFNOSUPPORT) && name.Addr() == netip.IPv6Unspecified() {
		// A kernel without IPv6: "any address" is any IPv4 one.
		first, err = bindFirst(netip.AddrPortFrom(netip.IPv4Unspecified(), name.Port()), ours)
	}
	if err != nil {
		return nil, err
	}
	g.fds = append(g.fds, first)
	if g.actual, err = localAddr(first); err == nil {
		err = g.grow(slots)
	}
	if err != nil {
		g.close()
		return nil, err
	}
	return g, nil
}

// grow adds bound sockets up to a number of slots.
func (g *group) grow(slots int) error {
	for len(g.fds) < slots {
		fd, err := bindSocket(g.actual, true)
		if err != nil {
			return ExplainBind(g.actual, err)
		}
		g.fds = append(g.fds, fd)
	}
	return nil
}

// listen makes the sockets from the given slot on take connections.
func (g *group) listen(from int) error {
	for _, fd := range g.fds[from:] {
		if err := unix.Listen(fd, backlog); err != nil {
			return ExplainBind(g.actual, err)
		}
	}
	return nil
}

// shrink closes the sockets above a number of slots, the last one first.
func (g *group) shrink(slots int) {
	for len(g.fds) > slots {
		last := len(g.fds) - 1
		unix.Close(g.fds[last])
		g.fds = g.fds[:last]
		g.live = nil // what the kernel was told is about another group
	}
}

func (g *group) close() { g.shrink(0) }

// bindFirst binds the socket that finds out whether the port is free.
func bindFirst(name netip.AddrPort, ours map[uint64]bool) (int, error) {
	fd, err := bindSocket(name, false)
	if errors.Is(err, unix.EADDRINUSE) && onlyOurs(name, ours) {
		// Our own [::]:80 stands in the way of a new 192.0.2.1:80.
		fd, err = bindSocket(name, true)
	}
	if err != nil {
		return -1, ExplainBind(name, err)
	}
	// A socket that is bound may join the group later; nobody else can slip
	// in between as with a probe that is closed again.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("share %s between slots: %w", name, err)
	}
	return fd, nil
}

// bindSocket makes a TCP socket, never an MPTCP one: those fit in no sockmap.
func bindSocket(name netip.AddrPort, reuse bool) (int, error) {
	family, address := sockaddr(name)
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_TCP)
	if err != nil {
		return -1, err
	}
	if err := prepareSocket(fd, family, name, reuse); err == nil {
		err = unix.Bind(fd, address)
		if err == nil {
			return fd, nil
		}
		unix.Close(fd)
		return -1, err
	} else {
		unix.Close(fd)
		return -1, err
	}
}

func prepareSocket(fd, family int, name netip.AddrPort, reuse bool) error {
	set := func(level, option, value int) error { return unix.SetsockoptInt(fd, level, option, value) }
	// REUSEADDR: connections of an earlier life in TIME_WAIT do not hold the
	// port. FREEBIND: a VIP is on no interface.
	errs := []error{
		set(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		set(unix.SOL_IP, unix.IP_FREEBIND, 1),
	}
	if reuse {
		errs = append(errs, set(unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
	}
	if family == unix.AF_INET6 {
		only := 1
		if name.Addr().IsUnspecified() {
			only = 0 // [::] takes IPv4 too
		}
		errs = append(errs, set(unix.SOL_IPV6, unix.IPV6_V6ONLY, only), set(unix.SOL_IPV6, unix.IPV6_FREEBIND, 1))
	}
	return errors.Join(errs...)
}

func sockaddr(name netip.AddrPort) (int, unix.Sockaddr) {
	addr := name.Addr().Unmap()
	if addr.Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(name.Port()), Addr: addr.As4()}
	}
	sa := &unix.SockaddrInet6{Port: int(name.Port()), Addr: addr.As16()}
	if zone := addr.Zone(); zone != "" {
		sa.ZoneId = zoneIndex(zone)
	}
	return unix.AF_INET6, sa
}

func zoneIndex(zone string) uint32 {
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n)
	}
	text, err := os.ReadFile("/sys/class/net/" + zone + "/ifindex")
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32)
	return uint32(n)
}

func localAddr(fd int) (netip.AddrPort, error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, err
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port)), nil
	}
	return netip.AddrPort{}, errors.New("not an internet socket")
}

// waiting is how many connections stand in a listening socket's accept queue.
func waiting(fd int) int {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0
	}
	return int(info.Unacked)
}

// inode identifies a socket in /proc.
func inode(fd int) uint64 {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0
	}
	return st.Ino
}

// nonblocking sets O_NONBLOCK, which lives in the description that supervisor
// and workers share: one blocking listener would stop a worker's world.
func nonblocking(fd int) error {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_NONBLOCK != 0 {
		return err
	}
	_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags|unix.O_NONBLOCK)
	return err
}

// ExplainBind says, of an address that could not be bound, what stands in the way and what to do about it.
func ExplainBind(name netip.AddrPort, err error) error {
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		if who := holders(name, nil); who != "" {
			return fmt.Errorf("bind %s: in use by %s", name, who)
		}
		return fmt.Errorf("bind %s: in use by another program (root sees which: ss -ltnp 'sport = %d')", name, name.Port())
	case errors.Is(err, unix.EACCES):
		return fmt.Errorf("bind %s: %w: ports below %d need privileges: run lbd as root, or setcap cap_net_bind_service=+ep %s, or choose another port",
			name, err, unprivilegedPort(), executable())
	}
	return fmt.Errorf("bind %s: %w", name, err)
}

func unprivilegedPort() int {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	if err != nil {
		return 1024
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 1024
	}
	return n
}

func executable() string {
	path, err := os.Executable()
	if err != nil {
		return "lbd"
	}
	return path
}
