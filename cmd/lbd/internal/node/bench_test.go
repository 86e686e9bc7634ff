package node

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cirque-lb/lb"
)

// BenchmarkSettle is one health change on a node with 10 000 backends: how long
// the loop is busy with it.
func BenchmarkSettle(b *testing.B) {
	dir := b.TempDir()
	file := filepath.Join(dir, "lbd.yaml")
	var text strings.Builder
	fmt.Fprintf(&text, "node: { name: edge-1, data_dir: %s, run_dir: %s }\nlisteners: { web: { bind: \":8080\" } }\nroutes: [{ pool: p0 }]\npools:\n", dir, dir)
	var ids []lb.BackendID
	for p := range 100 {
		fmt.Fprintf(&text, "  p%d:\n    check: { tcp: true }\n    backends:\n", p)
		for i := range 100 {
			address := fmt.Sprintf("10.%d.%d.1:80", p, i)
			fmt.Fprintf(&text, "      - %q\n", address)
			ids = append(ids, lb.BackendID{Pool: fmt.Sprint("p", p), Address: address})
		}
	}
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		b.Fatal(err)
	}
	state, err := Load(file, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer state.Close()
	d := &diary{}
	m := &fakeMonitor{diary: d, health: map[lb.BackendID]lb.Health{}}
	for _, id := range ids {
		m.health[id] = lb.Up
	}
	n, err := New(Options{State: state, Fleet: silent{newFakeFleet(d)}, Monitor: m, Log: slog.New(slog.DiscardHandler),
		Addresses: func() ([]netip.Addr, error) { return nil, nil }})
	if err != nil {
		b.Fatal(err)
	}
	n.look()
	n.settle()
	for i := 0; b.Loop(); i++ {
		m.health[ids[i%len(ids)]] = lb.Health(1 + i%2)
		n.settle()
	}
}

// silent keeps no diary of states, whose text would cost more than settling.
type silent struct{ *fakeFleet }

func (silent) SetState(lb.State) {}
