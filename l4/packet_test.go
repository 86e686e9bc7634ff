package l4

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/bpf"
)

// The verdicts of XDP.
const (
	drop     = 1
	pass     = 2
	bounce   = 3
	redirect = 4
)

// The cast: three nodes, a client and VIPs of both families.
var (
	edge1  = lb.Member{Name: "edge-1", Boot: lb.BootID{1}, Address: netip.MustParseAddr("10.0.0.1"), Weight: 4}
	edge2  = lb.Member{Name: "edge-2", Boot: lb.BootID{2}, Address: netip.MustParseAddr("10.0.0.2"), Weight: 4}
	edge3  = lb.Member{Name: "edge-3", Boot: lb.BootID{3}, Address: netip.MustParseAddr("10.0.0.3"), Weight: 4}
	vip4   = lb.VIP{Addr: netip.MustParseAddr("192.0.2.10"), Port: 80, Protocol: lb.TCP}
	vip6   = lb.VIP{Addr: netip.MustParseAddr("2001:db8::10"), Port: 80, Protocol: lb.TCP}
	dns    = lb.VIP{Addr: netip.MustParseAddr("192.0.2.10"), Port: 53, Protocol: lb.UDP}
	any4   = lb.VIP{Addr: netip.MustParseAddr("192.0.2.11"), Protocol: lb.TCP}
	local  = lb.VIP{Addr: netip.MustParseAddr("127.0.0.1"), Protocol: lb.TCP}
	seed   = [16]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	macs   = [2][6]byte{{2, 0, 0, 0, 0, 2}, {2, 0, 0, 0, 0, 1}}
	fabric = uint32(7) // the interface that peers are behind
)

// epochs makes a list of node sets, newest first.
func epochs(sets ...[]lb.Member) (list []lb.Epoch) {
	for i, members := range sets {
		list = append(list, lb.Epoch{Counter: uint64(len(sets) - i), Origin: "edge-1", Members: members})
	}
	return list
}

func only(m ...lb.Member) []lb.Member { return m }

// idle is a member that takes no new connections.
func idle(m lb.Member) lb.Member {
	m.Weight = 0
	return m
}

func steering(self lb.Member, e ...[]lb.Member) lb.Steering {
	return lb.Steering{
		Self: self.Name, Seed: seed, Tags: []uint32{0xfeedface}, Epochs: epochs(e...),
		VIPs: []lb.VIP{vip4, vip6, dns, any4, local},
	}
}

// A rig is one node's programs and maps without interfaces.
type rig struct {
	t testing.TB
	*kernel
	planner planner
	have    tables
}

func newRig(t testing.TB, self lb.Member) *rig {
	needRoot(t)
	spec, err := bpf.Spec()
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, kernel: new(kernel), have: newTables(make([]uint64, lb.Rows))}
	if err := spec.LoadAndAssign(&r.Objects, nil); err != nil {
		var v *ebpf.VerifierError
		if errors.As(err, &v) {
			t.Fatalf("%+v", v)
		}
		t.Fatal(err)
	}
	if err := r.mapMemory(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.close() })
	if err := r.startClock(); err != nil {
		t.Fatal(err)
	}
	r.planner = planner{address: self.Address, owners: map[uint64][]int16{}, cookie: cookieOf}
	return r
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("loading programs needs root")
	}
}

// apply writes the tables and gives each peer a way that is valid.
func (r *rig) apply(s lb.Steering) *rig {
	r.t.Helper()
	want, err := r.planner.plan(s, r.have)
	if err != nil {
		r.t.Fatal(err)
	}
	sockets, err := socketsByCookie(s.Binds)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, w := range diff(r.have, want) {
		if w.table == tableRoutes {
			continue
		}
		if err := r.put(w, sockets); err != nil {
			r.t.Fatalf("%s: %v", w, err)
		}
		r.have.record(w)
	}
	r.ways(func(*bpf.Peer) {})
	return r
}

// ways writes the way to each peer, edited.
func (r *rig) ways(edit func(*bpf.Peer)) {
	for index, address := range r.have.peers {
		p := bpf.Peer{Address: address, ValidUntil: monotonic() + 1e12, Ifindex: fabric, MTU: 1600, MACs: macs}
		edit(&p)
		r.storePeer(index, p)
	}
}

// run sends a frame through the program: verdict, reason and what became of it.
func (r *rig) run(frame []byte) (uint32, lb.Reason, []byte) {
	r.t.Helper()
	before, err := r.counters()
	if err != nil {
		r.t.Fatal(err)
	}
	run := ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+256)}
	verdict, err := r.SteerPacket.Run(&run)
	if err != nil {
		r.t.Fatal(err)
	}
	after, err := r.counters()
	if err != nil {
		r.t.Fatal(err)
	}
	return verdict, counted(r.t, before, after), run.DataOut
}

func counted(t testing.TB, before, after []uint64) (reason lb.Reason) {
	for i := range after {
		if after[i] != before[i] {
			if reason != "" || after[i] != before[i]+1 {
				t.Errorf("more than one exit was counted: %s and %s", reason, bpf.Reasons[i].Name)
			}
			reason = lb.Reason(bpf.Reasons[i].Name)
		}
	}
	return reason
}

// Building packets: layers in order, lengths and checksums right.

func frame(l ...gopacket.SerializableLayer) []byte {
	b := gopacket.NewSerializeBuffer()
	var network gopacket.NetworkLayer
	for _, layer := range l {
		switch t := layer.(type) {
		case gopacket.NetworkLayer:
			network = t
		case interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}:
			t.SetNetworkLayerForChecksum(network)
		}
	}
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, l...); err != nil {
		panic(err)
	}
	return slices.Clone(b.Bytes())
}

func eth(t layers.EthernetType) *layers.Ethernet {
	return &layers.Ethernet{DstMAC: net.HardwareAddr{2, 0, 0, 0, 0, 0x10}, SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 0x20}, EthernetType: t}
}

func vlan(id uint16, t layers.EthernetType) *layers.Dot1Q {
	return &layers.Dot1Q{VLANIdentifier: id, Type: t}
}

func ip4(src, dst string, protocol layers.IPProtocol) *layers.IPv4 {
	return &layers.IPv4{
		Version: 4, TTL: 63, Protocol: protocol,
		SrcIP: net.ParseIP(src).To4(), DstIP: net.ParseIP(dst).To4(),
	}
}

func ip6(src, dst string, next layers.IPProtocol) *layers.IPv6 {
	return &layers.IPv6{Version: 6, HopLimit: 63, NextHeader: next, SrcIP: net.ParseIP(src), DstIP: net.ParseIP(dst)}
}

func tcp(src, dst int, flags string) *layers.TCP {
	t := &layers.TCP{SrcPort: layers.TCPPort(src), DstPort: layers.TCPPort(dst), Seq: 1000, Ack: 2000, Window: 500}
	for _, f := range flags {
		switch f {
		case 'S':
			t.SYN = true
		case 'A':
			t.ACK = true
		case 'F':
			t.FIN = true
		case 'R':
			t.RST = true
		case 'P':
			t.PSH = true
		case 'U':
			t.URG = true
		}
	}
	return t
}

func udp(src, dst int) *layers.UDP {
	return &layers.UDP{SrcPort: layers.UDPPort(src), DstPort: layers.UDPPort(dst)}
}

func data(n int) gopacket.Payload { return bytes.Repeat([]byte{0x5a}, n) }

const (
	client4 = "198.51.100.7"
	client6 = "2001:db8:ffff::7"
	v4      = layers.EthernetTypeIPv4
	v6      = layers.EthernetTypeIPv6
)

// segment is a TCP segment to the IPv4 VIP.
func segment(flags string) []byte {
	return frame(eth(v4), ip4(client4, "192.0.2.10", layers.IPProtocolTCP), tcp(40000, 80, flags), data(10))
}

func segment6(flags string) []byte {
	return frame(eth(v6), ip6(client6, "2001:db8::10", layers.IPProtocolTCP), tcp(40000, 80, flags), data(10))
}
