package node

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/cirque-lb/lb"
)

// During each change that goes from node to node some have a VIP and some do
// not. What a member lacks it cannot take from its peers, so such a VIP's new
// connections stay where they arrive, until every member has it. Those that
// began there are asked for there first, for as long as a drain may last.

// vipsPart is what a node says of itself: the VIPs that it serves.
const vipsPart = "vips"

// sayVIPs tells the others what this node serves, once it is ready to.
func (n *Node) sayVIPs(d Decision) {
	vips := []lb.VIP{} // none is said, too
	if d.Ready {
		for _, v := range d.Steering.VIPs {
			if !slices.Contains(d.Withdrawn, v) {
				vips = append(vips, v)
			}
		}
	}
	body, err := json.Marshal(vips)
	if err == nil {
		err = n.o.Cluster.Say(vipsPart, body, false)
	}
	if err != nil {
		n.log.Warn("peers do not hear which VIPs this node serves", "err", err)
	}
}

// saidVIPs is what the nodes say that they serve, by name.
func (n *Node) saidVIPs() map[string][]lb.VIP {
	said := map[string][]lb.VIP{}
	for _, s := range n.o.Cluster.Said(vipsPart) {
		var vips []lb.VIP
		if json.Unmarshal(s.Body, &vips) == nil { // else a version of lbd that says it otherwise
			said[s.Member] = vips
		}
	}
	return said
}

// lacking lists who of the members that are here lacks each VIP. One that does
// not say what it serves is of an older version, and counts as having all.
func lacking(f Facts, vips []lb.VIP) map[lb.VIP][]string {
	found := map[lb.VIP][]string{}
	for _, p := range f.Peers {
		said, says := f.Served[p.Name]
		if p.Self || !p.Listed || p.State != "alive" || !says {
			continue
		}
		for _, v := range vips {
			if !slices.Contains(said, v) {
				found[v] = append(found[v], p.Name)
			}
		}
	}
	return found
}

// planVIPs marks the VIPs that are served where they arrive.
func planVIPs(f Facts, withdrawn []lb.VIP, s *lb.Steering) (notes []string) {
	notes = planAway(f, withdrawn, s)
	lack := lacking(f, s.VIPs)
	for _, v := range s.VIPs {
		switch {
		case slices.Contains(withdrawn, v): // nothing begins here
		case lack[v] != nil:
			s.Here = append(s.Here, v)
			notes = append(notes, fmt.Sprintf("VIP %s: it is lacking at %s, so its new connections stay where they arrive", v, strings.Join(lack[v], ", ")))
		case slices.Contains(f.WasHere, v):
			s.WasHere = append(s.WasHere, v)
		}
	}
	return notes
}

// noteHere remembers which VIPs are served where they arrive, and tells when
// that begins and ends.
func (n *Node) noteHere(here []lb.VIP) {
	if n.here == nil {
		n.here = map[lb.VIP]time.Time{}
	}
	now := n.o.Now()
	for _, v := range here {
		if !slices.Contains(n.told.Steering.Here, v) {
			n.event(lb.Event{Kind: "vip.apart", Subject: v.String(), Detail: "some member lacks it: new connections stay where they arrive"})
		}
		n.here[v] = now.Add(n.running.config.Drain.Timeout)
	}
	for _, v := range n.told.Steering.Here {
		if !slices.Contains(here, v) {
			n.event(lb.Event{Kind: "vip.everywhere", Subject: v.String()})
		}
	}
}

// tickHere forgets the VIPs whose time is over; it reports whether there were.
func (n *Node) tickHere() (changed bool) {
	now := n.o.Now()
	maps.DeleteFunc(n.here, func(_ lb.VIP, until time.Time) bool {
		over := !now.Before(until)
		changed = changed || over
		return over
	})
	return changed
}

// gone lists the members that are dead by gossip and whose datapath does not
// answer: nothing of theirs is left to be found. Gossip alone takes away only
// their new connections; a supervisor that is restarted is no dead node.
func gone(f Facts) (names, notes []string) {
	for _, p := range f.Peers {
		if p.Self || p.State == "alive" {
			continue
		}
		if slices.Contains(f.Silent, p.Address) {
			names = append(names, p.Name)
		} else if f.Clustered && listedEver(f.Epochs, p.Name) && f.Fastpath != "off" && p.State == "dead" {
			workers := "its workers do not turn"
			if slices.Contains(f.Turning, p.Address) {
				workers = "its workers serve"
			}
			notes = append(notes, fmt.Sprintf("node %s does not gossip, but its datapath answers, and %s: it keeps the connections that it has", p.Name, workers))
		}
	}
	return names, notes
}

func listedEver(epochs []lb.Epoch, name string) bool {
	return slices.ContainsFunc(epochs, func(e lb.Epoch) bool {
		return slices.ContainsFunc(e.Members, func(m lb.Member) bool { return m.Name == name })
	})
}

// turning are the peers whose workers serve, whatever else is heard of them. It
// is shown and decides nothing: a worker that does not turn has connections yet.
func (n *Node) turning() []netip.Addr {
	if n.o.Datapath == nil {
		return nil
	}
	return n.o.Datapath.Turning()
}

// silent are the peers whose datapath does not answer.
func (n *Node) silent() []netip.Addr {
	if n.o.Datapath == nil {
		return nil
	}
	return n.o.Datapath.Silent()
}
