package l4

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/cilium/ebpf/ringbuf"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/bpf"
)

// Bounds of a capture.
const (
	MaxCaptured    = 100_000
	MaxCaptureTime = 10 * time.Minute
	MinSnaplen     = 64
)

// A Capture says which packets to keep, as clients sent them, inside of a
// tunnel or not. What is zero is any.
type Capture struct {
	Src, Dst netip.AddrPort // address and port each may be zero; ICMP to Dst belongs to it
	Protocol lb.Protocol
	Verdict  string    // drop, pass, tx or redirect
	Reason   lb.Reason // by which it left
	Packets  int       // at most; 1 to MaxCaptured
	For      time.Duration
	Snaplen  int // bytes of each; MinSnaplen to bpf.SightBytes
}

// Captured is how a capture went.
type Captured struct{ Packets, Lost uint64 }

// Errors of a capture that a caller tells apart.
var (
	ErrNoFastpath = errors.New("no packets come by: the fast path is off")
	ErrCapturing  = errors.New("another capture runs")
)

// Check says what of a Capture is out of bounds.
func (c Capture) Check() error {
	switch {
	case c.Packets < 1 || c.Packets > MaxCaptured:
		return fmt.Errorf("%d packets: 1 to %d are captured", c.Packets, MaxCaptured)
	case c.For <= 0 || c.For > MaxCaptureTime:
		return fmt.Errorf("%v is no time to capture: at most %v", c.For, MaxCaptureTime)
	case c.Snaplen < MinSnaplen || c.Snaplen > bpf.SightBytes:
		return fmt.Errorf("%d bytes of each packet: %d to %d are kept", c.Snaplen, MinSnaplen, bpf.SightBytes)
	case c.Verdict != "" && !slices.Contains(verdicts, c.Verdict):
		return fmt.Errorf("%q is no verdict: drop, pass, tx or redirect", c.Verdict)
	case c.Reason != "" && reasonIndex(c.Reason) < 0:
		return fmt.Errorf("%q is no reason of the fast path", c.Reason)
	}
	return nil
}

func reasonIndex(r lb.Reason) int {
	return slices.IndexFunc(bpf.Reasons, func(of bpf.Reason) bool { return of.Name == string(r) })
}

// filter is what the programs compare with.
func (c Capture) filter() bpf.Filter {
	f := bpf.Filter{
		Protocol: uint8(c.Protocol), Verdict: uint8(slices.Index(verdicts, c.Verdict) + 1), Reason: uint16(reasonIndex(c.Reason) + 1),
		Bytes: uint32(c.Snaplen), Left: uint64(c.Packets), Until: preciseMonotonic() + uint64(c.For),
	}
	if a := c.Src.Addr(); a.IsValid() && !a.IsUnspecified() {
		f.Src = bpf.AddressOf(a)
	}
	if a := c.Dst.Addr(); a.IsValid() && !a.IsUnspecified() {
		f.Dst = bpf.AddressOf(a)
	}
	binary.BigEndian.PutUint16(f.Sport[:], c.Src.Port())
	binary.BigEndian.PutUint16(f.Dport[:], c.Dst.Port())
	return f
}

// Capture hands packets to see until there were enough, the time is over, ctx
// ends or see fails. The kernel keeps to the same bounds by itself. One capture
// runs at a time.
func (d *Datapath) Capture(ctx context.Context, c Capture, see func(Sight) error) (done Captured, err error) {
	if err := c.Check(); err != nil {
		return done, err
	}
	if d.kernel == nil || len(d.Report().Interfaces) == 0 {
		return done, ErrNoFastpath
	}
	if !d.capturing.TryLock() {
		return done, ErrCapturing
	}
	defer d.capturing.Unlock()
	ring, err := ringbuf.NewReader(d.kernel.Sights)
	if err != nil {
		return done, fmt.Errorf("open the ring of captured packets: %w", err)
	}
	defer ring.Close()
	defer context.AfterFunc(ctx, func() { ring.Close() })()
	ring.SetDeadline(time.Now().Add(c.For))

	began, f := preciseMonotonic(), c.filter()
	if err := d.kernel.Filter.Put(uint32(0), f); err != nil {
		return done, fmt.Errorf("write the filter: %w", err)
	}
	d.setCaptured(bpf.NodeCaptured)
	defer d.setCaptured(0)
	for done.Packets < uint64(c.Packets) && err == nil {
		err = readSight(ring, began, &done, see)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, ringbuf.ErrClosed) {
		err = nil
	}
	if d.kernel.Filter.Lookup(uint32(0), &f) == nil {
		done.Lost = f.Lost
	}
	return done, err
}

// readSight waits for a packet; one of an earlier capture is none of ours.
func readSight(ring *ringbuf.Reader, began uint64, done *Captured, see func(Sight) error) error {
	r, err := ring.Read()
	if err != nil {
		return err
	}
	s, err := sightOf(r.RawSample)
	if err != nil || s.at < began {
		return err
	}
	done.Packets++
	return see(s)
}

// setCaptured tells the programs whether somebody captures.
func (d *Datapath) setCaptured(flag uint8) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.have.node
	n.Flags = n.Flags&^bpf.NodeCaptured | flag
	d.kernel.storeNode(n)
	d.have.node = n
}
