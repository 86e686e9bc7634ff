package cluster

import (
	"fmt"
	"slices"

	"github.com/cirque-lb/lb"
)

// Forget drops earlier epochs, by their digests, and does not take them in
// again from who still has them. Each call replaces what the last one said: an
// epoch that is needed after all comes back with the next push/pull.
func (c *Cluster) Forget(digests []uint64) {
	c.update(func(v *view) {
		for _, e := range v.forget(digests) {
			c.event("epoch.forgotten", fmt.Sprint(e.Counter), "no connection needs it: "+describe(e))
			signal(c.changed)
		}
	})
}

// forget drops what is not needed and returns it. The current epoch stays.
func (v *view) forget(digests []uint64) (dropped []lb.Epoch) {
	v.unwanted = map[uint64]bool{}
	for _, d := range digests {
		v.unwanted[d] = true
	}
	var kept []lb.Epoch // those handed out never change
	for i, e := range v.epochs {
		if i > 0 && v.unwanted[e.Digest()] {
			dropped = append(dropped, e)
		} else {
			kept = append(kept, e)
		}
	}
	if dropped != nil {
		v.epochs = kept
		v.forgotten += uint64(len(dropped))
	}
	return dropped
}

// wants reports whether an epoch of somebody else's list is to be taken in.
func (v *view) wants(e lb.Epoch) bool {
	return !v.unwanted[e.Digest()] || e.Compare(v.current()) > 0 || slices.ContainsFunc(v.epochs, func(o lb.Epoch) bool { return equalEpochs(o, e) })
}
