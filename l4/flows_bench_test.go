package l4

import (
	"net"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/cirque-lb/lb"
)

// What it costs to know how many connections each row has: the kernel's list,
// per connection and look, against a counter kept at each accept and close.

func BenchmarkARowsFlowsByTheKernelsList(b *testing.B) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	const pairs = 2000
	for range pairs {
		c, err := net.Dial("tcp4", l.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		a, err := l.Accept()
		if err != nil {
			b.Fatal(err)
		}
		defer a.Close()
	}
	d, err := newDiag()
	if err != nil {
		b.Fatal(err)
	}
	defer d.close()
	rows, looked := make([]int, lb.Rows), 0
	for b.Loop() {
		looked = 0
		err := d.each(func(f Flow) {
			rows[rowOf(flowHash(seed, f.Tuple))]++
			looked++
		})
		if err != nil || looked < 2*pairs {
			b.Fatalf("%d sockets: %v", looked, err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(looked), "ns/connection")
}

func BenchmarkARowsFlowsByCounters(b *testing.B) {
	rows := make([]atomic.Uint32, lb.Rows)
	t := lb.Tuple{Protocol: lb.TCP, Src: netip.MustParseAddrPort("198.51.100.7:40000"), Dst: netip.MustParseAddrPort("192.0.2.10:80")}
	n := uint16(0)
	for b.Loop() {
		n++
		t.Src = netip.AddrPortFrom(t.Src.Addr(), n)
		r := &rows[rowOf(flowHash(seed, t))]
		r.Add(1)
		r.Add(^uint32(0))
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N), "ns/connection")
}
