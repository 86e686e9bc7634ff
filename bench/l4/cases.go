package main

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

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
	third  = uint64(2) | 3<<16 | 1<<32 // two peers before us: the longest list
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
}

func (c testCase) limit() string {
	if c.target == 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f", c.target)
}

const source4, source6 = 14 + 12, 14 + 8 + 12

var cases = []testCase{
	{"IPv4 segment, local owner, 1 flow", segment(4, ack), source4, 1, local, 0, "xdp_local", 50},
	{"IPv4 segment, local owner, 1 000 flows", segment(4, ack), source4, 1000, local, 0, "xdp_local", 55},
	{"IPv4 segment, local owner, 100 000 flows", segment(4, ack), source4, 100_000, local, 0, "xdp_local", 90},
	{"IPv4 segment, remote owner, 1 flow", segment(4, ack), source4, 1, remote, 40, "xdp_sent", 80},
	{"IPv4 segment, remote owner, 1 000 flows", segment(4, ack), source4, 1000, remote, 40, "xdp_sent", 85},
	{"IPv4 segment, remote owner, 100 000 flows", segment(4, ack), source4, 100_000, remote, 40, "xdp_sent", 120},
	{"IPv4 SYN, local owner", segment(4, syn), source4, 100_000, local, 0, "xdp_local", 70},
	{"IPv4 SYN, remote owner", segment(4, syn), source4, 100_000, remote, 40, "xdp_sent", 100},
	{"IPv6 segment, local owner", segment(6, ack), source6, 1000, local, 0, "xdp_local", 75},
	{"IPv6 SYN, local owner", segment(6, syn), source6, 1000, local, 0, "xdp_local", 90},
	{"IPv6 segment, remote owner", segment(6, ack), source6, 1000, remote, 40, "xdp_sent", 0},
	{"UDP, remote owner", datagram(), source4, 1000, remote, 40, "xdp_sent", 120},
	{"not a VIP", edit(segment(4, ack), 14+16, 99), source4, 1, local, 0, "xdp_not_vip", 30},
	{"previous owner asked: no socket, sent on", segment(4, ack), source4, 1000, former, 40, "xdp_missed", 190},
	{"three owners, sent to the newest", segment(4, ack), source4, 1000, third, 48, "xdp_sent", 0},
	{"from a peer, one owner", tunnelled(0x10), 40 + source4, 1000, local, -40, "xdp_received", 0},
	{"from a peer, a hop without the socket", tunnelled(0x20, other), 44 + source4, 1000, local, 0, "xdp_missed", 0},
}

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
		v := bpf.VIP{Ports: 3}
		for i, port := range []uint16{443, 80, 53} {
			v.Port[i].Protocol = unix.IPPROTO_TCP
			if port == 53 {
				v.Port[i].Protocol = unix.IPPROTO_UDP
			}
			binary.BigEndian.PutUint16(v.Port[i].Port[:], port)
		}
		if err := b.Vips.Put(number, v); err != nil {
			return err
		}
		bucket, _ := bpf.VIPBucketsOf(bpf.AddressOf(a))
		entries := [bpf.VIPBucket]bpf.VIPEntry{{Address: bpf.AddressOf(a), VIP: number}}
		if err := b.VipTable.Put(bucket, entries); err != nil {
			return err
		}
	}
	return nil
}

// prepare writes the case's rows and plan.
func (b *bench) prepare(c testCase) error {
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
	}{c.flows, 1, c.grows, c.source, [80]byte(c.frame)}
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

func datagram() []byte {
	udp := make([]byte, 8+mss)
	binary.BigEndian.PutUint16(udp[0:], 40000)
	binary.BigEndian.PutUint16(udp[2:], 53)
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
	ip = append(ip, 198, 51, 100, 7)
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
