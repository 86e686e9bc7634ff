package l4

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb"
)

// An attacher brings programs to their places. Each place keeps its link in a
// pin, so that the program outlives this process and the next one finds it.
type attacher struct {
	pins      pins
	network   *netlink.Handle
	namespace uint32               // inode of the network namespace that it is for
	links     map[string]link.Link // by pin; held until close, the pins hold them, too
	tried     map[string]attempt   // by the interface's name
}

// attempt is the interface that packets found.
type attempt struct {
	ifindex int  // 0: none
	foreign bool // somebody else's program was there
}

func newAttacher(p pins, network *netlink.Handle) *attacher {
	return &attacher{pins: p, network: network, namespace: currentNamespace(), links: map[string]link.Link{}, tried: map[string]attempt{}}
}

// hold keeps a link in place of an earlier one of that pin.
func (a *attacher) hold(path string, l link.Link) {
	if before := a.links[path]; before != nil {
		before.Close() // of an interface that is gone
	}
	a.links[path] = l
}

// changed reports whether an interface is another one than packets found, or
// has no program any more, or no more somebody else's.
func (a *attacher) changed(was InterfaceReport) bool {
	last := a.tried[was.Name]
	iface, err := a.network.LinkByName(was.Name)
	if err != nil {
		return last.ifindex != 0
	}
	bare := attachedMode(iface.Attrs()) == lb.FastpathOff
	return iface.Attrs().Index != last.ifindex || bare && (last.foreign || was.Mode != lb.FastpathOff)
}

// packets attaches the XDP program to an interface as well as mode allows. An
// own program that runs there already is replaced in place.
func (a *attacher) packets(name string, mode lb.FastpathMode, program, neighbour *ebpf.Program) InterfaceReport {
	report := InterfaceReport{Name: name, Mode: lb.FastpathOff}
	iface, err := a.network.LinkByName(name)
	if err != nil {
		report.Why = fmt.Sprintf("find the interface: %v", err)
		a.tried[name] = attempt{}
		return report
	}
	a.tried[name] = attempt{ifindex: iface.Attrs().Index}
	report.Mode, report.Why = a.adopt(iface, mode, program)
	if report.Mode == lb.FastpathOff {
		report.Mode, report.Why = a.attach(iface, mode, program)
	}
	if report.Mode == lb.FastpathOff {
		return report
	}
	if err := a.neighbours(iface, neighbour); err != nil {
		report.Why = join(report.Why, fmt.Sprintf("frames to peers with an unknown MAC address need ip_forward: %v", err))
	}
	return report
}

// attached says how XDP runs there now, whoever attached it.
func (a *attacher) attached(name string) InterfaceReport {
	iface, err := a.network.LinkByName(name)
	if err != nil {
		return InterfaceReport{name, lb.FastpathOff, fmt.Sprintf("find the interface: %v", err)}
	}
	return InterfaceReport{name, attachedMode(iface.Attrs()), "by another version of lbd, until this one knows what to steer"}
}

// adopt takes over the link that an earlier lbd pinned, if it is of use: of
// this interface and of an allowed mode. Otherwise it goes.
func (a *attacher) adopt(iface netlink.Link, mode lb.FastpathMode, program *ebpf.Program) (lb.FastpathMode, string) {
	attrs := iface.Attrs()
	path := a.pins.linkPath("xdp", attrs.Name)
	l, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		return lb.FastpathOff, ""
	}
	have := attachedMode(attrs)
	info, err := l.Info()
	useful := err == nil && info.XDP() != nil && int(info.XDP().Ifindex) == attrs.Index &&
		(mode == have || mode == lb.FastpathAuto && have != lb.FastpathOff)
	if useful {
		err = replace(l, info.Program, program)
		useful = err == nil
	}
	if !useful {
		detach(l, path)
		if err := a.refresh(iface); err != nil {
			return lb.FastpathOff, err.Error()
		}
		return lb.FastpathOff, ""
	}
	a.hold(path, l)
	if have == lb.FastpathGeneric && mode == lb.FastpathAuto {
		return have, "adopted as it was attached"
	}
	return have, ""
}

// refresh reads the interface's attributes again.
func (a *attacher) refresh(iface netlink.Link) error {
	again, err := a.network.LinkByIndex(iface.Attrs().Index)
	if err == nil {
		*iface.Attrs() = *again.Attrs()
	}
	return err
}

// replace puts the program into the link, unless it is the one there.
func replace(l link.Link, old ebpf.ProgramID, program *ebpf.Program) error {
	if p, err := ebpf.NewProgramFromID(old); err == nil {
		defer p.Close()
		if same(p, program) {
			return nil
		}
	}
	return l.Update(program)
}

// same reports whether both programs do the same, by the kernel's digest, with
// the same maps.
func same(a, b *ebpf.Program) bool {
	x, err := a.Info()
	if err != nil {
		return false
	}
	y, err := b.Info()
	if err != nil || x.Tag != y.Tag {
		return false
	}
	maps, _ := x.MapIDs()
	others, _ := y.MapIDs()
	slices.Sort(maps)
	slices.Sort(others)
	return slices.Equal(maps, others)
}

func (a *attacher) attach(iface netlink.Link, mode lb.FastpathMode, program *ebpf.Program) (lb.FastpathMode, string) {
	if other := otherProgram(iface.Attrs()); other != "" {
		a.tried[iface.Attrs().Name] = attempt{iface.Attrs().Index, true}
		return lb.FastpathOff, other
	}
	var why []string
	for _, m := range candidates(mode) {
		flags := link.XDPDriverMode
		if m == lb.FastpathGeneric {
			flags = link.XDPGenericMode
		}
		l, err := link.AttachXDP(link.XDPOptions{Program: program, Interface: iface.Attrs().Index, Flags: flags})
		if err != nil {
			why = append(why, fmt.Sprintf("%s: %v", m, err))
			continue
		}
		if err := a.pin(l, a.pins.linkPath("xdp", iface.Attrs().Name)); err != nil {
			why = append(why, err.Error())
			continue
		}
		if m == lb.FastpathGeneric && mode == lb.FastpathGeneric {
			why = append(why, "asked for by fastpath.mode")
		}
		return m, strings.Join(why, "; ")
	}
	return lb.FastpathOff, strings.Join(why, "; ")
}

// candidates are the modes to try, best first.
func candidates(mode lb.FastpathMode) []lb.FastpathMode {
	if mode == lb.FastpathAuto {
		return []lb.FastpathMode{lb.FastpathNative, lb.FastpathGeneric}
	}
	return []lb.FastpathMode{mode}
}

// attachedMode is how XDP runs on an interface; off when it does not.
func attachedMode(attrs *netlink.LinkAttrs) lb.FastpathMode {
	const driver, generic = 1, 2 // XDP_ATTACHED_DRV, XDP_ATTACHED_SKB
	if attrs.Xdp == nil || !attrs.Xdp.Attached {
		return lb.FastpathOff
	}
	switch attrs.Xdp.AttachMode {
	case driver:
		return lb.FastpathNative
	case generic:
		return lb.FastpathGeneric
	}
	return lb.FastpathOff
}

// otherProgram names the XDP program that somebody else attached; "": none.
func otherProgram(attrs *netlink.LinkAttrs) string {
	if attrs.Xdp == nil || !attrs.Xdp.Attached {
		return ""
	}
	name := "unknown"
	if p, err := ebpf.NewProgramFromID(ebpf.ProgramID(attrs.Xdp.ProgId)); err == nil {
		defer p.Close()
		if info, err := p.Info(); err == nil {
			name = info.Name
		}
	}
	return fmt.Sprintf("another XDP program is attached: %s (id %d); remove it with: ip link set dev %s xdp off",
		name, attrs.Xdp.ProgId, attrs.Name)
}

// neighbours attaches the program that has the kernel find MAC addresses.
func (a *attacher) neighbours(iface netlink.Link, program *ebpf.Program) error {
	path := a.pins.linkPath("tcx", iface.Attrs().Name)
	if l, err := link.LoadPinnedLink(path, nil); err == nil {
		info, err := l.Info()
		if err == nil && info.TCX() != nil && int(info.TCX().Ifindex) == iface.Attrs().Index &&
			replace(l, info.Program, program) == nil {
			a.hold(path, l)
			return nil
		}
		detach(l, path)
	}
	l, err := link.AttachTCX(link.TCXOptions{Program: program, Interface: iface.Attrs().Index, Attach: ebpf.AttachTCXIngress})
	if err != nil {
		return fmt.Errorf("attach to TC: %w", err)
	}
	return a.pin(l, path)
}

// sockets attaches the sk_lookup program to this network namespace.
func (a *attacher) sockets(program *ebpf.Program) error {
	ns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return fmt.Errorf("open the network namespace: %w", err)
	}
	defer ns.Close()
	path := a.pins.linkPath("sk", "lookup")
	if l, err := link.LoadPinnedLink(path, nil); err == nil {
		info, err := l.Info()
		if err == nil && info.NetNs() != nil && info.NetNs().NetnsInode == inode(ns) &&
			replace(l, info.Program, program) == nil {
			a.hold(path, l)
			return nil
		}
		detach(l, path)
	}
	l, err := link.AttachNetNs(int(ns.Fd()), program)
	if err != nil {
		return fmt.Errorf("attach sk_lookup: %w", err)
	}
	return a.pin(l, path)
}

func (a *attacher) pin(l link.Link, path string) error {
	if err := l.Pin(path); err != nil {
		l.Close()
		return fmt.Errorf("pin the link: %w", err)
	}
	a.hold(path, l)
	return nil
}

// leave detaches the interfaces that are configured no more.
func (a *attacher) leave(interfaces []string) error {
	keep := map[string]bool{}
	for _, name := range interfaces {
		keep[name] = true
	}
	var errs []error
	for _, kind := range []string{"xdp", "tcx"} {
		for name, path := range a.pins.links(kind) {
			if !keep[name] {
				errs = append(errs, detachPinned(path))
			}
		}
	}
	return errors.Join(errs...)
}

// detach takes a program from its place at once; without, the kernel would do
// it some time after the pin is gone.
func detach(l link.Link, path string) error {
	return errors.Join(l.Detach(), l.Close(), ignoring(fs.ErrNotExist, os.Remove(path)))
}

func detachPinned(path string) error {
	l, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		return fmt.Errorf("open the pinned link %s: %w", path, err)
	}
	return detach(l, path)
}

func (a *attacher) close() error {
	var errs []error
	for _, l := range a.links {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

func ignoring(target, err error) error {
	if errors.Is(err, target) {
		return nil
	}
	return err
}

func join(a, b string) string {
	if a == "" {
		return b
	}
	return a + "; " + b
}

// currentNamespace is the inode of this thread's network namespace.
func currentNamespace() uint32 {
	f, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return 0
	}
	defer f.Close()
	return inode(f)
}

func inode(f *os.File) uint32 {
	var s unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &s); err != nil {
		return 0
	}
	return uint32(s.Ino)
}
