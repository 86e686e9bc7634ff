// Command l4 measures what the XDP program costs per packet, over an empty
// program, and prints it beside the targets.
//
// Each figure is the median of rounds; a round runs the case and, right after
// it, the same frame without the program, so that what else the machine does
// meets both. It needs root, attaches nothing and sends nothing.
package main

import (
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/cilium/ebpf"
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
	packets := flag.Int("packets", 500_000, "packets per round")
	flag.Parse()
	if os.Geteuid() != 0 {
		log.Fatal("loading programs needs root")
	}
	b, err := newBench(*rounds, *packets)
	if err != nil {
		log.Fatal(err)
	}
	defer b.objects.Close()
	if err := b.table(); err != nil {
		log.Fatal(err)
	}
}

type objects struct {
	bpf.Objects
	Measure *ebpf.Program `ebpf:"measure"`
	Idle    *ebpf.Program `ebpf:"idle"`
	Stretch *ebpf.Program `ebpf:"stretch"`
	Empty   *ebpf.Program `ebpf:"empty"`
	Plan    *ebpf.Map     `ebpf:"plan"`
}

func (o *objects) Close() {
	o.Objects.Close()
	for _, p := range []*ebpf.Program{o.Measure, o.Idle, o.Stretch, o.Empty} {
		p.Close()
	}
	o.Plan.Close()
}

type bench struct {
	objects
	rounds, packets int
	empty, stretch  float64 // ns of an empty program, and of one change of length over it
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
	fmt.Printf("ns per packet over an empty program's (%.0f ns); medians of %d rounds of %d packets\n\n", b.empty, b.rounds, b.packets)
	fmt.Printf("%-44s %8s %8s %8s\n", "case", "median", "best", "target")
	missed := 0
	for _, c := range cases {
		ns, best, err := b.cost(c)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		verdict := ""
		if c.target > 0 && ns > c.target {
			verdict = "  over"
			missed++
		}
		fmt.Printf("%-44s %8.0f %8.0f %8s%s\n", c.name, ns, best, c.limit(), verdict)
	}
	fmt.Println()
	if err := b.programs(); err != nil {
		return err
	}
	held := "all targets held"
	if missed > 0 {
		held = fmt.Sprintf("%d of %d targets missed", missed, len(cases))
	}
	fmt.Println(held)
	return nil
}

// cost is what the program takes for a case, over an empty one: the median,
// and by the best round with and the best without the program. On a machine
// that does something else besides, only the best ones compare.
func (b *bench) cost(c testCase) (middle, best float64, err error) {
	if err := b.prepare(c); err != nil {
		return 0, 0, err
	}
	if err := b.check(c); err != nil {
		return 0, 0, err
	}
	var costs, with, without []float64
	for range b.rounds {
		w, err := b.once(b.Measure, c.frame)
		if err != nil {
			return 0, 0, err
		}
		o, err := b.once(b.Idle, c.frame)
		if err != nil {
			return 0, 0, err
		}
		costs, with, without = append(costs, w-o), append(with, w), append(without, o)
	}
	middle, best = median(costs), slices.Min(with)-slices.Min(without)
	if c.grows != 0 { // idle undid its own change of length, too
		middle, best = middle+b.stretch, best+b.stretch
	}
	return middle, best, nil
}

// check makes sure that the case takes the way that its name says.
func (b *bench) check(c testCase) error {
	before, err := b.counter(c.reason)
	if err != nil {
		return err
	}
	if _, err := b.once(b.Measure, c.frame); err != nil {
		return err
	}
	after, err := b.counter(c.reason)
	if err != nil {
		return err
	}
	if n := after - before; n < uint64(b.packets) {
		return fmt.Errorf("%d of %d packets left by %s", n, b.packets, c.reason)
	}
	return nil
}

func (b *bench) counter(reason string) (sum uint64, err error) {
	i := slices.IndexFunc(bpf.Reasons, func(r bpf.Reason) bool { return r.Name == reason })
	if i < 0 {
		return 0, errors.New("no reason is called " + reason)
	}
	var perCPU []uint64
	if err := b.Counters.Lookup(uint32(i), &perCPU); err != nil {
		return 0, err
	}
	for _, n := range perCPU {
		sum += n
	}
	return sum, nil
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
