package l4

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"

	"github.com/cirque-lb/lb/bpf"
)

// A lbd whose maps are laid out otherwise makes its own beside those that are
// in use. They begin as copies, as far as sizes agree; the first Apply fills in
// the rest while packets still go by the old programs; then each link gets the
// new program in place of the old one, which no packet notices.

// generation is what the layout alone does not show: the meaning of fields.
const generation = "v2"

// spare is how many bytes the entries of rows and peers have beyond what they
// need. A variable, so that a build may have another layout and be migrated to:
// -ldflags "-X github.com/cirque-lb/lb/l4.spare=8".
var spare = ""

// ownSpec is what this build loads.
func ownSpec() (*ebpf.CollectionSpec, error) {
	spec, err := bpf.Spec()
	if err != nil || spare == "" {
		return spec, err
	}
	more, err := strconv.ParseUint(spare, 10, 16)
	if err != nil || more%8 != 0 {
		return nil, fmt.Errorf("built with l4.spare=%q: that is no number of words", spare)
	}
	for _, name := range []string{tableRows, tablePeers} {
		m := spec.Maps[name]
		m.ValueSize += uint32(more)
		m.Key, m.Value = nil, nil // the types that the kernel would compare with
	}
	return spec, nil
}

// layout names how the maps of a build are laid out.
func layout(spec *ebpf.CollectionSpec) string {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(spec.Maps)) {
		writeLayout(h, spec.Maps[name])
	}
	return fmt.Sprintf("%s-%x", generation, h.Sum(nil)[:4])
}

func writeLayout(h interface{ Write([]byte) (int, error) }, m *ebpf.MapSpec) {
	fmt.Fprintln(h, m.Name, m.Type, m.KeySize, m.ValueSize, m.MaxEntries, m.Flags)
	writeType(h, m.Key)
	writeType(h, m.Value)
	if m.InnerMap != nil {
		writeLayout(h, m.InnerMap)
	}
}

// writeType goes into structs and their arrays: a field that moves or gets
// another name is another layout.
func writeType(h interface{ Write([]byte) (int, error) }, t btf.Type) {
	switch t := btf.UnderlyingType(t).(type) {
	case *btf.Struct:
		for _, m := range t.Members {
			fmt.Fprintln(h, t.Name, m.Name, m.Offset)
			writeType(h, m.Type)
		}
	case *btf.Array:
		fmt.Fprintln(h, t.Nelems)
		writeType(h, t.Type)
	}
}

// A migration is from the pins of another layout, whose links are in use.
type migration struct {
	from pins
	maps map[string]*ebpf.Map // what is pinned there

	moved bool // an earlier try came to the links
}

// others finds the pins of other layouts, those with links first. The rest is
// what a migration left that was cut short.
func (p pins) others() (inUse, idle []pins) {
	dirs, _ := filepath.Glob(filepath.Join(filepath.Dir(p.dir), "v[0-9]*"))
	for _, dir := range dirs {
		if dir == p.dir {
			continue
		}
		if links, _ := filepath.Glob(filepath.Join(dir, "link_*")); len(links) > 0 {
			inUse = append(inUse, pins{dir})
		} else {
			idle = append(idle, pins{dir})
		}
	}
	return inUse, idle
}

// migrationTo prepares to take over from another layout; nil: there is none.
func (p pins) migrationTo(k *kernel) (*migration, error) {
	inUse, idle := p.others()
	var errs []error
	for _, o := range idle {
		errs = append(errs, o.remove())
	}
	if len(inUse) == 0 {
		return nil, errors.Join(errs...)
	}
	ours, _ := filepath.Glob(filepath.Join(p.dir, "link_*"))
	m := &migration{from: inUse[0], maps: map[string]*ebpf.Map{}, moved: len(ours) > 0}
	for name := range k.maps() {
		if old, err := ebpf.LoadPinnedMap(m.from.mapPath(name), nil); err == nil {
			m.maps[name] = old
		}
	}
	return m, errors.Join(errs...)
}

// own are the maps that are not copied: they hold sockets, time, or what is
// made anew.
var own = []string{tableSlots, "clock", "scratch", "doubt", "allowance", "pulse", "sight", "shown", "filter", "drops", "sights"}

// written are the maps that only programs write: they are copied at the last
// moment.
var written = []string{"counters", "traffic", "flows"}

// begin copies what user space writes, unless some link has moved already.
func (m *migration) begin(k *kernel) error {
	if m == nil || m.moved {
		return nil
	}
	return m.copy(k, func(name string) bool { return !slices.Contains(own, name) && !slices.Contains(written, name) })
}

// finish copies what the programs wrote.
func (m *migration) finish(k *kernel) error {
	return m.copy(k, func(name string) bool { return slices.Contains(written, name) })
}

func (m *migration) copy(k *kernel, which func(name string) bool) error {
	var errs []error
	for name, to := range k.maps() {
		from := m.maps[name]
		if from == nil || !which(name) || from.Type() != to.Type() || from.KeySize() != to.KeySize() || from.ValueSize() != to.ValueSize() {
			continue
		}
		if err := copyMap(from, to); err != nil {
			errs = append(errs, fmt.Errorf("copy the map %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

func copyMap(from, to *ebpf.Map) error {
	switch {
	case from.Flags()&bpfMmapable != 0 && to.Flags()&bpfMmapable != 0:
		return copyWords(from, to)
	case from.Type() == ebpf.ArrayOfMaps:
		return copyInner(from, to)
	case from.Type() == ebpf.PerCPUArray:
		return copyCounts(from, to)
	}
	var key, value []byte
	it := from.Iterate()
	for it.Next(&key, &value) {
		if err := to.Put(key, value); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) && !errors.Is(err, os.ErrInvalid) && from.Type() != ebpf.Array {
			return err
		}
	}
	return it.Err()
}

const bpfMmapable = 1 << 10 // BPF_F_MMAPABLE

func copyWords(from, to *ebpf.Map) error {
	f, err := mapWords(from)
	if err != nil {
		return err
	}
	defer f.unmap()
	t, err := mapWords(to)
	if err != nil {
		return err
	}
	defer t.unmap()
	for i := range min(len(f.word), len(t.word)) {
		t.store(i, f.load(i))
	}
	return nil
}

// copyInner shares the inner maps: both programs read the same ones.
func copyInner(from, to *ebpf.Map) error {
	for i := range min(from.MaxEntries(), to.MaxEntries()) {
		var id ebpf.MapID
		if from.Lookup(i, &id) != nil {
			continue
		}
		inner, err := ebpf.NewMapFromID(id)
		if err != nil {
			return err
		}
		err = to.Put(i, inner)
		inner.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// copyCounts copies values that are words, each CPU's its own.
func copyCounts(from, to *ebpf.Map) error {
	cpus, words := ebpf.MustPossibleCPU(), int(from.ValueSize()+7)/8
	for i := range min(from.MaxEntries(), to.MaxEntries()) {
		value := make([]counts, cpus)
		for c := range value {
			value[c] = make(counts, 8*words)
		}
		if err := from.Lookup(i, &value); err != nil {
			return err
		}
		if !slices.ContainsFunc(value, counts.any) {
			continue
		}
		if err := to.Put(i, value); err != nil {
			return err
		}
	}
	return nil
}

// counts is one CPU's value, as bytes.
type counts []byte

func (c counts) any() bool { return slices.ContainsFunc(c, func(b byte) bool { return b != 0 }) }

func (c counts) MarshalBinary() ([]byte, error) { return c, nil }

func (c *counts) UnmarshalBinary(b []byte) error {
	*c = slices.Clone(b)
	return nil
}

// take moves the old layout's links to this one's programs and pins. Whatever
// fails is tried again by the next call; the packets go on either way.
func (m *migration) take(to pins, program func(pin string) *ebpf.Program) error {
	paths, _ := filepath.Glob(filepath.Join(m.from.dir, "link_*"))
	var errs []error
	for _, path := range paths {
		l, err := link.LoadPinnedLink(path, nil)
		if err != nil {
			errs = append(errs, fmt.Errorf("open the pinned link %s: %w", path, err))
			continue
		}
		p := program(filepath.Base(path))
		if p == nil {
			errs = append(errs, detach(l, path))
			continue
		}
		err = l.Update(p)
		if err == nil {
			err = os.Rename(path, filepath.Join(to.dir, filepath.Base(path)))
		}
		if err != nil {
			err = fmt.Errorf("replace the program of %s: %w", path, err)
		}
		errs = append(errs, err, l.Close())
	}
	return errors.Join(errs...)
}

// program is what belongs into a pinned link; nil: nothing any more.
func (k *kernel) program(pin string) *ebpf.Program {
	switch {
	case strings.HasPrefix(pin, "link_xdp_"):
		return k.packets()
	case strings.HasPrefix(pin, "link_tcx_"):
		return k.FindNeighbour
	case strings.HasPrefix(pin, "link_sk_"):
		return k.SteerSocket
	}
	return nil
}

// end forgets the old layout.
func (m *migration) end() error {
	m.close()
	return m.from.remove()
}

func (m *migration) close() {
	if m == nil {
		return
	}
	for _, old := range m.maps {
		old.Close()
	}
}
