package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb/bpf"
)

// The cast. The programs see one VIP per family, and peers that are never
// reached: a test run sends nothing.
var (
	self  = netip.MustParseAddr("10.0.0.1")
	peer  = netip.MustParseAddr("10.0.0.2")
	other = netip.MustParseAddr("10.0.0.3")
	vips  = map[int]netip.Addr{4: netip.MustParseAddr("192.0.2.10"), 6: netip.MustParseAddr("2001:db8::10")}
)

const (
	local  = uint64(bpf.Self)          // a row of ours
	remote = uint64(2)                 // a peer's
	former = uint64(bpf.Self) | 2<<16  // ours, before a peer's: who has the flow is asked
	second = uint64(2) | 3<<16         // a peer's, before another peer's
	third  = uint64(2) | 3<<16 | 1<<32 // and ours before: the longest list
	tag    = uint32(0x5eed5eed)        // of the tunnels
	syn    = 0x02
	ack    = 0x10
	valid  = uint64(24 * time.Hour)
	mss    = 100 // bytes of payload
)

type testCase struct {
	name   string
	frame  []byte
	source uint32 // offset of the client's address
	flows  uint32
	row    uint64 // of all flows
	grows  int32
	reason string // the exit that all packets must take
	target float64
	yard   yard
}

// yard is what the yardstick does with the frame. The zero one: nothing that
// would compare.
type yard struct {
	grows int32
	by    int // which of its counters every packet must raise
}

// The yardstick's counters, as yardstick.h has them.
const (
	yardHit  = 1 + iota // the flow is in its table
	yardMiss            // it is written down
)

var (
	hit4, new4 = yard{20, yardHit}, yard{20, yardMiss}
	hit6, new6 = yard{40, yardHit}, yard{40, yardMiss}
	passes     = yard{0, -1}
)

func (c testCase) limit() string {
	if c.target == 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f", c.target)
}

const (
	source4, source6 = 14 + 12, 14 + 8 + 12
	every            = 1 << 31 // flows: each packet is of another one
)

// Ports of the VIPs, besides the workers' 80 (TCP) and 53 (UDP).
const (
	portIPIP = 8001 + iota
	portGUE
	portL2
	portTurns // a service whose places all change
)

var cases = slices.Concat(
	flows("IPv4 segment, local owner", []float64{50, 55, 90}, testCase{frame: segment(4, ack), source: source4, row: local, reason: "xdp_local", yard: hit4}),
	flows("IPv4 segment, remote owner", []float64{80, 85, 120}, testCase{frame: segment(4, ack), source: source4, row: remote, grows: 40, reason: "xdp_sent", yard: hit4}),
	flows("IPv6 segment, local owner", []float64{75, 75, 0}, testCase{frame: segment(6, ack), source: source6, row: local, reason: "xdp_local", yard: hit6}),
	flows("IPv6 segment, remote owner", nil, testCase{frame: segment(6, ack), source: source6, row: remote, grows: 40, reason: "xdp_sent", yard: hit6}),
	[]testCase{
		{"IPv4 SYN, local owner", segment(4, syn), source4, every, local, 0, "xdp_local", 70, new4},
		{"IPv4 SYN, remote owner", segment(4, syn), source4, every, remote, 40, "xdp_sent", 100, new4},
		{"IPv6 SYN, local owner", segment(6, syn), source6, every, local, 0, "xdp_local", 90, new6},
		{"IPv6 SYN, remote owner", segment(6, syn), source6, every, remote, 40, "xdp_sent", 0, new6},
		{"UDP, remote owner", datagram(53), source4, 1000, remote, 40, "xdp_sent", 120, hit4},
		{"not a VIP", edit(segment(4, ack), 14+16, 99), source4, 1, local, 0, "xdp_not_vip", 30, passes},
		{"us, then one before: no socket, sent on", segment(4, ack), source4, 1000, former, 40, "xdp_missed", 190, yard{}},
		{"us, then one before: the socket is here", from(segment(4, ack), 14+20), source4, 1, former, 0, "xdp_found", 190, yard{}},
		{"two owners, sent to the newest", segment(4, ack), source4, 1000, second, 44, "xdp_sent", 0, yard{}},
		{"three owners, sent to the newest", segment(4, ack), source4, 1000, third, 48, "xdp_sent", 0, yard{}},
		{"from a peer, one owner", tunnelled(0x10), 40 + source4, 1000, local, -40, "xdp_received", 0, yard{}},
		{"from a peer, first of two: no socket, sent on", tunnelled(0x20, other), 44 + source4, 1000, local, 0, "xdp_missed", 0, yard{}},
		{"from a peer, first of two: the socket is here", from(tunnelled(0x20, other), 44+14+20), 44 + source4, 1, local, -44, "xdp_found", 0, yard{}},
		{"from a peer, last of two: the socket is here", from(tunnelled(0x21, other), 44+14+20), 44 + source4, 1, local, -44, "xdp_last_hop", 0, yard{}},
	},
	service("ipip", portIPIP, 20, 40),
	service("gue", portGUE, 32, 52),
	service("l2", portL2, 0, 0),
	[]testCase{
		{"service in change, ipip, TCP established", to(segment(4, ack), portTurns), source4, 1000, local, 20, "xdp_served", 0, hit4},
		{"service in change, ipip, TCP new", to(segment(4, syn), portTurns), source4, every, local, 20, "xdp_served", 0, new4},
	},
)

// flows is a case with 1, 1 000 and 100 000 flows.
func flows(name string, targets []float64, c testCase) (list []testCase) {
	for i, n := range []uint32{1, 1000, 100_000} {
		c.flows, c.name = n, name+[]string{", 1 flow", ", 1 000 flows", ", 100 000 flows"}[i]
		if targets != nil {
			c.target = targets[i]
		}
		list = append(list, c)
	}
	return list
}

// service is what the packets of a service cost that are forwarded in one way.
func service(mode string, port uint16, grows4, grows6 int32) []testCase {
	c := func(what string, frame []byte, source, flows uint32, grows int32, target float64, y yard) testCase {
		return testCase{"service, " + mode + ", " + what, to(frame, port), source, flows, local, grows, "xdp_served", target, y}
	}
	return []testCase{
		c("TCP established", segment(4, ack), source4, 1000, grows4, 0, hit4),
		c("TCP new", segment(4, syn), source4, every, grows4, 0, new4),
		c("UDP established", datagram(0), source4, 1000, grows4, 120, hit4),
		c("UDP new", datagram(0), source4, every, grows4, 120, new4),
		c("IPv6, TCP established", segment(6, ack), source6, 1000, grows6, 0, hit6),
		c("IPv6, TCP new", segment(6, syn), source6, every, grows6, 0, new6),
	}
}

const connected = 40001 // the port of the client that has a socket here

// from gives a frame the source port of the client that has a socket here; it is
// where the TCP header is.
func from(frame []byte, tcp int) []byte {
	binary.BigEndian.PutUint16(frame[tcp:], connected)
	return frame
}

// to gives a frame another destination port.
func to(frame []byte, port uint16) []byte {
	at := 14 + 20 + 2
	if frame[12] == 0x86 {
		at = 14 + 40 + 2
	}
	binary.BigEndian.PutUint16(frame[at:], port)
	return frame
}

// firstClient is CLIENTS of measure.c.
var firstClient = [4]byte{10, 64, 0, 0}

func edit(frame []byte, at int, b byte) []byte {
	frame[at] = b
	return frame
}

// fill writes the maps that no case changes.
func (b *bench) fill() error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return err
	}
	node := bpf.Node{Seed: [2]uint64{1, 2}, Address: bpf.AddressOf(self), Flags: bpf.NodeTunnels, OuterIP: 20, Misses: 1 << 31}
	for i := range node.Tag {
		binary.BigEndian.PutUint32(node.Tag[i][:], tag)
	}
	if err := b.Node.Put(uint32(0), node); err != nil {
		return err
	}
	for i, a := range []netip.Addr{self, peer, other} {
		index := uint32(bpf.Self + i)
		p := bpf.Peer{Address: bpf.AddressOf(a), ValidUntil: uint64(now.Nano()) + valid, Ifindex: 99, MTU: 1600}
		if err := b.Peers.Put(index, p); err != nil {
			return err
		}
		if err := b.PeerIndex.Put(p.Address, index); err != nil {
			return err
		}
	}
	number := uint32(0)
	for _, a := range vips {
		number++
		v := b.ports(a)
		if err := b.Vips.Put(number, v); err != nil {
			return err
		}
		bucket, _ := bpf.VIPBucketsOf(bpf.AddressOf(a))
		entries := [bpf.VIPBucket]bpf.VIPEntry{{Address: bpf.AddressOf(a), VIP: number}}
		if err := b.VipTable.Put(bucket, entries); err != nil {
			return err
		}
	}
	return errors.Join(b.fillServices(uint64(now.Nano())+valid), b.fillYardstick())
}

// ports are what a VIP serves: the workers' two, and services of each kind.
func (b *bench) ports(a netip.Addr) (v bpf.VIP) {
	add := func(port uint16, protocol uint8, service uint32) {
		s := bpf.Served{Protocol: protocol, Service: service}
		binary.BigEndian.PutUint16(s.Port[:], port)
		v.Port[v.Ports] = s
		v.Ports++
	}
	add(80, unix.IPPROTO_TCP, 0)
	add(53, unix.IPPROTO_UDP, 0)
	for i := range uint32(4) {
		add(uint16(portIPIP+i), unix.IPPROTO_TCP, serviceOf(a, i))
		add(uint16(portIPIP+i), unix.IPPROTO_UDP, serviceOf(a, i))
	}
	return v
}

// serviceOf numbers the services: of IPv4 first.
func serviceOf(vip netip.Addr, port uint32) uint32 {
	if vip.Is6() {
		return 5 + port
	}
	return 1 + port
}

const backendsEach = 100 // of a service and of the yardstick

// fillServices makes the services, each with backends of its own.
func (b *bench) fillServices(valid uint64) error {
	spec, err := bpf.Spec()
	if err != nil {
		return err
	}
	for _, a := range vips {
		for i := range uint32(4) {
			forward := []uint8{bpf.ForwardIPIP, bpf.ForwardGUE, bpf.ForwardL2, bpf.ForwardIPIP}[i]
			number := serviceOf(a, i)
			if err := b.Services.Put(number, bpf.Service{Forward: forward}); err != nil {
				return err
			}
			first := number * backendsEach
			for n := first; n < first+backendsEach; n++ {
				backend := bpf.Backend{
					Address: bpf.AddressOf(realOf(a, n)), Source: bpf.AddressOf(sourceOf(a)), ValidUntil: valid, Ifindex: 99, MTU: 1600,
					Flags: bpf.BackendKeeps, Service: uint16(number), Life: 1,
				}
				if err := b.Backends.Put(n, backend); err != nil {
					return err
				}
			}
			if err := b.fillRing(spec.Maps["rings"].InnerMap, number, i == portTurns-portIPIP); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bench) fillRing(spec *ebpf.MapSpec, service uint32, turns bool) error {
	ring, err := ebpf.NewMap(spec)
	if err != nil {
		return err
	}
	defer ring.Close()
	indexes, places := make([]uint32, bpf.Rows), make([]uint64, bpf.Rows)
	for i := range places {
		indexes[i], places[i] = uint32(i), uint64(int(service)*backendsEach+i*7919%backendsEach)
		if turns {
			places[i] |= uint64(int(service)*backendsEach+i*104729%backendsEach) << 16
		}
	}
	if _, err := ring.BatchUpdate(indexes, places, nil); err != nil {
		return err
	}
	return b.Rings.Put(service, ring)
}

// realOf is the address of a backend, sourceOf that of who sends to it.
func realOf(vip netip.Addr, n uint32) netip.Addr {
	if vip.Is6() {
		return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0, 1, 14: byte(n >> 8), 15: byte(n)})
	}
	return netip.AddrFrom4([4]byte{10, 9, byte(n >> 8), byte(n)})
}

func sourceOf(vip netip.Addr) netip.Addr { return realOf(vip, 0) }

// fillYardstick gives the yardstick the same VIPs, and as many backends.
func (b *bench) fillYardstick() error {
	type yardVIP struct {
		Address  bpf.Address
		Port     [2]byte
		Protocol uint8
		_        uint8
	}
	for _, a := range vips {
		served := b.ports(a)
		for _, s := range served.Port[:served.Ports] {
			if err := b.YardVIPs.Put(yardVIP{Address: bpf.AddressOf(a), Port: s.Port, Protocol: s.Protocol}, uint32(1)); err != nil {
				return err
			}
		}
	}
	for n := range uint32(backendsEach) {
		if err := b.YardReals.Put(n, bpf.AddressOf(realOf(vips[4], n))); err != nil {
			return err
		}
	}
	indexes, places := make([]uint32, bpf.Rows), make([]uint32, bpf.Rows)
	for i := range places {
		indexes[i], places[i] = uint32(i), uint32(i*7919%backendsEach)
	}
	_, err := b.YardRing.BatchUpdate(indexes, places, nil)
	return err
}

// connect makes the socket of the first flow, established without a handshake.
func (b *bench) connect() (fd int, err error) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return -1, err
	}
	everything := &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	if err := errors.Join(netlink.LinkSetUp(lo),
		netlink.AddrAdd(lo, &netlink.Addr{IPNet: &net.IPNet{IP: vips[4].AsSlice(), Mask: net.CIDRMask(32, 32)}}),
		netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: everything, Scope: unix.RT_SCOPE_LINK})); err != nil {
		return -1, fmt.Errorf("set up lo: %w", err)
	}
	if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, err
	}
	return fd, errors.Join(
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, 1),
		unix.Bind(fd, &unix.SockaddrInet4{Addr: vips[4].As4(), Port: 80}),
		unix.Connect(fd, &unix.SockaddrInet4{Addr: firstClient, Port: connected}))
}

// prepare writes the case's rows and plan.
func (b *bench) prepare(c testCase, grows int32) error {
	indexes, rows := make([]uint32, bpf.Rows), make([]uint64, bpf.Rows)
	for i := range rows {
		indexes[i], rows[i] = uint32(i), c.row
	}
	if _, err := b.Rows.BatchUpdate(indexes, rows, nil); err != nil {
		return err
	}
	plan := struct {
		Flows, Random uint32
		Grows         int32
		Source        uint32
		Head          [80]byte
	}{c.flows, rand.Uint32(), grows, c.source, [80]byte(c.frame)}
	return b.Plan.Put(uint32(0), plan)
}

// segment builds a TCP segment to the VIP, Ethernet and all.
func segment(version int, flags byte) []byte {
	tcp := make([]byte, 20+mss)
	binary.BigEndian.PutUint16(tcp[0:], 40000)
	binary.BigEndian.PutUint16(tcp[2:], 80)
	tcp[12], tcp[13] = 5<<4, flags
	return append(header(version, unix.IPPROTO_TCP, len(tcp)), tcp...)
}

func datagram(port uint16) []byte {
	udp := make([]byte, 8+mss)
	binary.BigEndian.PutUint16(udp[0:], 40000)
	binary.BigEndian.PutUint16(udp[2:], port)
	return append(header(4, unix.IPPROTO_UDP, len(udp)), udp...)
}

// header builds Ethernet and IP to the VIP.
func header(version int, protocol byte, payload int) []byte {
	eth := []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2}
	if version == 6 {
		ip := append(eth, 0x86, 0xdd, 0x60, 0, 0, 0, byte(payload>>8), byte(payload), protocol, 64)
		ip = append(ip, netip.MustParseAddr("2001:db8:ffff::7").AsSlice()...)
		return append(ip, vips[6].AsSlice()...)
	}
	total := 20 + payload
	ip := append(eth, 8, 0, 0x45, 0, byte(total>>8), byte(total), 0, 0, 0x40, 0, 64, protocol, 0, 0)
	ip = append(ip, firstClient[:]...)
	return append(ip, vips[4].AsSlice()...)
}

// tunnelled builds a segment as a peer sends it to us, with the hops after us.
func tunnelled(place byte, hops ...netip.Addr) []byte {
	inner := segment(4, ack)[14:]
	gue := binary.BigEndian.AppendUint32([]byte{byte(2 + len(hops)), 4, 0, 0, 0x10, place, 0, 0}, tag)
	for _, h := range hops {
		gue = append(gue, h.AsSlice()...)
	}
	payload := append(gue, inner...)
	udp := make([]byte, 8)
	binary.BigEndian.PutUint16(udp[0:], 0xc001)
	binary.BigEndian.PutUint16(udp[2:], bpf.TunnelPort)
	binary.BigEndian.PutUint16(udp[4:], uint16(8+len(payload)))
	out := append(append(header(4, unix.IPPROTO_UDP, 8+len(payload)), udp...), payload...)
	copy(out[14+12:], peer.AsSlice())
	copy(out[14+16:], self.AsSlice())
	return out
}
