package l4

import (
	"errors"
	"slices"
	"time"

	"github.com/cirque-lb/lb/bpf"
)

// runWays keeps what the programs know of the way to each peer fresh.
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

// refreshWays reports whether every peer has a way.
func (d *Datapath) refreshWays() bool {
	if d.kernel == nil {
		return true
	}
	clear(d.unknown)
	clear(d.slow)
	d.fabric = 0
	for index, address := range d.have.peers {
		if index == bpf.Self {
			continue
		}
		p, asked := ways{d.network}.find(address.Addr())
		switch {
		case errors.Is(asked, errByKernel):
			d.slow[asked.Error()] = true
		case asked != nil:
			d.unknown[asked.Error()] = true
		}
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
	d.refreshBackends()
	d.settleRings(time.Now())
	return len(d.unknown) == 0
}
