package l4

import (
	"errors"
	"runtime"
	"slices"
	"time"

	"github.com/cirque-lb/lb/bpf"
)

// runWays keeps what the programs know of the way to each peer fresh, and the
// programs where they belong.
func (d *Datapath) runWays() {
	timer := time.NewTimer(wayRefresh)
	defer timer.Stop()
	for retries := 0; ; {
		select {
		case <-d.stop:
			return
		case <-d.hurry:
			retries = wayRetries
		case <-timer.C:
			d.mu.Lock()
			d.attachAgain()
			complete := d.refreshWays()
			d.mu.Unlock()
			if retries--; complete {
				retries = 0
			}
		}
		if retries > 0 {
			timer.Reset(wayRetry)
		} else {
			timer.Reset(wayRefresh)
		}
	}
}

// attachAgain brings the programs to interfaces that were made anew under their
// names, or that are there only now: a bond, a VLAN, a driver that was loaded again.
func (d *Datapath) attachAgain() {
	if d.attach == nil || d.migration != nil {
		return
	}
	runtime.LockOSThread() // interfaces are found by number in the thread's network namespace
	defer runtime.UnlockOSThread()
	if currentNamespace() != d.attach.namespace {
		return // as in tests, where one process has many
	}
	for i, was := range d.report.Interfaces {
		if !d.attach.changed(was) {
			continue
		}
		now := d.attach.packets(was.Name, d.options.Mode, d.kernel.packets(), d.kernel.FindNeighbour)
		d.report.Interfaces[i] = now
		d.options.Log.Warn("an interface changed, the fast path follows", "interface", now.Name, "mode", now.Mode, "why", now.Why)
		if len(d.have.routes) > 0 {
			d.tolerate(d.arp.set())
		}
	}
}

// refreshWays reports whether every peer has a way.
func (d *Datapath) refreshWays() bool {
	if d.kernel == nil {
		return true
	}
	clear(d.unknown)
	clear(d.slow)
	defer d.settleRings(time.Now())
	if len(d.have.peers) < 2 && len(d.have.backends) == 0 {
		d.fabric = 0
		return true
	}
	w, err := newWays(d.network)
	if err != nil {
		d.unknown[err.Error()] = true
		return false
	}
	d.fabric = 0
	for index, address := range d.have.peers {
		if index == bpf.Self {
			continue
		}
		p, asked := w.peer(address.Addr())
		d.noteAsked(asked)
		if said := d.kernel.narrow(index, &p, monotonic()); said != "" {
			d.slow[said] = true
		}
		if slices.Contains(d.down, address.Addr()) {
			p.Flags |= bpf.PeerDown
		}
		d.kernel.storePeer(index, p)
		if d.fabric == 0 || int(p.MTU) < d.fabric {
			d.fabric = int(p.MTU)
		}
	}
	for n, v := range d.have.backends {
		b := d.kernel.loadBackend(n)
		asked := w.backend(&b)
		d.kernel.storeBackend(n, b)
		if v.keeps { // one that is down need not have a way
			d.noteAsked(asked)
		}
	}
	return len(d.unknown) == 0
}

// noteAsked keeps why the kernel is asked for a way, for the report.
func (d *Datapath) noteAsked(why error) {
	switch {
	case errors.Is(why, errByKernel):
		d.slow[why.Error()] = true
	case why != nil:
		d.unknown[why.Error()] = true
	}
}
