package l4

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/bpf"
)

// ring opens one of the rings that packets are shown in.
func (r *rig) ring(name string) func() []Sight {
	r.t.Helper()
	ring, err := ringbuf.NewReader(map[string]*ebpf.Map{"drops": r.Drops, "sights": r.Sights}[name])
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { ring.Close() })
	return func() (all []Sight) {
		ring.SetDeadline(time.Now())
		for {
			record, err := ring.Read()
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return all
			}
			if err != nil {
				r.t.Fatal(err)
			}
			s, err := sightOf(record.RawSample)
			if err != nil {
				r.t.Fatal(err)
			}
			all = append(all, s)
		}
	}
}

func TestSomeDroppedPacketsAreShown(t *testing.T) {
	r := newRig(t, edge1).apply(steering(edge1, only(edge2)))
	drops := r.ring("drops")
	r.run(segment("S"))
	bad := segment("SF")
	r.run(bad)
	seen := drops()
	if len(seen) != 1 || seen[0].Verdict != "drop" || seen[0].Reason != lb.XDPBadFlags || !bytes.Equal(seen[0].Frame, bad) || seen[0].Length != len(bad) {
		t.Fatalf("of a packet that was sent and one that was dropped is shown %+v", seen)
	}
	if d := time.Since(seen[0].At); d < 0 || d > time.Minute {
		t.Errorf("it was dropped %v ago", d)
	}
	began := time.Now()
	for range 1000 {
		r.run(bad)
	}
	ticks := int(time.Since(began)/(250*time.Millisecond)) + 2
	if n := len(drops()); n == 0 || n > 4*ticks*ebpf.MustPossibleCPU() {
		t.Errorf("of 1000 drops in %d ticks %d are shown", ticks, n)
	}
	long := frame(eth(v4), ip4(client4, "192.0.2.10", layers.IPProtocolTCP), tcp(1, 80, "SF"), data(1000))
	time.Sleep(2 * 250 * time.Millisecond) // the next tick of the programs' clock, however late
	r.run(long)
	if seen = drops(); len(seen) == 0 || len(seen[len(seen)-1].Frame) != 128 || seen[len(seen)-1].Length != len(long) {
		t.Errorf("of a long one %+v is shown", seen)
	}
}

func TestOfEachReasonAMinuteHasOneEvent(t *testing.T) {
	var told []lb.Event
	counts := make([]uint64, len(bpf.Reasons))
	teller := dropTeller{func(e lb.Event) { told = append(told, e) }, func() ([]uint64, error) { return counts, nil }, map[lb.Reason]time.Time{}, map[lb.Reason]uint64{}}
	begin := time.Now()
	for i := range 3 * 60 {
		now := begin.Add(time.Duration(i) * time.Second)
		counts[reasonIndex(lb.XDPBadFlags)] += 100
		teller.see(Sight{At: now, Reason: lb.XDPBadFlags, Frame: segment("SF")}, now)
		teller.see(Sight{At: now, Reason: lb.XDPFragment, Frame: segment("A")}, now)
	}
	if len(told) != 6 {
		t.Fatalf("%d events in three minutes about two reasons: %v", len(told), told)
	}
	want := "dropped tcp 198.51.100.7:40000 > 192.0.2.10:80 [FS]"
	if e := told[0]; e.Kind != "packet.dropped" || e.Subject != "192.0.2.10:80" || e.Reason != lb.XDPBadFlags || e.Detail != want {
		t.Errorf("the first is %+v", e)
	}
	if e := told[2]; e.Detail != want+"; 6000 by this reason in the last 1m0s" {
		t.Errorf("the next is %+v", e)
	}
}

func TestPacketsInWords(t *testing.T) {
	tagged := frame(eth(layers.EthernetTypeQinQ), vlan(5, layers.EthernetTypeDot1Q), vlan(6, v6), ip6(client6, "2001:db8::10", layers.IPProtocolTCP), tcp(9, 80, "A"))
	later := edit(segment("A"), 14+7, 9)
	for _, c := range []struct {
		frame    []byte
		to, text string
	}{
		{segment("S"), "192.0.2.10:80", "tcp 198.51.100.7:40000 > 192.0.2.10:80 [S]"},
		{segment(""), "192.0.2.10:80", "tcp 198.51.100.7:40000 > 192.0.2.10:80 [none]"},
		{tagged, "[2001:db8::10]:80", "tcp [2001:db8:ffff::7]:9 > [2001:db8::10]:80 [.]"},
		{to(log4, 9, ""), "192.0.2.20:514", "udp 198.51.100.7:9 > 192.0.2.20:514"},
		{tunnelled(segment("A"), 0x20, edge3), "192.0.2.10:80", "tcp 198.51.100.7:40000 > 192.0.2.10:80 [.] in a tunnel of 10.0.0.1"},
		{later, "192.0.2.10", "a later fragment 198.51.100.7 > 192.0.2.10"},
		{frame(eth(v4), ip4(client4, "192.0.2.10", layers.IPProtocolICMPv4), data(8)), "192.0.2.10", "icmp 198.51.100.7 > 192.0.2.10"},
		{segment("S")[:30], "-", "a packet of 16 bytes without a whole IP header"},
		{nil, "-", "a frame of 0 bytes"},
	} {
		if got := describe(c.frame); got.to != c.to || got.text != c.text {
			t.Errorf("described as %+v, want %s: %s", got, c.to, c.text)
		}
	}
	for n := range segment6("A") { // cut anywhere
		describe(segment6("A")[:n])
		describe(tunnelled(segment("A"), 0x20, edge3)[:n])
	}
}

func TestWhatIsCaptured(t *testing.T) {
	r := newRig(t, edge2).apply(steering(edge2, only(edge1), only(edge2)))
	sights := r.ring("sights")
	address := func(a string) netip.AddrPort {
		if p, err := netip.ParseAddrPort(a); err == nil {
			return p
		}
		return netip.AddrPortFrom(netip.MustParseAddr(a), 0)
	}
	all := []struct {
		name  string
		frame []byte
	}{
		{"syn", segment("S")},
		{"bad", segment("SF")},
		{"six", segment6("A")},
		{"tagged", frame(eth(layers.EthernetTypeDot1Q), vlan(5, v4), ip4(client4, "192.0.2.10", layers.IPProtocolTCP), tcp(40000, 80, "A"), data(10))},
		{"tunnel", r.agreeing(tunnelled(segment("S"), 0x10))},
		{"udp", frame(eth(v4), ip4("198.51.100.8", "192.0.2.10", layers.IPProtocolUDP), udp(9, 53), data(30))},
		{"icmp", frame(eth(v4), ip4("203.0.113.1", "192.0.2.10", layers.IPProtocolICMPv4), data(8))},
		{"other", frame(eth(v4), ip4(client4, "192.0.2.99", layers.IPProtocolTCP), tcp(40000, 80, "S"))},
		{"options", frame(eth(v6), ip6(client6, "2001:db8::10", layers.IPProtocolIPv6Destination), gopacket.Payload{6, 0, 1, 4, 0, 0, 0, 0}, tcp(7, 80, "A"))},
		{"arp", frame(eth(layers.EthernetTypeARP), data(28))},
	}
	for _, c := range []struct {
		sentence string
		capture  Capture
		want     string
	}{
		{"everything", Capture{}, "syn bad six tagged tunnel udp icmp other options arp"},
		{"a VIP's port", Capture{Dst: address("192.0.2.10:80")}, "syn bad tagged tunnel icmp"},
		{"an address", Capture{Dst: address("192.0.2.10")}, "syn bad tagged tunnel udp icmp"},
		{"an IPv6 VIP, behind options, too", Capture{Dst: address("[2001:db8::10]:80"), Protocol: lb.TCP}, "six options"},
		{"a flow", Capture{Src: address("198.51.100.7:40000"), Dst: address("192.0.2.10:80"), Protocol: lb.TCP}, "syn bad tagged tunnel icmp"},
		{"a client", Capture{Src: address("198.51.100.7")}, "syn bad tagged tunnel other icmp"},
		{"UDP", Capture{Protocol: lb.UDP}, "tunnel udp icmp"},
		{"what is dropped", Capture{Verdict: "drop"}, "bad"},
		{"a reason", Capture{Reason: lb.XDPReceived}, "tunnel"},
		{"nobody", Capture{Dst: address("192.0.2.10:81")}, "icmp"},
	} {
		c.capture.Packets, c.capture.For, c.capture.Snaplen = 100, time.Minute, 256
		if err := r.Filter.Put(uint32(0), c.capture.filter()); err != nil {
			t.Fatal(err)
		}
		r.words(func(n *bpf.Node, _ uint64) { n.Flags |= bpf.NodeCaptured })
		var got []string
		for _, p := range all {
			verdict, reason, _ := r.run(p.frame)
			for _, s := range sights() {
				got = append(got, p.name)
				if s.Reason != reason || verdicts[verdict] != s.Verdict || !bytes.Equal(s.Frame, p.frame[:min(256, len(p.frame))]) || s.Length != len(p.frame) {
					t.Errorf("%s: %s is shown as %+v, but left with %d for %s", c.sentence, p.name, s, verdict, reason)
				}
			}
		}
		want := strings.Fields(c.want)
		if !sameWords(got, want) {
			t.Errorf("%s: captured %v, want %v", c.sentence, got, want)
		}
	}
	// Little of each is kept, but all of the headers is compared, and nothing that an
	// earlier packet left there.
	narrow := Capture{Src: address("198.51.100.7:40000"), Dst: address("192.0.2.10:80"), Protocol: lb.TCP, Packets: 100, For: time.Minute, Snaplen: 64}
	r.Filter.Put(uint32(0), narrow.filter())
	other := frame(eth(v4), ip4("198.51.100.8", "192.0.2.10", layers.IPProtocolTCP), tcp(40001, 80, "S"), data(10))
	whole := r.agreeing(tunnelled(segment("S"), 0x10))
	for _, c := range []struct {
		sentence string
		frame    []byte
		seen     int
	}{
		{"in a tunnel", whole, 1},
		{"another flow in a tunnel", r.agreeing(tunnelled(other, 0x10)), 0},
		{"the flow again", whole, 1},
		{"a tunnel that ends before its packet does", cut(bytes.Clone(whole), 14+20+8+12), 0},
	} {
		r.run(c.frame)
		if seen := sights(); len(seen) != c.seen || c.seen > 0 && len(seen[0].Frame) != 64 {
			t.Errorf("%s: %d are shown, want %d", c.sentence, len(seen), c.seen)
		}
	}
	f := Capture{Packets: 3, For: time.Minute, Snaplen: 64}.filter()
	r.Filter.Put(uint32(0), f)
	for range 10 {
		r.run(segment("S"))
	}
	if seen := sights(); len(seen) != 3 || len(seen[0].Frame) != 64 {
		t.Errorf("of ten, three were asked for: %d came, the first with %d bytes", len(seen), len(seen[0].Frame))
	}
	f.Left, f.Until = 100, preciseMonotonic()-1
	r.Filter.Put(uint32(0), f)
	r.run(segment("S"))
	if n := len(sights()); n != 0 {
		t.Errorf("%d after the time was over", n)
	}
}

func sameWords(a, b []string) bool {
	seen := map[string]int{}
	for _, w := range a {
		seen[w]++
	}
	for _, w := range b {
		seen[w]--
	}
	for _, n := range seen {
		if n != 0 {
			return false
		}
	}
	return true
}

func TestACaptureIsAFileForOtherTools(t *testing.T) {
	var file bytes.Buffer
	p, err := NewPcapng(&file, 256, func(i int) string { return map[int]string{3: "eth0", 4: "eth1"}[i] })
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1_700_000_000, 123456789)
	for i, f := range [][]byte{segment("S"), segment6("SF"), segment("A")[:61]} {
		s := Sight{At: at, Verdict: verdicts[1+i], action: uint64(1 + i), Reason: lb.XDPBadFlags, Ifindex: 3 + i%2, Length: 100, Frame: f}
		if err := p.Write(s); err != nil {
			t.Fatal(err)
		}
	}
	r, err := pcapgo.NewNgReader(bytes.NewReader(file.Bytes()), pcapgo.NgReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		got, info, err := r.ReadPacketData()
		if err != nil || !info.Timestamp.Equal(at) || info.Length != 100 || info.InterfaceIndex != i%2 || len(got) < 54 {
			t.Errorf("packet %d: %d bytes, %+v, %v", i, len(got), info, err)
		}
	}
	if n, _ := r.Interface(1); n.Name != "eth1" || n.SnapLength != 256 || r.NInterfaces() != 2 {
		t.Errorf("interface %+v of %d", n, r.NInterfaces())
	}
	if !bytes.Contains(file.Bytes(), []byte("drop xdp_bad_flags")) || !bytes.Contains(file.Bytes(), binary.LittleEndian.AppendUint64([]byte{7, 0, 9, 0, 2}, 1)) {
		t.Error("the verdict is not in it")
	}
	tcpdump, err := exec.LookPath("tcpdump")
	if err != nil {
		return
	}
	path := filepath.Join(t.TempDir(), "capture.pcapng")
	os.WriteFile(path, file.Bytes(), 0o644)
	if out, err := exec.Command(tcpdump, "-nr", path).CombinedOutput(); err != nil || !strings.Contains(string(out), "192.0.2.10.80: Flags [S]") {
		t.Errorf("tcpdump: %v\n%s", err, out)
	}
}

func TestACaptureHasBounds(t *testing.T) {
	good := Capture{Packets: 1, For: time.Second, Snaplen: 64}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for sentence, edit := range map[string]func(*Capture){
		"no packets": func(c *Capture) { c.Packets = 0 }, "too many": func(c *Capture) { c.Packets = MaxCaptured + 1 },
		"no time": func(c *Capture) { c.For = 0 }, "for ever": func(c *Capture) { c.For = time.Hour },
		"too little of each": func(c *Capture) { c.Snaplen = 14 }, "too much": func(c *Capture) { c.Snaplen = 9000 },
		"a verdict that is none": func(c *Capture) { c.Verdict = "lost" }, "a reason that is none": func(c *Capture) { c.Reason = lb.NoRoute },
	} {
		c := good
		edit(&c)
		if c.Check() == nil {
			t.Errorf("%s: taken", sentence)
		}
	}
	off := Datapath{}
	if _, err := off.Capture(context.Background(), good, nil); !errors.Is(err, ErrNoFastpath) {
		t.Errorf("without a fast path: %v", err)
	}
}
