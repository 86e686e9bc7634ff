package l4

import "github.com/cirque-lb/lb/bpf"

// Writes is how many writes the last Apply made.
func Writes(d *Datapath) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.writes
}

// ForgetWays makes every peer's way unknown until the next refresh.
func ForgetWays(d *Datapath) {
	d.mu.Lock()
	defer d.mu.Unlock()
	w, err := newWays(d.network)
	if err != nil {
		panic(err)
	}
	for index, address := range d.have.peers {
		if index != bpf.Self {
			p, _ := w.peer(address.Addr())
			p.ValidUntil = 0
			d.kernel.storePeer(index, p)
		}
	}
}

// Widen makes this build one whose rows and peers have longer entries, until undone.
func Widen() (undo func()) {
	layout := thisLayout
	spare = "8"
	wide := layoutOfSpec()
	thisLayout = func() string { return wide }
	return func() { thisLayout, spare = layout, "" }
}

// Captures reports whether a Capture runs.
func Captures(d *Datapath) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.have.node.Flags&bpf.NodeCaptured != 0
}

// RefreshWays looks at the ways to peers now.
func RefreshWays(d *Datapath) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.refreshWays()
}

// AttachAgain looks whether interfaces changed, now.
func AttachAgain(d *Datapath) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.attachAgain()
}
