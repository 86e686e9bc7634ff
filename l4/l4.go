// Package l4 makes the kernel say what the configuration says: it loads the
// XDP and sk_lookup programs of package bpf, attaches and pins them, and turns
// an lb.Steering into the contents of their maps.
//
// It promises that applying the same Steering twice writes nothing the second
// time, that a target exists before anything names it, and that the packets go
// on when this process dies: what is pinned stays until Detach. Without root,
// BPF or XDP a Datapath still opens; its Report says what is missing and why.
//
// All methods may be called concurrently. Start at Open, then Apply.
package l4

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf/ringbuf"
	"github.com/cilium/ebpf/rlimit"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/bpf"
)

// Options says where and how the datapath runs.
type Options struct {
	Mode       lb.FastpathMode // "" is auto
	Required   bool            // Open fails when an interface cannot be served as asked
	Interfaces []string        // where XDP attaches; none: sk_lookup only
	Pins       string          // a directory on bpffs; v1 is made below it
	Address    netip.Addr      // the node's address, where peers send encapsulated packets
	RunDir     string          // keeps the boot id; on tmpfs
	Log        *slog.Logger    // nil: slog.Default()
	Note       func(lb.Event)  // told of dropped packets, a sample of each reason; nil: nobody
	Backend    bool            // not a node, but a backend of nodes: packets are taken out of their encapsulation here
}

// Datapath is the kernel half of a node.
type Datapath struct {
	options Options
	boot    lb.BootID
	network *netlink.Handle // sees the network namespace that Open was called in
	kernel  *kernel         // nil: fastpath off, or it did not load
	attach  *attacher
	arp     arp
	stop    chan struct{}   // closed by Close: ends runWays
	hurry   chan struct{}   // some peer's way is not known: runWays looks again soon
	prober  *prober         // nil: peers are not asked whether they live
	diag    *diag           // nil: the kernel does not list its sockets
	drops   *ringbuf.Reader // nil: nobody is told of dropped packets

	capturing sync.Mutex // held by the one Capture

	destroyed atomic.Uint64 // connections, by Destroy
	done      sync.WaitGroup

	closed   sync.Once
	closeErr error

	mu        sync.Mutex // guards the rest
	report    Report
	planner   planner
	migration *migration // nil: no other layout is in use
	routes    *vipRoutes
	have      tables
	steering  lb.Steering
	derived   *derivation     // of the steering
	writes    int             // made by the last Apply
	unknown   map[string]bool // peers without a way, in words
	slow      map[string]bool // peers that only the kernel can send to, or through a narrow way, in words
	mss       int             // that VIPs' listening sockets are limited to; 0: not
	fabric    int             // the smallest MTU of the ways to peers; 0: no peers
	trouble   []string        // what the last Apply could not do and need not
	down      []netip.Addr    // peers that do not answer for a moment
	silent    []netip.Addr    // peers that do not answer for longer

	unsettled unsettled
	turned    map[uint32]time.Time // when a service's ring last changed, until it is settled
}

// Open loads or adopts the programs, maps and links. An interface that cannot
// be served is in the Report, and an error only when Options.Required.
func Open(o Options) (*Datapath, error) {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Mode == "" {
		o.Mode = lb.FastpathAuto
	}
	boot, err := bootID(o.RunDir)
	if err != nil {
		return nil, err
	}
	d := &Datapath{
		options: o,
		boot:    boot,
		arp:     newARP(o.Interfaces, o.RunDir),
		stop:    make(chan struct{}),
		hurry:   make(chan struct{}, 1),
		planner: planner{address: o.Address.Unmap(), owners: map[uint64][]int16{}, cookie: cookieOf},
		have:    newTables(make([]uint64, lb.Rows)),
		unknown: map[string]bool{},
		slow:    map[string]bool{},
		turned:  map[uint32]time.Time{},
	}
	if err := d.open(); err != nil {
		if d.attach != nil && !d.report.Adopted {
			err = errors.Join(err, d.attach.pins.remove()) // leave nothing half made
		}
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

func (d *Datapath) open() (err error) {
	if d.network, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	if d.routes, err = newVIPRoutes(d.network, d.options); err != nil {
		return err
	}
	if why := d.load(); why != "" {
		d.without(why)
	} else {
		d.attachAll()
		d.done.Go(d.runWays)
		d.probe()
	}
	if d.have.routes, err = d.routes.list(); err != nil {
		return err
	}
	if d.options.Required {
		return d.required()
	}
	return nil
}

// probe begins to ask peers whether they live; none is suspected without.
func (d *Datapath) probe() {
	var err error
	if d.prober, err = newProber(d.planner.address); err != nil {
		d.options.Log.Debug("peers are not asked whether they live", "err", err)
	} else {
		d.done.Go(d.prober.runAnswers)
	}
	d.done.Go(d.runProbes)
	if d.diag, err = newDiag(); err != nil {
		d.options.Log.Debug("connections are not counted", "err", err)
	}
}

// load brings programs and maps into the kernel; it says why it could not.
func (d *Datapath) load() (why string) {
	if d.options.Mode == lb.FastpathOff {
		return "fastpath.mode is off"
	}
	_ = rlimit.RemoveMemlock() // needed before 5.11 only; loading says if it was
	p := pinsIn(d.options.Pins)
	if err := p.open(); err != nil {
		return err.Error()
	}
	k, adopted, err := p.load()
	if err != nil {
		return err.Error()
	}
	if d.migration, err = p.migrationTo(k); err == nil {
		err = d.migration.begin(k)
	}
	if err == nil {
		d.have, err = k.read()
	}
	if err == nil {
		k.mendPeers(d.have.peers)
	}
	if err != nil {
		d.migration.close()
		d.migration = nil
		k.close()
		return err.Error()
	}
	if d.have.node.Flags&bpf.NodeCaptured != 0 { // whoever captured died
		d.have.node.Flags &^= bpf.NodeCaptured
		k.storeNode(d.have.node)
	}
	k.backend = d.options.Backend
	d.kernel, d.report.Adopted = k, adopted
	d.attach = newAttacher(p, d.network)
	return ""
}

// migrate takes the places of another layout's programs, once the maps say
// what theirs did.
func (d *Datapath) migrate() {
	if d.migration == nil {
		return
	}
	err := d.migration.finish(d.kernel)
	if err == nil {
		err = d.migration.take(d.attach.pins, d.kernel.program)
	}
	if err != nil {
		d.tolerate(fmt.Errorf("take over from %s: %w", d.migration.from.dir, err))
		return
	}
	d.tolerate(d.migration.end())
	d.options.Log.Info("the datapath has another layout", "from", d.migration.from.dir, "to", d.attach.pins.dir)
	d.migration = nil
	d.attachAll()
}

// without reports that the kernel does it alone.
func (d *Datapath) without(why string) {
	for _, name := range d.options.Interfaces {
		d.report.Interfaces = append(d.report.Interfaces, InterfaceReport{name, lb.FastpathOff, why})
	}
	d.report.Sockets = SocketReport{Why: why}
}

func (d *Datapath) attachAll() {
	d.report.Interfaces = nil
	if d.migration != nil { // Apply replaces what is attached
		d.report.Sockets = SocketReport{Steered: true}
		for _, name := range d.options.Interfaces {
			d.report.Interfaces = append(d.report.Interfaces, d.attach.attached(name))
		}
		return
	}
	if d.options.Backend {
		d.report.Sockets = SocketReport{Why: "a backend's sockets are its own"}
	} else if err := d.attach.sockets(d.kernel.SteerSocket); err != nil {
		d.report.Sockets = SocketReport{Why: err.Error()}
	} else {
		d.report.Sockets = SocketReport{Steered: true}
	}
	if err := d.attach.leave(d.options.Interfaces); err != nil {
		d.report.Problems = append(d.report.Problems, err.Error())
	}
	for _, name := range d.options.Interfaces {
		r := d.attach.packets(name, d.options.Mode, d.kernel.packets(), d.kernel.FindNeighbour)
		d.report.Interfaces = append(d.report.Interfaces, r)
	}
}

func (d *Datapath) required() error {
	var errs []error
	for _, i := range d.report.Interfaces {
		if i.Mode == lb.FastpathOff {
			errs = append(errs, fmt.Errorf("fastpath is required, but not possible on %s: %s", i.Name, i.Why))
		}
	}
	if !d.report.Sockets.Steered && !d.options.Backend {
		errs = append(errs, fmt.Errorf("fastpath is required, but sk_lookup is not possible: %s", d.report.Sockets.Why))
	}
	return errors.Join(errs...)
}

// bootID reads the boot id of runDir, or makes it.
func bootID(runDir string) (id lb.BootID, err error) {
	rand.Read(id[:])
	if runDir == "" {
		return id, nil
	}
	if err := os.MkdirAll(runDir, 0o755); err != nil {
		return id, fmt.Errorf("make the run directory: %w", err)
	}
	path := filepath.Join(runDir, "boot-id")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err == nil {
		_, err = fmt.Fprintf(f, "%x\n", id)
		return id, errors.Join(err, f.Close())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return id, fmt.Errorf("read the boot id: %w", err)
	}
	if n, err := hex.Decode(id[:], bytes.TrimSpace(text)); err != nil || n != len(id) {
		return id, fmt.Errorf("%s holds no boot id; remove it", path)
	}
	return id, nil
}

// Boot is this datapath's boot id.
func (d *Datapath) Boot() lb.BootID { return d.boot }

// Apply makes the kernel say s. It stops at the first error and may then be
// called again: what was written stays and counts as written.
func (d *Datapath) Apply(s lb.Steering) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	want, err := d.planner.plan(s, d.have)
	if err != nil {
		return fmt.Errorf("plan the datapath: %w", err)
	}
	d.writes, d.trouble = 0, d.planner.misplaced(s)
	if want.node.View != d.have.node.View {
		d.unsettled.renew(&want.node, monotonic())
	}
	if len(want.routes) > 0 {
		d.tolerate(d.arp.set())
	}
	sockets, err := socketsByCookie(s.Binds)
	if err != nil {
		return err
	}
	for _, w := range diff(d.have, want) {
		if err := d.put(w, sockets); err != nil {
			return fmt.Errorf("%s: %w", w, err)
		}
		d.have.record(w)
		d.noteTurn(w)
		d.writes++
	}
	if len(want.routes) == 0 {
		d.tolerate(d.arp.restore())
	}
	d.steering, d.derived = s, d.planner.last
	d.prober.follow(d.probed(), s.Tags, binary.BigEndian.Uint16(want.node.View[:]))
	if !d.refreshWays() {
		select {
		case d.hurry <- struct{}{}:
		default: // it knows already
		}
	}
	d.migrate()
	d.watchDrops()
	return d.limitSegments()
}

func (d *Datapath) put(w write, sockets map[uint64]int) error {
	if w.table == tableRoutes {
		return d.putRoute(w)
	}
	if d.kernel == nil {
		return nil
	}
	return d.kernel.put(w, sockets)
}

// putRoute is allowed to fail where there is no fast path: without privileges
// an operator may have made the VIP local.
func (d *Datapath) putRoute(w write) error {
	vip := w.key.(netip.Addr)
	err := d.routes.remove(vip)
	if w.value != nil {
		err = d.routes.put(vip)
	}
	if d.kernel == nil {
		d.tolerate(err)
		return nil
	}
	return err
}

func (d *Datapath) tolerate(err error) {
	if err != nil {
		d.trouble = append(d.trouble, err.Error())
	}
}

func socketsByCookie(binds []lb.SteeredBind) (map[uint64]int, error) {
	sockets := map[uint64]int{}
	for _, b := range binds {
		for i, fd := range b.Sockets {
			if fd < 0 {
				continue
			}
			cookie, err := cookieOf(fd)
			if err != nil {
				return nil, fmt.Errorf("identify the listening socket of slot %d of %s: %w", i, b.Bind, err)
			}
			sockets[cookie] = fd
		}
	}
	return sockets, nil
}

// Close releases what this process holds; once is enough. Pins, links, maps, VIP routes and
// sysctls stay, so packets go on.
func (d *Datapath) Close() error {
	d.closed.Do(func() { d.closeErr = d.close() })
	return d.closeErr
}

func (d *Datapath) close() error {
	close(d.stop)
	errs := []error{d.prober.close()}
	d.mu.Lock()
	if d.drops != nil {
		errs = append(errs, d.drops.Close())
	}
	d.mu.Unlock()
	d.done.Wait()
	d.migration.close()
	errs = append(errs, d.diag.close())
	if d.attach != nil {
		errs = append(errs, d.attach.close())
	}
	if d.kernel != nil {
		errs = append(errs, d.kernel.close())
	}
	if d.network != nil {
		d.network.Close()
	}
	return errors.Join(errs...)
}

// Detach removes everything that a Datapath with these options left in the
// kernel: links, maps, VIP routes, sysctls.
func Detach(o Options) error {
	network, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer network.Close()
	routes, err := newVIPRoutes(network, o)
	if err != nil {
		return err
	}
	vips, err := routes.list()
	errs := []error{pinsIn(o.Pins).remove(), err}
	inUse, idle := pinsIn(o.Pins).others()
	for _, p := range slices.Concat(inUse, idle) {
		errs = append(errs, p.remove())
	}
	for dir := o.Pins; onBPFFS(dir) && dir != bpffsRoot; dir = filepath.Dir(dir) {
		if os.Remove(dir) != nil {
			break // another node's pins are there, or it is where bpffs is mounted
		}
	}
	for vip := range vips {
		errs = append(errs, routes.remove(vip))
	}
	return errors.Join(append(errs, newARP(o.Interfaces, o.RunDir).restore())...)
}
