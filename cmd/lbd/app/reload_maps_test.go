package app

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
)

// entries counts what is in each pinned map whose entries come and go, and the
// buckets of the table of VIPs, an array, that are in use.
func (f *field) entries() map[string]int {
	f.t.Helper()
	all := map[string]int{}
	f.check(filepath.WalkDir(f.dir+"/bpf/edge", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		m, err := ebpf.LoadPinnedMap(path, nil)
		if err != nil {
			return nil // a link or a program
		}
		defer m.Close()
		name := filepath.Base(path)
		switch m.Type() {
		case ebpf.Hash, ebpf.LRUHash, ebpf.LPMTrie:
		case ebpf.SockMap: // its keys are all that there could be
			for slot := range m.MaxEntries() {
				var cookie uint64
				if m.Lookup(slot, &cookie) == nil {
					all[name]++
				}
			}
			return nil
		case ebpf.Array:
			if name != "map_vip_table" {
				return nil
			}
		default:
			return nil
		}
		key, err := m.NextKeyBytes(nil)
		for ; err == nil && key != nil; key, err = m.NextKeyBytes(key) {
			value, err := m.LookupBytes(key)
			if err != nil {
				return err
			}
			if m.Type() != ebpf.Array || bytes.Trim(value, "\x00") != nil {
				all[name]++
			}
		}
		return err
	}))
	return all
}

// Services and backends that reloads bring and take are in no map any more.
func TestReloadsLeaveNothingInMaps(t *testing.T) {
	f := newField(t)
	f.startEdge()
	before := f.entries()
	if len(before) < 3 {
		t.Fatalf("entries in %v only", before)
	}
	reload := func() {
		if err := f.site.order("POST", "/v1/config/reload", ""); err != nil {
			t.Fatal(err)
		}
	}
	all := fieldServices()
	half, other := all[:len(all)/2], 0
	for n := range *reloads {
		f.configureServices(half, 1000+n)
		reload()
		if n%10 == 0 && !maps.Equal(f.entries(), before) {
			other++
		}
	}
	if other == 0 {
		t.Error("half of the services have as many entries as all")
	}
	f.configureServices(all, 7)
	reload()
	f.until("the maps hold what they held", func() bool { return maps.Equal(f.entries(), before) })
	var text []string
	for name, n := range before {
		text = append(text, fmt.Sprintf("%s %d", name, n))
	}
	t.Logf("%d reloads; entries: %s", *reloads, strings.Join(text, ", "))
}
