// Command l4 measures what the XDP program costs per packet, over an empty
// program, and prints it beside the targets.
//
// Each figure is the median of rounds; a round runs the case and, right after
// it, the same frame without the program, so that what else the machine does
// meets both. Then it sends live frames through a veth, and counts how many a
// second it makes. It needs root, and works in a network namespace of its own.
package main

import (
	"flag"
	"fmt"
	"log"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb/bpf"
)

//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -no-global-types measure measure.c -- -O2 -mcpu=v3 -Wall -Wextra -Werror -Wno-unused-parameter -Wno-sign-compare -I/usr/include/x86_64-linux-gnu -I/usr/include/aarch64-linux-gnu
//go:generate go run ../../bpf/gen sum ../../bpf/*.[ch]

func main() {
	log.SetFlags(0)
	log.SetPrefix("bench/l4: ")
	rounds := flag.Int("rounds", 10, "rounds per case")
	packets := flag.Int("packets", 300_000, "packets per round")
	only := flag.String("only", "", "cases whose names have this in them")
	live := flag.Bool("live", true, "send live frames, too")
	flag.Parse()
	if os.Geteuid() != 0 {
		log.Fatal("loading programs needs root")
	}
	b, err := newBench(*rounds, *packets)
	if err != nil {
		log.Fatal(err)
	}
	b.only = *only
	if err := b.table(); err != nil {
		log.Fatal(err)
	}
	if *live {
		if err := b.live(); err != nil {
			log.Fatal(err)
		}
	}
}

type objects struct {
	bpf.Objects
	Measure       *ebpf.Program `ebpf:"measure"`
	Compare       *ebpf.Program `ebpf:"compare"`
	Idle          *ebpf.Program `ebpf:"idle"`
	Stretch       *ebpf.Program `ebpf:"stretch"`
	Empty         *ebpf.Program `ebpf:"empty"`
	LiveDrop      *ebpf.Program `ebpf:"live_drop"`
	LiveBounce    *ebpf.Program `ebpf:"live_bounce"`
	LiveSteer     *ebpf.Program `ebpf:"live_steer"`
	LiveYardstick *ebpf.Program `ebpf:"live_yardstick"`
	Sink          *ebpf.Program `ebpf:"sink"`
	Plan          *ebpf.Map     `ebpf:"plan"`
	Frames        *ebpf.Map     `ebpf:"frames"`
	YardVIPs      *ebpf.Map     `ebpf:"yard_vips"`
	YardReals     *ebpf.Map     `ebpf:"yard_reals"`
	YardRing      *ebpf.Map     `ebpf:"yard_ring"`
	YardCounts    *ebpf.Map     `ebpf:"yard_statistics"`
}

type bench struct {
	objects
	rounds, packets int
	only            string
	links           []link.Link // or they would go with the next garbage collection
	empty, stretch  float64     // ns of an empty program, and of one change of length over it
}

func newBench(rounds, packets int) (*bench, error) {
	// A namespace of our own: socket lookups meet no socket and no sk_lookup
	// program but ours.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("make a network namespace: %w", err)
	}
	_ = rlimit.RemoveMemlock()
	spec, err := loadMeasure()
	if err != nil {
		return nil, err
	}
	b := &bench{rounds: rounds, packets: packets}
	if err := spec.LoadAndAssign(&b.objects, nil); err != nil {
		return nil, fmt.Errorf("load the programs: %w", err)
	}
	if failed, err := b.StartClock.Run(&ebpf.RunOptions{Data: make([]byte, 64)}); err != nil || failed != 0 {
		return nil, fmt.Errorf("start the programs' clock: %d, %w", failed, err)
	}
	if _, err := b.connect(); err != nil { // open for as long as we run
		return nil, fmt.Errorf("make a socket: %w", err)
	}
	return b, b.fill()
}

// table runs every case and prints its figures.
func (b *bench) table() error {
	var err error
	frame := segment(4, syn)
	if b.empty, err = b.time(b.Empty, frame); err != nil {
		return err
	}
	pair, err := b.time(b.Stretch, frame)
	if err != nil {
		return err
	}
	b.stretch = max(0, (pair-b.empty)/2)
	fmt.Printf("ns per packet over an empty program's (%.0f ns); medians of %d rounds of %d packets, and the best;\n", b.empty, b.rounds, b.packets)
	fmt.Printf("beside them a Maglev ring with an LRU of flows per CPU (yardstick.h) on the same frames\n\n")
	fmt.Printf("%-46s %7s %6s %8s %10s %6s\n", "case", "median", "best", "target", "yardstick", "best")
	held, targets := 0, 0
	for _, c := range cases {
		if !strings.Contains(c.name, b.only) {
			continue
		}
		ns, best, err := b.cost(c)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		beside, err := b.besides(c)
		if err != nil {
			return fmt.Errorf("%s, the yardstick: %w", c.name, err)
		}
		verdict := ""
		if c.target > 0 {
			targets++
			if ns <= c.target {
				held++
			} else {
				verdict = "  over"
			}
		}
		fmt.Printf("%-46s %7.0f %6.0f %8s %s%s\n", c.name, ns, best, c.limit(), beside, verdict)
	}
	fmt.Println()
	if err := b.programs(); err != nil {
		return err
	}
	fmt.Printf("%d of %d targets held\n", held, targets)
	return nil
}

// cost is what the program takes for a case, over an empty one: the median,
// and by the best round with and the best without the program. On a machine
// that does something else besides, only the best ones compare.
func (b *bench) cost(c testCase) (middle, best float64, err error) {
	if err := b.prepare(c, c.grows); err != nil {
		return 0, 0, err
	}
	if err := b.check(c); err != nil {
		return 0, 0, err
	}
	return b.over(b.Measure, c.frame, c.grows != 0)
}

// over is what a program takes over an idle one.
func (b *bench) over(p *ebpf.Program, frame []byte, grows bool) (middle, best float64, err error) {
	var costs, with, without []float64
	for range b.rounds {
		w, err := b.once(p, frame)
		if err != nil {
			return 0, 0, err
		}
		o, err := b.once(b.Idle, frame)
		if err != nil {
			return 0, 0, err
		}
		costs, with, without = append(costs, w-o), append(with, w), append(without, o)
	}
	middle, best = median(costs), slices.Min(with)-slices.Min(without)
	if grows { // idle undid its own change of length, too
		middle, best = middle+b.stretch, best+b.stretch
	}
	return middle, best, nil
}

// check makes sure that the case takes the way that its name says.
func (b *bench) check(c testCase) error {
	before, err := b.exits()
	if err != nil {
		return err
	}
	if _, err := b.once(b.Measure, c.frame); err != nil {
		return err
	}
	after, err := b.exits()
	if err != nil {
		return err
	}
	wrong := ""
	for reason, n := range after {
		if reason != c.reason && n != before[reason] {
			wrong += fmt.Sprintf(" %d by %s", n-before[reason], reason)
		}
	}
	if wrong != "" {
		return fmt.Errorf("of %d packets left%s, not by %s", b.packets, wrong, c.reason)
	}
	return nil
}

// besides is what the yardstick takes for the same frames.
func (b *bench) besides(c testCase) (string, error) {
	if c.yard == (yard{}) {
		return fmt.Sprintf("%10s %6s", "-", "-"), nil
	}
	if err := b.prepare(c, c.yard.grows); err != nil {
		return "", err
	}
	if err := b.checkYardstick(c.frame, c.yard.by); err != nil {
		return "", err
	}
	ns, best, err := b.over(b.Compare, c.frame, c.yard.grows != 0)
	return fmt.Sprintf("%10.0f %6.0f", ns, best), err
}

// checkYardstick makes sure that the yardstick finds the flows in its table, or
// writes them down. It may have forgotten a few: so does any LRU.
func (b *bench) checkYardstick(frame []byte, by int) error {
	if by < 0 {
		return nil
	}
	var share float64
	for range 50 { // first it learns
		before, err := b.yardCount(by)
		if err != nil {
			return err
		}
		if _, err := b.once(b.Compare, frame); err != nil {
			return err
		}
		after, err := b.yardCount(by)
		if err != nil {
			return err
		}
		if share = float64(after-before) / float64(b.packets); share > 0.98 {
			return nil
		}
	}
	return fmt.Errorf("only %.1f %% of the packets went the way they should", 100*share)
}

func (b *bench) yardCount(which int) (sum uint64, err error) {
	var perCPU [][2]uint64
	if err := b.YardCounts.Lookup(uint32(which), &perCPU); err != nil {
		return 0, err
	}
	for _, n := range perCPU {
		sum += n[0]
	}
	return sum, nil
}

// exits counts the packets by the reason that they left for.
func (b *bench) exits() (map[string]uint64, error) {
	counts := map[string]uint64{}
	for i, r := range bpf.Reasons {
		var perCPU []uint64
		if err := b.Counters.Lookup(uint32(i), &perCPU); err != nil {
			return nil, err
		}
		for _, n := range perCPU {
			counts[r.Name] += n
		}
	}
	return counts, nil
}

func (b *bench) time(p *ebpf.Program, frame []byte) (float64, error) {
	var all []float64
	for range b.rounds {
		ns, err := b.once(p, frame)
		if err != nil {
			return 0, err
		}
		all = append(all, ns)
	}
	return median(all), nil
}

// once returns ns per packet. The kernel rounds to whole ns over the repeats,
// and leaves out the time it is scheduled away.
func (b *bench) once(p *ebpf.Program, frame []byte) (float64, error) {
	_, d, err := p.Benchmark(frame, b.packets, nil)
	return float64(d) / float64(time.Nanosecond), err
}

func median(v []float64) float64 {
	slices.Sort(v)
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// programs prints what the verifier had to do.
func (b *bench) programs() error {
	for _, p := range []*ebpf.Program{b.SteerPacket, b.SteerSocket, b.FindNeighbour} {
		info, err := p.Info()
		if err != nil {
			return err
		}
		size, err := info.TranslatedSize()
		if err != nil {
			return err
		}
		machine, _ := info.JitedSize()
		verified, _ := info.VerifiedInstructions()
		fmt.Printf("%-16s %6d instructions, %6d bytes of machine code, %7d verified\n", info.Name, size/8, machine, verified)
	}
	return nil
}
