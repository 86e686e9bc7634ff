package l4

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/cirque-lb/lb/bpf"
)

// tables is what the kernel holds, or what it should hold.
type tables struct {
	node     bpf.Node
	rows     []uint64
	peers    map[uint32]bpf.Address  // local index to address; the ways there are not part of it
	vips     map[uint32]bpf.VIP      // by number
	vipTable map[uint32]bpf.VIPEntry // by place
	binds    map[bpf.BindKey]bpf.Bind
	slots    map[uint32]uint64   // index to socket cookie
	routes   map[netip.Addr]bool // VIPs that are local on lo

	services map[uint32]bpf.Service // by number
	backends map[uint32]backend     // by number
	rings    map[uint32][]uint64    // by the service's number
	sources  map[bpf.SourceKey]bpf.Source
	limits   bpf.Limits
}

// newTables returns empty tables with these rows.
func newTables(rows []uint64) tables {
	return tables{
		rows:     rows,
		peers:    map[uint32]bpf.Address{},
		vips:     map[uint32]bpf.VIP{},
		vipTable: map[uint32]bpf.VIPEntry{},
		binds:    map[bpf.BindKey]bpf.Bind{},
		slots:    map[uint32]uint64{},
		routes:   map[netip.Addr]bool{},
		services: map[uint32]bpf.Service{},
		backends: map[uint32]backend{},
		rings:    map[uint32][]uint64{},
		sources:  map[bpf.SourceKey]bpf.Source{},
	}
}

// A write is one change of a table. A nil value deletes.
type write struct {
	table      string
	key, value any
}

func (w write) String() string {
	if w.value == nil {
		return fmt.Sprintf("delete %v from %s", w.key, w.table)
	}
	return fmt.Sprintf("write %v of %s", w.key, w.table)
}

// The tables' names in a write, as the maps' names are.
const (
	tableNode      = "node"
	tableRows      = "rows"
	tablePeers     = "peers"
	tablePeerIndex = "peer_index"
	tableVIPs      = "vips"
	tableVIPTable  = "vip_table"
	tableBinds     = "binds"
	tableSlots     = "slots"
	tableRoutes    = "routes"
	tableServices  = "services"
	tableBackends  = "backends"
	tableRings     = "rings"
	tableSources   = "sources"
	tableLimits    = "limits"
)

// diff lists the writes that turn have into want.
//
// Invariant: after each single write every name that a packet can meet has its
// target. So targets come before what names them, from the listening sockets
// to the VIP addresses that let packets in, and go in the opposite order.
func diff(have, want tables) (w []write) {
	w = puts(w, tableSlots, have.slots, want.slots, cmp.Compare)
	w = puts(w, tableBinds, have.binds, want.binds, compareBinds)
	w = puts(w, tablePeers, have.peers, want.peers, cmp.Compare)
	w = puts(w, tablePeerIndex, inverse(have.peers), inverse(want.peers), bpf.Address.Compare)
	if have.node != want.node {
		w = append(w, write{tableNode, uint32(0), want.node})
	}
	for row, owners := range want.rows {
		if have.rows[row] != owners {
			w = append(w, write{tableRows, uint32(row), owners})
		}
	}
	if have.limits != want.limits {
		w = append(w, write{tableLimits, uint32(0), want.limits})
	}
	w = puts(w, tableSources, have.sources, want.sources, compareSources)
	w = puts(w, tableBackends, have.backends, want.backends, cmp.Compare)
	w = turns(w, have.rings, want.rings)
	w = puts(w, tableServices, have.services, want.services, cmp.Compare)
	w = puts(w, tableRoutes, have.routes, want.routes, netip.Addr.Compare)
	w = puts(w, tableVIPs, have.vips, want.vips, cmp.Compare)
	w = puts(w, tableVIPTable, have.vipTable, want.vipTable, cmp.Compare)

	w = deletes(w, tableVIPTable, have.vipTable, want.vipTable, cmp.Compare)
	w = deletes(w, tableVIPs, have.vips, want.vips, cmp.Compare)
	w = deletes(w, tableRoutes, have.routes, want.routes, netip.Addr.Compare)
	w = deletes(w, tableSources, have.sources, want.sources, compareSources)
	w = deletes(w, tableServices, have.services, want.services, cmp.Compare)
	w = deletes(w, tableRings, have.rings, want.rings, cmp.Compare)
	w = deletes(w, tableBackends, have.backends, want.backends, cmp.Compare)
	w = deletes(w, tablePeerIndex, inverse(have.peers), inverse(want.peers), bpf.Address.Compare)
	w = deletes(w, tablePeers, have.peers, want.peers, cmp.Compare)
	w = deletes(w, tableBinds, have.binds, want.binds, compareBinds)
	return deletes(w, tableSlots, have.slots, want.slots, cmp.Compare)
}

// puts appends a write for each entry that is new or has changed, by key.
func puts[K comparable, V comparable](w []write, table string, have, want map[K]V, order func(a, b K) int) []write {
	for _, k := range slices.SortedFunc(maps.Keys(want), order) {
		if v, ok := have[k]; !ok || v != want[k] {
			w = append(w, write{table, k, want[k]})
		}
	}
	return w
}

// turns appends a write for each ring that is new or has changed.
func turns(w []write, have, want map[uint32][]uint64) []write {
	for _, service := range slices.Sorted(maps.Keys(want)) {
		if ring := want[service]; !slices.Equal(have[service], ring) {
			w = append(w, write{tableRings, service, ring})
		}
	}
	return w
}

func deletes[K comparable, V any](w []write, table string, have, want map[K]V, order func(a, b K) int) []write {
	for _, k := range slices.SortedFunc(maps.Keys(have), order) {
		if _, ok := want[k]; !ok {
			w = append(w, write{table, k, nil})
		}
	}
	return w
}

// record notes in t that a write was made.
func (t *tables) record(w write) {
	switch w.table {
	case tableNode:
		t.node = w.value.(bpf.Node)
	case tableRows:
		t.rows[w.key.(uint32)] = w.value.(uint64)
	case tablePeers:
		recordIn(t.peers, w)
	case tableVIPs:
		recordIn(t.vips, w)
	case tableVIPTable:
		recordIn(t.vipTable, w)
	case tableBinds:
		recordIn(t.binds, w)
	case tableSlots:
		recordIn(t.slots, w)
	case tableRoutes:
		recordIn(t.routes, w)
	case tableLimits:
		t.limits = w.value.(bpf.Limits)
	case tableSources:
		recordIn(t.sources, w)
	case tableServices:
		recordIn(t.services, w)
	case tableBackends:
		recordIn(t.backends, w)
	case tableRings:
		recordIn(t.rings, w)
	}
}

func recordIn[K comparable, V any](m map[K]V, w write) {
	if w.value == nil {
		delete(m, w.key.(K))
	} else {
		m[w.key.(K)] = w.value.(V)
	}
}

func inverse[K, V comparable](m map[K]V) map[V]K {
	out := make(map[V]K, len(m))
	for k, v := range m {
		out[v] = k
	}
	return out
}

func compareBinds(a, b bpf.BindKey) int {
	return cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
}
