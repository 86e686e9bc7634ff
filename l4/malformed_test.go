package l4

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket/layers"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/bpf"
)

var (
	malformed     = flag.Int("malformed", 20_000, "how many malformed packets are sent through the program")
	malformedSeed = flag.Uint64("malformed-seed", 1, "of the malformed packets")
)

// TestMalformedPackets sends mutilated frames of every kind through the program
// of a node that is an ingress, an owner and a hop. Whatever is sent out must be
// whole: lengths that agree, a right checksum, a peer as destination. A million:
//
//	go test ./l4 -run TestMalformedPackets -malformed 1000000
func TestMalformedPackets(t *testing.T) {
	set := func(m lb.Member) []lb.Member { return only(idleBut(m)...) }
	s := steering(edge2, set(edge3), only(edge1, edge2, edge3), set(edge1))
	r := newRig(t, edge2).apply(s)
	bases := malformedBases(r)
	random := rand.New(rand.NewPCG(*malformedSeed, 0))
	verdicts := map[uint32]int{}
	out := make([]byte, 4096)
	for i := range *malformed {
		f := mutilated(random, bases[random.IntN(len(bases))])
		run := ebpf.RunOptions{Data: f, DataOut: out}
		verdict, err := r.SteerPacket.Run(&run)
		if err != nil {
			t.Fatalf("packet %d of seed %d, % x: %v", i, *malformedSeed, f, err)
		}
		verdicts[verdict]++
		err = nil
		switch verdict {
		case pass, drop:
		case redirect, bounce:
			err = wellFormed(run.DataOut, r)
		default:
			err = errors.New("no verdict of ours")
		}
		if err != nil {
			t.Fatalf("packet %d of seed %d: verdict %d: %v\nin  % x\nout % x", i, *malformedSeed, verdict, err, f, run.DataOut)
		}
	}
	t.Logf("passed %d, dropped %d, sent %d", verdicts[pass], verdicts[drop], verdicts[redirect]+verdicts[bounce])
	if *malformed >= 1000 && (verdicts[pass] == 0 || verdicts[drop] == 0 || verdicts[redirect] == 0) {
		t.Error("the packets do not go all ways")
	}
}

func malformedBases(r *rig) [][]byte {
	quoted := frame(ip4("192.0.2.10", client4, layers.IPProtocolTCP), tcp(80, 40000, "A"))[:28]
	bases := [][]byte{
		segment("S"), segment("A"), segment6("S"), segment6("FA"), segment("R"),
		frame(eth(v4), ip4(client4, "192.0.2.10", layers.IPProtocolUDP), udp(9, 53), data(30)),
		frame(eth(v4), ip4(client4, "192.0.2.10", layers.IPProtocolTCP), tcp(9, 80, "A"), data(1400)),
		frame(eth(layers.EthernetTypeDot1Q), vlan(5, v4), ip4(client4, "192.0.2.10", layers.IPProtocolTCP), tcp(9, 80, "S"), data(10)),
		frame(eth(v4), ip4("203.0.113.1", "192.0.2.10", layers.IPProtocolICMPv4), &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 4)}, data(0)),
		question(edge1.Address, 7),
	}
	bases[8] = append(bases[8], quoted...)
	for _, inner := range [][]byte{segment("S"), segment("A"), segment6("A")} {
		bases = append(bases, r.agreeing(tunnelled(inner, 0x10)), r.agreeing(tunnelled(inner, 0x20, edge3)),
			r.agreeing(tunnelled(inner, 0x30, edge3, edge1)), r.agreeing(tunnelled(inner, 0x31, edge2, edge3)))
	}
	return bases
}

// mutilated flips bits, writes odd values where they hurt, cuts and pads.
func mutilated(random *rand.Rand, base []byte) []byte {
	f := append([]byte{}, base...)
	for range 1 + random.IntN(4) {
		head := min(len(f), 120)
		switch at := 12 + random.IntN(head-12); random.IntN(6) {
		case 0:
			f[at] ^= 1 << random.IntN(8)
		case 1:
			f[at] = byte(random.Uint32())
		case 2:
			f[at] = []byte{0, 1, 0x7f, 0x80, 0xff, 0x45, 0x46, 0x4f, 0x60, 6, 17, 41, 44, 58}[random.IntN(14)]
		case 3:
			f = f[:14+random.IntN(len(f)-13)]
		case 4:
			f = append(f, make([]byte, random.IntN(64))...)
		case 5:
			binary.BigEndian.PutUint16(f[min(at, len(f)-2):], uint16(random.Uint32()))
		}
		if len(f) < 16 {
			break
		}
	}
	return f
}

// wellFormed checks a frame that a program sent to a peer.
func wellFormed(f []byte, r *rig) error {
	if len(f) < 14+20+20 || binary.BigEndian.Uint16(f[12:]) != 0x0800 {
		return errors.New("no IPv4 frame")
	}
	ip := f[14:]
	length := int(binary.BigEndian.Uint16(ip[2:]))
	to := netip.AddrFrom4([4]byte(ip[16:20]))
	switch {
	case ip[0] != 0x45 || ip[9] != 17:
		return errors.New("the outer packet is not UDP without options")
	case headerSum(ip[:20]) != 0:
		return errors.New("the outer checksum is wrong")
	case length > len(ip) || length < 40:
		return fmt.Errorf("the outer length is %d of %d bytes", length, len(ip))
	case netip.AddrFrom4([4]byte(ip[12:16])) != edge2.Address:
		return errors.New("it does not come from us")
	case to != edge1.Address && to != edge3.Address:
		return fmt.Errorf("it goes to %s", to)
	}
	ip = ip[:length]
	if udp := int(binary.BigEndian.Uint16(ip[24:])); udp != length-20 {
		return fmt.Errorf("the UDP length is %d of %d bytes", udp, length-20)
	}
	gue := ip[28:]
	if gue[0]&0x20 != 0 {
		if binary.BigEndian.Uint16(ip[20:]) != bpf.TunnelPort || gue[1] != pulseAnswer {
			return errors.New("a message that is no answer")
		}
		return nil
	}
	hops, index := int(gue[5]>>4), int(gue[5]&15)
	size := 12 + 4*(hops-1)
	if hops < 1 || hops > 3 || index >= hops || int(gue[0]) != size/4-1 || len(gue) < size+20 {
		return fmt.Errorf("hop %d of %d", index, hops)
	}
	inner := gue[size:]
	want := 0
	switch {
	case gue[1] == 4 && inner[0]>>4 == 4:
		want = int(binary.BigEndian.Uint16(inner[2:]))
	case gue[1] == 41 && inner[0]>>4 == 6 && len(inner) >= 40:
		want = 40 + int(binary.BigEndian.Uint16(inner[4:]))
	default:
		return fmt.Errorf("protocol %d, and inside is version %d", gue[1], inner[0]>>4)
	}
	if want != len(inner) {
		return fmt.Errorf("the inner length is %d of %d bytes", want, len(inner))
	}
	return nil
}
