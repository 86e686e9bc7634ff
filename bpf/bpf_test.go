package bpf

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

func TestTheObjectsAreBuiltFromTheseSources(t *testing.T) {
	for _, dir := range []string{".", "../bench/l4"} {
		listed := checkSums(t, dir)
		for _, pattern := range []string{"*.c", "*.h"} {
			files, _ := filepath.Glob(filepath.Join(dir, pattern))
			for _, f := range files {
				if !slices.Contains(listed, f) {
					t.Errorf("%s is not in %s/sources.sum; run: go generate ./bpf", f, dir)
				}
			}
		}
	}
}

// checkSums compares the files that sources.sum lists, and returns them.
func checkSums(t *testing.T, dir string) (listed []string) {
	t.Helper()
	sums, err := os.ReadFile(filepath.Join(dir, "sources.sum"))
	if err != nil {
		t.Fatal(err)
	}
	for s := bufio.NewScanner(bytes.NewReader(sums)); s.Scan(); {
		want, name, _ := strings.Cut(s.Text(), "  ")
		file := filepath.Join(dir, name)
		listed = append(listed, file)
		text, err := os.ReadFile(file)
		if err != nil {
			t.Error(err)
		} else if got := fmt.Sprintf("%x", sha256.Sum256(text)); got != want {
			t.Errorf("%s changed after the object in %s was built; run: go generate ./bpf", file, dir)
		}
	}
	return listed
}

func TestGoAndCAgreeOnTheMaps(t *testing.T) {
	spec, err := Spec()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		in   any
	}{
		{"address", Address{}}, {"node", Node{}}, {"peer", Peer{}}, {"served", Served{}},
		{"vip", VIP{}}, {"vip_entry", VIPEntry{}}, {"vip_bucket", [VIPBucket]VIPEntry{}}, {"bind_key", BindKey{}}, {"bind", Bind{}}, {"clock", Clock{}},
		{"service", Service{}}, {"backend", Backend{}}, {"traffic", Traffic{}}, {"source_key", SourceKey{}}, {"source", Source{}}, {"limits", Limits{}},
		{"filter", Filter{}}, {"path_mtu", PathMTU{}}, {"doubt", Doubt{}}, {"allowance", Allowance{}},
	} {
		var s *btf.Struct
		if err := spec.Types.TypeByName(c.name, &s); err != nil {
			t.Errorf("struct %s: %v", c.name, err)
			continue
		}
		sameLayout(t, s, reflect.TypeOf(c.in))
	}
	for name, entries := range map[string]uint32{
		"rows": Rows, "peers": Peers, "path_mtus": Peers, "peer_index": Peers, "vips": VIPs, "vip_table": VIPBuckets,
		"binds": Binds, "slots": Slots, "node": 1, "services": Services, "backends": Backends, "traffic": Backends, "flows": Flows, "rings": Services, "sources": Sources, "counters": uint32(len(Reasons)),
	} {
		if got := spec.Maps[name].MaxEntries; got != entries {
			t.Errorf("map %s has %d entries in C, %d in Go", name, got, entries)
		}
	}
}

// sameLayout compares size and offsets; names differ by case only, and a Go
// array that takes the place of a struct of one array has none.
func sameLayout(t *testing.T, c *btf.Struct, g reflect.Type) {
	t.Helper()
	if uint32(g.Size()) != c.Size {
		t.Errorf("struct %s has %d bytes in C, %d in Go", c.Name, c.Size, g.Size())
	}
	if g.Kind() != reflect.Struct {
		return
	}
	for i := range g.NumField() {
		f := g.Field(i)
		if f.Name == "_" {
			continue
		}
		offset, found := uint32(0), false
		for _, m := range c.Members {
			if strings.ReplaceAll(m.Name, "_", "") == strings.ToLower(f.Name) {
				offset, found = m.Offset.Bytes(), true
			}
		}
		if !found || uint32(f.Offset) != offset {
			t.Errorf("struct %s: field %s is at %d in C (found: %v), at %d in Go", c.Name, f.Name, offset, found, f.Offset)
		}
	}
}

func TestTheProgramsLoad(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("loading programs needs root")
	}
	spec, err := Spec()
	if err != nil {
		t.Fatal(err)
	}
	var o Objects
	if err := spec.LoadAndAssign(&o, nil); err != nil {
		var v *ebpf.VerifierError
		if errors.As(err, &v) {
			t.Fatalf("%+v", v)
		}
		t.Fatal(err)
	}
	defer o.Close()
	for _, p := range []*ebpf.Program{o.SteerPacket, o.SteerSocket, o.FindNeighbour, o.StartClock, o.UnwrapPacket} {
		i, err := p.Info()
		if err != nil {
			t.Fatal(err)
		}
		verified, _ := i.VerifiedInstructions()
		size, _ := i.TranslatedSize()
		jited, _ := i.JitedSize()
		t.Logf("%s: %d instructions, %d bytes of machine code, %d verified", i.Name, size/8, jited, verified)
	}
}
