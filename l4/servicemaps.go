package l4

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/cirque-lb/lb/bpf"
)

// serviceRing is the ring of one service, shared with the programs.
type serviceRing struct {
	*ebpf.Map
	words
}

// packets is the program that sees packets first: a node's or a backend's.
func (k *kernel) packets() *ebpf.Program {
	if k.backend {
		return k.UnwrapPacket
	}
	return k.SteerPacket
}

const backendWords = int(unsafe.Sizeof(bpf.Backend{}) / 8)

func (k *kernel) closeServices() error {
	errs := []error{k.backends.unmap()}
	for _, r := range k.rings {
		errs = append(errs, r.unmap(), r.Close())
	}
	return errors.Join(errs...)
}

func (k *kernel) readServices(t *tables) error {
	for n := range uint32(bpf.Backends) {
		b := k.loadBackend(n)
		if b.Service != 0 {
			t.backends[n] = backend{b.Address, uint32(b.Service), b.Flags&bpf.BackendKeeps != 0}
		}
	}
	for n := range uint32(bpf.Services) {
		var s bpf.Service
		if err := k.Services.Lookup(n, &s); err != nil {
			return fmt.Errorf("read service %d of %s: %w", n, k.Services, err)
		}
		var ring ebpf.MapID
		if err := k.Objects.Rings.Lookup(n, &ring); err == nil {
			if t.rings[n], err = k.adoptRing(n, ring); err != nil {
				return err
			}
		}
		if s.Forward != 0 {
			t.services[n] = s
		}
	}
	return nil
}

func (k *kernel) adoptRing(n uint32, id ebpf.MapID) ([]uint64, error) {
	m, err := ebpf.NewMapFromID(id)
	if err != nil {
		return nil, fmt.Errorf("open the ring of service %d: %w", n, err)
	}
	if err := k.holdRing(n, m); err != nil {
		return nil, err
	}
	ring := make([]uint64, bpf.Rows)
	for place := range ring {
		ring[place] = k.rings[n].load(place)
	}
	return ring, nil
}

func (k *kernel) holdRing(n uint32, m *ebpf.Map) error {
	w, err := mapWords(m)
	if err != nil {
		m.Close()
		return err
	}
	if k.rings == nil {
		k.rings = map[uint32]*serviceRing{}
	}
	k.rings[n] = &serviceRing{m, w}
	return nil
}

func (k *kernel) putService(w write) error {
	s, _ := w.value.(bpf.Service)
	return k.Services.Put(w.key, s)
}

// putRing stores the places that changed, in place.
func (k *kernel) putRing(w write) error {
	n := w.key.(uint32)
	places, _ := w.value.([]uint64)
	if places == nil {
		return k.dropRing(n)
	}
	r := k.rings[n]
	if r == nil {
		return k.makeRing(n, places)
	}
	for place, v := range places {
		if r.load(place) != v {
			r.store(place, v)
		}
	}
	return nil
}

func (k *kernel) makeRing(n uint32, places []uint64) error {
	m, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: fmt.Sprintf("ring_%d", n), Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: bpf.Rows, Flags: mmapable,
	})
	if err != nil {
		return fmt.Errorf("make a ring: %w", err)
	}
	if err := k.holdRing(n, m); err != nil {
		return err
	}
	for place, v := range places {
		k.rings[n].store(place, v)
	}
	if err := k.Objects.Rings.Put(n, m); err != nil {
		k.rings[n].unmap()
		m.Close()
		delete(k.rings, n)
		return fmt.Errorf("give service %d its ring: %w", n, err)
	}
	return nil
}

const mmapable = 1 << 10 // BPF_F_MMAPABLE

func (k *kernel) dropRing(n uint32) error {
	r := k.rings[n]
	if r == nil {
		return nil
	}
	if err := k.Objects.Rings.Delete(n); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return err
	}
	delete(k.rings, n)
	return errors.Join(r.unmap(), r.Close())
}

// putBackend writes a backend whose way is not known yet. A number that gets
// another holder begins a new life: what was written down for the last one is
// no longer true.
func (k *kernel) putBackend(w write) error {
	n := w.key.(uint32)
	before := k.loadBackend(n)
	v, _ := w.value.(backend)
	b := bpf.Backend{MTU: maxMTU, Address: v.address, Service: uint16(v.service), Life: before.Life}
	if before.Address == v.address && before.Service == b.Service {
		b = before
	} else {
		b.Life++
		if err := k.Traffic.Put(n, make([]bpf.Traffic, ebpf.MustPossibleCPU())); err != nil {
			return fmt.Errorf("clear what backend %d got: %w", n, err)
		}
	}
	b.Flags &^= bpf.BackendKeeps
	if v.keeps {
		b.Flags |= bpf.BackendKeeps
	}
	k.storeBackend(n, b)
	if w.value == nil {
		return k.forgetBackend(n, before.Address)
	}
	return k.BackendIndex.Put(v.address, n)
}

// forgetBackend takes a number from the index of addresses; another backend of
// the address may take its place.
func (k *kernel) forgetBackend(n uint32, a bpf.Address) error {
	var named uint32
	if err := k.BackendIndex.Lookup(a, &named); err != nil || named != n {
		return nil
	}
	for other := range uint32(bpf.Backends) {
		if b := k.loadBackend(other); b.Service != 0 && b.Address == a {
			return k.BackendIndex.Put(a, other)
		}
	}
	return k.BackendIndex.Delete(a)
}

func (k *kernel) loadBackend(n uint32) (b bpf.Backend) {
	for i, into := 0, asWords(&b); i < len(into); i++ {
		into[i] = k.backends.load(int(n)*backendWords + i)
	}
	return b
}

// storeBackend writes an entry so that no packet uses half of it: expired
// first, valid last.
func (k *kernel) storeBackend(n uint32, b bpf.Backend) {
	const validUntil = int(unsafe.Offsetof(b.ValidUntil) / 8)
	at := int(n) * backendWords
	words := asWords(&b)
	same := true
	for i, word := range words {
		same = same && (i == validUntil || k.backends.load(at+i) == word)
	}
	if !same {
		k.backends.store(at+validUntil, 0)
		for i, word := range words {
			if i != validUntil {
				k.backends.store(at+i, word)
			}
		}
	}
	k.backends.store(at+validUntil, b.ValidUntil)
}

// traffic returns what a backend got, on all CPUs.
func (k *kernel) traffic(n uint32) (sum bpf.Traffic, err error) {
	var perCPU []bpf.Traffic
	if err := k.Traffic.Lookup(n, &perCPU); err != nil {
		return sum, fmt.Errorf("read %s: %w", k.Traffic, err)
	}
	for _, t := range perCPU {
		sum.Add(t)
	}
	return sum, nil
}
