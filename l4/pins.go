package l4

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// pins is the directory where the kernel keeps a datapath while no process
// holds it: map_rows, link_xdp_eth0 and so on.
type pins struct{ dir string }

// pinsIn are those of this build's layout of the maps: another one has another
// directory.
func pinsIn(base string) pins { return pins{filepath.Join(base, thisLayout())} }

var thisLayout = sync.OnceValue(layoutOfSpec)

func layoutOfSpec() string {
	spec, err := ownSpec()
	if err != nil {
		return generation // nothing will load, either
	}
	return layout(spec)
}

func (p pins) mapPath(name string) string { return filepath.Join(p.dir, "map_"+name) }

// linkPath of "xdp", "eth0". bpffs takes no dots and interfaces have no colons.
func (p pins) linkPath(kind, name string) string {
	return filepath.Join(p.dir, "link_"+kind+"_"+strings.ReplaceAll(name, ".", ":"))
}

// links returns the pinned links of a kind: interface name to path.
func (p pins) links(kind string) map[string]string {
	found := map[string]string{}
	paths, _ := filepath.Glob(p.linkPath(kind, "*"))
	for _, path := range paths {
		name := strings.TrimPrefix(filepath.Base(path), "link_"+kind+"_")
		found[strings.ReplaceAll(name, ":", ".")] = path
	}
	return found
}

// bpffsRoot is where bpffs belongs.
const bpffsRoot = "/sys/fs/bpf"

// open makes the directory, on a bpffs that it mounts when there is none.
func (p pins) open() error {
	root := bpffsRoot
	if !strings.HasPrefix(p.dir, bpffsRoot+"/") {
		root = filepath.Dir(p.dir)
		if err := os.MkdirAll(root, 0o700); err != nil {
			return fmt.Errorf("make the pins' directory: %w", err)
		}
	}
	if !onBPFFS(root) {
		if err := unix.Mount("bpf", root, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
			return fmt.Errorf("mount bpffs for the pins (mount -t bpf bpf %s): %w", root, err)
		}
	}
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return fmt.Errorf("make the pins' directory: %w", err)
	}
	if !onBPFFS(p.dir) {
		return fmt.Errorf("%s is not on a bpffs", p.dir)
	}
	return nil
}

func onBPFFS(path string) bool {
	var s unix.Statfs_t
	return unix.Statfs(path, &s) == nil && s.Type == unix.BPF_FS_MAGIC
}

// load loads the programs round the maps that are pinned, and pins the others.
// It reports whether there were pinned maps.
func (p pins) load() (*kernel, bool, error) {
	spec, err := ownSpec()
	if err != nil {
		return nil, false, err
	}
	pinned, err := p.maps(spec)
	defer func() {
		for _, m := range pinned {
			m.Close()
		}
	}()
	if err != nil {
		return nil, false, err
	}
	k := new(kernel)
	if err := spec.LoadAndAssign(&k.Objects, &ebpf.CollectionOptions{MapReplacements: pinned}); err != nil {
		return nil, false, fmt.Errorf("load the programs: %w", err)
	}
	if err := p.pinMaps(k, pinned); err != nil {
		k.close()
		return nil, false, err
	}
	if err := errors.Join(k.mapMemory(), k.startClock()); err != nil {
		k.close()
		return nil, false, err
	}
	return k, len(pinned) > 0, nil
}

// maps returns the pinned maps, which must be as our programs want them.
func (p pins) maps(spec *ebpf.CollectionSpec) (map[string]*ebpf.Map, error) {
	pinned := map[string]*ebpf.Map{}
	for name, s := range spec.Maps {
		m, err := ebpf.LoadPinnedMap(p.mapPath(name), nil)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return pinned, fmt.Errorf("open the pinned map %s: %w", p.mapPath(name), err)
		}
		pinned[name] = m
		if err := s.Compatible(m); err != nil {
			return pinned, fmt.Errorf("the map pinned as %s is of another build of lbd (remove it with lbd detach): %w", p.mapPath(name), err)
		}
	}
	return pinned, nil
}

func (p pins) pinMaps(k *kernel, pinned map[string]*ebpf.Map) error {
	for name, m := range k.maps() {
		if pinned[name] != nil {
			continue
		}
		if err := m.Pin(p.mapPath(name)); err != nil {
			return fmt.Errorf("pin the map %s: %w", p.mapPath(name), err)
		}
	}
	return nil
}

func (k *kernel) maps() map[string]*ebpf.Map {
	return map[string]*ebpf.Map{
		tableNode: k.Node, tableRows: k.Rows, tablePeers: k.Peers, tablePeerIndex: k.PeerIndex,
		tableVIPs: k.Vips, tableVIPTable: k.VipTable, tableBinds: k.Binds, tableSlots: k.Slots,
		"counters": k.Counters, "clock": k.Clock, "scratch": k.Scratch,
		tableServices: k.Services, tableBackends: k.Objects.Backends, tableRings: k.Objects.Rings, tableSources: k.Sources, tableLimits: k.Limits, "senders": k.Senders, "told": k.Told,
		"backend_index": k.BackendIndex, "flows": k.Flows, "traffic": k.Traffic,
		"path_mtus": k.PathMtus, "parts": k.Parts, "pulse": k.Pulse, "doubt": k.Doubt, "allowance": k.Allowance,
		"sight": k.Sight, "shown": k.Shown, "filter": k.Filter, "drops": k.Drops, "sights": k.Sights,
	}
}

// remove detaches the programs and unpins everything; maps go with the last
// program.
func (p pins) remove() error {
	links, _ := filepath.Glob(filepath.Join(p.dir, "link_*"))
	maps, _ := filepath.Glob(filepath.Join(p.dir, "map_*"))
	var errs []error
	for _, path := range links {
		errs = append(errs, detachPinned(path))
	}
	for _, path := range maps {
		errs = append(errs, os.Remove(path))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("unpin: %w", err)
	}
	if err := os.Remove(p.dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the pins' directory: %w", err)
	}
	return nil
}
