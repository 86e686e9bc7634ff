package l4

import (
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb/bpf"
)

// kernel is the maps and programs of one datapath, as this process holds them.
type kernel struct {
	bpf.Objects
	rows     words // of the rows map, shared with the programs
	node     words
	peers    words
	paths    words // path_mtus
	vipTable words
	backends words
	backend  bool // this host is one of them
	rings    map[uint32]*serviceRing
}

// words is a mapped array, written in whole 64-bit words: a program never sees
// half of one.
type words struct {
	memory []byte
	word   []uint64
	entry  int // words of one
}

func mapWords(m *ebpf.Map) (words, error) {
	size := int(m.MaxEntries() * m.ValueSize())
	memory, err := unix.Mmap(m.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return words{}, fmt.Errorf("mmap %s: %w", m, err)
	}
	return words{memory, unsafe.Slice((*uint64)(unsafe.Pointer(&memory[0])), size/8), int(m.ValueSize()) / 8}, nil
}

func (w words) store(i int, v uint64) { atomic.StoreUint64(&w.word[i], v) }
func (w words) load(i int) uint64     { return atomic.LoadUint64(&w.word[i]) }

func (w words) unmap() error {
	if w.memory == nil {
		return nil
	}
	return unix.Munmap(w.memory)
}

// asWords views a struct of the maps as the words it is stored in.
func asWords[T bpf.Node | bpf.Peer | bpf.VIPEntry | bpf.Backend | bpf.PathMTU](v *T) []uint64 {
	return unsafe.Slice((*uint64)(unsafe.Pointer(v)), unsafe.Sizeof(*v)/8)
}

func (k *kernel) mapMemory() (err error) {
	if k.rows, err = mapWords(k.Rows); err != nil {
		return err
	}
	if k.node, err = mapWords(k.Node); err != nil {
		return err
	}
	if k.peers, err = mapWords(k.Peers); err != nil {
		return err
	}
	if k.paths, err = mapWords(k.PathMtus); err != nil {
		return err
	}
	if k.vipTable, err = mapWords(k.VipTable); err != nil {
		return err
	}
	k.backends, err = mapWords(k.Objects.Backends)
	return err
}

// startClock has the kernel keep the time for the programs from now on.
func (k *kernel) startClock() error {
	failed, err := k.StartClock.Run(&ebpf.RunOptions{Data: make([]byte, 64)})
	if err == nil && failed != 0 {
		err = errors.New("the timer does not start")
	}
	if err != nil {
		return fmt.Errorf("start the programs' clock: %w", err)
	}
	return nil
}

func (k *kernel) close() error {
	return errors.Join(k.rows.unmap(), k.node.unmap(), k.peers.unmap(), k.paths.unmap(), k.vipTable.unmap(), k.closeServices(), k.Objects.Close())
}

// read returns what the maps hold.
func (k *kernel) read() (tables, error) {
	t := newTables(make([]uint64, bpf.Rows))
	for i := range t.rows {
		t.rows[i] = k.rows.load(i * k.rows.entry)
	}
	for i, into := 0, asWords(&t.node); i < len(into); i++ {
		into[i] = k.node.load(i)
	}
	index := map[bpf.Address]uint32{}
	for _, err := range []error{
		readMap(k.PeerIndex, index),
		k.readVIPs(&t),
		readMap(k.Binds, t.binds),
		k.readServices(&t),
		readMap(k.Sources, t.sources),
		k.Limits.Lookup(uint32(0), &t.limits),
	} {
		if err != nil {
			return t, err
		}
	}
	t.peers = inverse(index)
	for i := range uint32(bpf.Slots) {
		var cookie uint64
		if err := k.Slots.Lookup(i, &cookie); err == nil {
			t.slots[i] = cookie
		}
	}
	return t, nil
}

func (k *kernel) readVIPs(t *tables) error {
	for place := range uint32(bpf.VIPBuckets * bpf.VIPBucket) {
		var e bpf.VIPEntry
		for i, into := 0, asWords(&e); i < len(into); i++ {
			into[i] = k.vipTable.load(int(place)*entryWords + i)
		}
		if e.VIP == 0 {
			continue
		}
		var v bpf.VIP
		if err := k.Vips.Lookup(e.VIP, &v); err != nil {
			return fmt.Errorf("read VIP %d of %s: %w", e.VIP, k.Vips, err)
		}
		t.vipTable[place], t.vips[e.VIP] = e, v
	}
	return nil
}

func readMap[K comparable, V any](m *ebpf.Map, into map[K]V) error {
	var k K
	var v V
	it := m.Iterate()
	for it.Next(&k, &v) {
		into[k] = v
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("read %s: %w", m, err)
	}
	return nil
}

// put makes one write of sync.go's, VIP routes excepted. sockets finds a file
// descriptor by its socket's cookie.
func (k *kernel) put(w write, sockets map[uint64]int) error {
	switch w.table {
	case tableRows:
		k.rows.store(int(w.key.(uint32))*k.rows.entry, w.value.(uint64))
	case tableNode:
		k.storeNode(w.value.(bpf.Node))
	case tablePeers:
		k.putPeer(w)
	case tablePeerIndex:
		return putMap(k.PeerIndex, w)
	case tableVIPs:
		if w.value != nil { // a number that nothing names any more may keep its ports
			return k.Vips.Put(w.key, w.value)
		}
	case tableVIPTable:
		k.putVIPEntry(w)
	case tableBinds:
		return putMap(k.Binds, w)
	case tableSlots:
		return k.putSlot(w, sockets)
	case tableLimits:
		return k.Limits.Put(w.key, w.value)
	case tableSources:
		return putMap(k.Sources, w)
	case tableServices:
		return k.putService(w)
	case tableBackends:
		return k.putBackend(w)
	case tableRings:
		return k.putRing(w)
	}
	return nil
}

func (k *kernel) storeNode(n bpf.Node) {
	for i, word := range asWords(&n) {
		k.node.store(i, word)
	}
}

func putMap(m *ebpf.Map, w write) error {
	if w.value != nil {
		return m.Put(w.key, w.value)
	}
	if err := m.Delete(w.key); !errors.Is(err, ebpf.ErrKeyNotExist) {
		return err
	}
	return nil
}

func (k *kernel) putSlot(w write, sockets map[uint64]int) error {
	if w.value != nil {
		return k.Slots.Put(w.key, uint64(sockets[w.value.(uint64)]))
	}
	// The kernel took it out itself when the socket was closed: EINVAL.
	if err := k.Slots.Delete(w.key); !errors.Is(err, ebpf.ErrKeyNotExist) && !errors.Is(err, unix.EINVAL) {
		return err
	}
	return nil
}

const entryWords = int(unsafe.Sizeof(bpf.VIPEntry{}) / 8)

// putVIPEntry makes an entry valid last and invalid first.
func (k *kernel) putVIPEntry(w write) {
	e, _ := w.value.(bpf.VIPEntry)
	at := int(w.key.(uint32)) * entryWords
	words := asWords(&e)
	last := len(words) - 1
	if k.vipTable.load(at) != words[0] || k.vipTable.load(at+1) != words[1] {
		k.vipTable.store(at+last, 0)
	}
	for i, word := range words {
		k.vipTable.store(at+i, word)
	}
}

// putPeer writes a peer whose way is not known yet: the kernel finds it until
// the next refresh.
func (k *kernel) putPeer(w write) {
	p := bpf.Peer{MTU: maxMTU}
	if w.value != nil {
		p.Address = w.value.(bpf.Address)
	}
	k.forgetPath(w.key.(uint32)) // it was of whoever had the index before
	k.storePeer(w.key.(uint32), p)
}

// mendPeers writes the entries that peer_index names and peers lacks: after a
// migration from a layout in which they were of another size. Our own entry has
// no way that a refresh would write, and lists of hops name it.
func (k *kernel) mendPeers(peers map[uint32]bpf.Address) {
	for index, address := range peers {
		at := int(index) * k.peers.entry
		if words := asWords(&bpf.Peer{Address: address}); k.peers.load(at) != words[0] || k.peers.load(at+1) != words[1] {
			k.putPeer(write{tablePeers, index, address})
		}
	}
}

// storePeer writes an entry so that no packet uses half of it: it is marked as
// expired first, and valid last.
func (k *kernel) storePeer(index uint32, p bpf.Peer) {
	const validUntil = int(unsafe.Offsetof(p.ValidUntil) / 8)
	at := int(index) * k.peers.entry
	words := asWords(&p)
	same := true
	for i, word := range words {
		same = same && (i == validUntil || k.peers.load(at+i) == word)
	}
	if !same {
		k.peers.store(at+validUntil, 0)
		for i, word := range words {
			if i != validUntil {
				k.peers.store(at+i, word)
			}
		}
	}
	k.peers.store(at+validUntil, p.ValidUntil)
}

func cookieOf(fd int) (uint64, error) {
	return unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
}

// counters returns the sum over all CPUs of each exit's counter.
func (k *kernel) counters() ([]uint64, error) {
	sums := make([]uint64, len(bpf.Reasons))
	var perCPU []uint64
	for i := range sums {
		if err := k.Counters.Lookup(uint32(i), &perCPU); err != nil {
			return nil, fmt.Errorf("read %s: %w", k.Counters, err)
		}
		for _, n := range perCPU {
			sums[i] += n
		}
	}
	return sums, nil
}

// monotonic is the clock that the programs compare with, in ns.
func monotonic() uint64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &t); err != nil {
		return 0
	}
	return uint64(t.Nano())
}
