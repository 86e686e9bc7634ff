package l4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unsafe"

	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/bpf"
)

// A Sight is a packet that arrived, and what became of it.
type Sight struct {
	At      time.Time
	Verdict string // aborted, drop, pass, tx or redirect
	Reason  lb.Reason
	Ifindex int
	Length  int    // of the frame
	Frame   []byte // how it began

	at     uint64
	action uint64
}

var verdicts = []string{"aborted", "drop", "pass", "tx", "redirect"}

// sightOf reads what the programs put into a ring.
func sightOf(b []byte) (Sight, error) {
	if len(b) < bpf.SightHead {
		return Sight{}, fmt.Errorf("%d bytes are no packet that was seen", len(b))
	}
	h := (*bpf.SightHeader)(unsafe.Pointer(unsafe.SliceData(b)))
	verdict, reason := int(h.Way&0xff), int(h.Way>>8)
	if verdict >= len(verdicts) || reason >= len(bpf.Reasons) {
		return Sight{}, fmt.Errorf("a packet left by %#x, which no program says", h.Way)
	}
	b = b[bpf.SightHead:]
	return Sight{
		At: time.Now().Add(-time.Duration(preciseMonotonic() - h.At)), Verdict: verdicts[verdict],
		Reason: lb.Reason(bpf.Reasons[reason].Name), Ifindex: int(h.Ifindex),
		Length: int(h.Length), Frame: slices.Clone(b[:min(len(b), int(h.Kept))]),
		at: h.At, action: uint64(verdict),
	}, nil
}

// preciseMonotonic is what bpf_ktime_get_ns says.
func preciseMonotonic() uint64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return 0
	}
	return uint64(t.Nano())
}

// dropEvery bounds the events about packets that were dropped: one per reason.
const dropEvery = time.Minute

// A dropTeller makes events of samples of dropped packets.
type dropTeller struct {
	note  func(lb.Event)
	total func() ([]uint64, error) // the counter of each reason
	told  map[lb.Reason]time.Time
	known map[lb.Reason]uint64 // the counter, when it was last told of
}

// see tells of a packet unless one that left by the same reason was told of lately.
func (t *dropTeller) see(s Sight, now time.Time) {
	last, again := t.told[s.Reason]
	if again && now.Sub(last) < dropEvery {
		return
	}
	t.told[s.Reason] = now
	packet := describe(s.Frame)
	detail := "dropped " + packet.text
	totals, err := t.total()
	i := slices.IndexFunc(bpf.Reasons, func(r bpf.Reason) bool { return r.Name == string(s.Reason) })
	if err == nil && i >= 0 {
		if more := totals[i] - t.known[s.Reason]; again && more > 1 {
			detail += fmt.Sprintf("; %d by this reason in the last %v", more, now.Sub(last).Round(time.Second))
		}
		t.known[s.Reason] = totals[i]
	}
	t.note(lb.Event{Time: s.At.UTC(), Kind: "packet.dropped", Subject: packet.to, Reason: s.Reason, Detail: detail})
}

// runDrops tells of dropped packets until the ring is closed.
func (d *Datapath) runDrops(drops *ringbuf.Reader) {
	t := dropTeller{d.options.Note, d.kernel.counters, map[lb.Reason]time.Time{}, map[lb.Reason]uint64{}}
	for {
		r, err := drops.Read()
		if errors.Is(err, ringbuf.ErrClosed) {
			return
		}
		if err != nil {
			d.options.Log.Debug("samples of dropped packets end", "err", err)
			return
		}
		if s, err := sightOf(r.RawSample); err == nil {
			t.see(s, time.Now())
		}
	}
}

// watchDrops begins to tell of dropped packets, if anybody wants to know. The
// first Apply does it: who is told may not be ready before.
func (d *Datapath) watchDrops() {
	if d.options.Note == nil || d.kernel == nil || d.drops != nil {
		return
	}
	drops, err := ringbuf.NewReader(d.kernel.Drops)
	if err != nil {
		d.options.Log.Debug("dropped packets are counted, but not shown", "err", err)
		return
	}
	d.drops = drops
	d.done.Go(func() { d.runDrops(drops) })
}

// described is a frame in words.
type described struct {
	to   string // the destination, with its port when there is one
	text string
}

// describe says whose packet a frame is. A tunnel is described by what is in it.
func describe(frame []byte) described {
	if len(frame) < 14 {
		return described{"-", fmt.Sprintf("a frame of %d bytes", len(frame))}
	}
	kind, rest := binary.BigEndian.Uint16(frame[12:]), frame[14:]
	for range 2 {
		if (kind == 0x8100 || kind == 0x88a8) && len(rest) >= 4 {
			kind, rest = binary.BigEndian.Uint16(rest[2:]), rest[4:]
		}
	}
	return describePacket(rest, true)
}

func describePacket(b []byte, outermost bool) described {
	var src, dst netip.Addr
	var protocol byte
	var rest []byte
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		src, dst, protocol = netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:])), b[9]
		if binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
			return described{dst.String(), fmt.Sprintf("a later fragment %s > %s", src, dst)}
		}
		rest = b[min(len(b), int(b[0]&15)*4):]
	case len(b) >= 40 && b[0]>>4 == 6:
		src, dst, protocol = netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:])), b[6]
		rest = b[40:]
	default:
		return described{"-", fmt.Sprintf("a packet of %d bytes without a whole IP header", len(b))}
	}
	if outermost && protocol == unix.IPPROTO_UDP && len(rest) >= 12 && binary.BigEndian.Uint16(rest[2:]) == bpf.TunnelPort {
		if at := 12 + int(rest[8]&31)*4; len(rest) > at {
			d := describePacket(rest[at:], false)
			d.text += " in a tunnel of " + src.String()
			return d
		}
	}
	if protocol != unix.IPPROTO_TCP && protocol != unix.IPPROTO_UDP || len(rest) < 4 {
		name := map[byte]string{unix.IPPROTO_ICMP: "icmp", unix.IPPROTO_ICMPV6: "icmpv6"}[protocol]
		if name == "" {
			name = fmt.Sprintf("protocol %d", protocol)
		}
		return described{dst.String(), fmt.Sprintf("%s %s > %s", name, src, dst)}
	}
	from := netip.AddrPortFrom(src, binary.BigEndian.Uint16(rest))
	to := netip.AddrPortFrom(dst, binary.BigEndian.Uint16(rest[2:]))
	name, flags := "udp", ""
	if protocol == unix.IPPROTO_TCP {
		name = "tcp"
		if len(rest) > 13 {
			flags = " [" + flagNames(rest[13]) + "]"
		}
	}
	return described{to.String(), fmt.Sprintf("%s %s > %s%s", name, from, to, flags)}
}

// flagNames writes TCP flags as tcpdump does.
func flagNames(flags byte) string {
	var b strings.Builder
	for i, name := range "FSRP.U" {
		if flags>>i&1 == 1 {
			b.WriteRune(name)
		}
	}
	if b.Len() == 0 {
		return "none"
	}
	return b.String()
}
