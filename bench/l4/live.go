package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"github.com/cirque-lb/lb/bpf"
)

// Live frames go where the program sends them: out of one end of a veth, whose
// other end counts and drops them. One CPU does all of it. The ceilings are what
// is left when the program does nothing but drop or send back.

const (
	liveFrames = 1 << 1 // BPF_F_TEST_XDP_LIVE_FRAMES
	liveBatch  = 256
	liveEach   = 20_000 // frames of a round: short enough that the best ones are undisturbed
	liveRounds = 10     // for one of the table's
)

type liveCase struct {
	name    string
	program *ebpf.Program
	testCase
	sent bool // through the veth
}

// live prints packets per second.
func (b *bench) live() error {
	device, err := b.wire()
	if err != nil {
		return err
	}
	tcp, begin := segment(4, ack), segment(4, syn)
	of := func(frame []byte, flows uint32, row uint64) testCase {
		return testCase{frame: frame, source: source4, flows: flows, row: row}
	}
	list := []liveCase{
		{"ceiling: XDP_DROP", b.LiveDrop, of(tcp, 100_000, local), false},
		{"Cirque, local owner (dropped for the stack)", b.LiveSteer, of(tcp, 100_000, local), false},
		{"ceiling: XDP_TX", b.LiveBounce, of(tcp, 100_000, local), true},
		{"Cirque, remote owner, established", b.LiveSteer, of(tcp, 100_000, remote), true},
		{"Cirque, remote owner, new", b.LiveSteer, of(begin, every, remote), true},
		{"Cirque, service by ipip, established", b.LiveSteer, of(to(segment(4, ack), portIPIP), 100_000, local), true},
		{"Cirque, service by ipip, new", b.LiveSteer, of(to(segment(4, syn), portIPIP), every, local), true},
		{"yardstick, established", b.LiveYardstick, of(tcp, 100_000, local), true},
		{"yardstick, new", b.LiveYardstick, of(begin, every, local), true},
	}
	if err := b.prepare(list[len(list)-2].testCase, 20); err != nil {
		return err
	}
	if err := b.checkYardstick(tcp, yardHit); err != nil { // it learns the flows
		return err
	}
	rates := make([][]float64, len(list))
	for range liveRounds * b.rounds {
		for i, c := range list { // in turn, so that what else runs meets all
			rate, err := b.rate(c, device)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			rates[i] = append(rates[i], rate)
		}
	}
	fmt.Printf("\nmillions of frames a second on one core through a veth, %d rounds of %d\n\n", liveRounds*b.rounds, liveEach)
	fmt.Printf("%-46s %7s %6s\n", "case", "median", "best")
	ceiling := 0.0
	for i, c := range list {
		best := slices.Max(rates[i])
		if c.program == b.LiveDrop || c.program == b.LiveBounce {
			ceiling = best
		}
		fmt.Printf("%-46s %7.2f %6.2f  %3.0f %% of the ceiling\n", c.name, median(rates[i])/1e6, best/1e6, 100*best/ceiling)
	}
	return nil
}

// wire makes the veth, and has peers and backends be behind it.
func (b *bench) wire() (device int, err error) {
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "live0", MTU: 1600}, PeerName: "live1", PeerMTU: 1600}
	if err := netlink.LinkAdd(pair); err != nil {
		return 0, fmt.Errorf("make a veth: %w", err)
	}
	for _, name := range []string{"live0", "live1"} {
		end, err := netlink.LinkByName(name)
		if err != nil {
			return 0, err
		}
		if err := netlink.LinkSetUp(end); err != nil {
			return 0, err
		}
		// Ours has a program, too, or it would have no queue to make frames of.
		l, err := link.AttachXDP(link.XDPOptions{Program: b.Sink, Interface: end.Attrs().Index, Flags: link.XDPDriverMode})
		if err != nil {
			return 0, fmt.Errorf("attach to %s: %w", name, err)
		}
		b.links = append(b.links, l)
		if name == "live0" {
			device = end.Attrs().Index
		}
	}
	return device, b.redirect(device)
}

// redirect has every peer and backend be behind a device that bounces.
func (b *bench) redirect(device int) error {
	var p bpf.Peer
	for i := range uint32(3) {
		if err := b.Peers.Lookup(bpf.Self+i, &p); err != nil {
			return err
		}
		p.Ifindex, p.Flags = uint32(device), bpf.PeerBounce
		if err := b.Peers.Put(bpf.Self+i, p); err != nil {
			return err
		}
	}
	var backend bpf.Backend
	for n := uint32(1); n < 10*backendsEach; n++ {
		if err := b.Backends.Lookup(n, &backend); err != nil {
			return err
		}
		backend.Ifindex, backend.Flags = uint32(device), backend.Flags|bpf.BackendBounce
		if err := b.Backends.Put(n, backend); err != nil {
			return err
		}
	}
	return nil
}

// rate sends the frames of a case.
func (b *bench) rate(c liveCase, device int) (perSecond float64, err error) {
	if err := b.prepare(c.testCase, 0); err != nil {
		return 0, err
	}
	made, arrived, err := b.frames()
	if err != nil {
		return 0, err
	}
	context := struct{ Data, End, Meta, Ingress, Queue, Egress uint32 }{End: uint32(len(c.frame)), Ingress: uint32(device)}
	began := time.Now()
	_, err = c.program.Run(&ebpf.RunOptions{Data: c.frame, Context: context, Repeat: liveEach, Flags: liveFrames, BatchSize: liveBatch})
	took := time.Since(began)
	if err != nil {
		return 0, err
	}
	madeNow, arrivedNow, err := b.frames()
	if c.sent { // a queue that nobody empties in time drops some
		return float64(arrivedNow-arrived) / took.Seconds(), err
	}
	return float64(madeNow-made) / took.Seconds(), err
}

func (b *bench) frames() (made, arrived uint64, err error) {
	for i, sum := range []*uint64{&made, &arrived} {
		var perCPU []uint64
		if err := b.Frames.Lookup(uint32(i), &perCPU); err != nil {
			return 0, 0, err
		}
		for _, n := range perCPU {
			*sum += n
		}
	}
	return made, arrived, nil
}
