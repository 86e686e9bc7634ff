package node

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/cirque-lb/lb"
)

// An earlier epoch is kept while any of its members has a connection that only
// it finds, or has not said so yet, and at most for drain.timeout after it was
// replaced. What is left then is closed: by the workers, then from below.

const (
	needsPart   = "needs"          // what a node says of itself: the epochs it needs
	freshFor    = 10 * time.Second // a new connection may still begin under a replaced epoch
	closingTime = 5 * time.Second  // that the workers have to close what is left
	unneededMax = 256              // forgotten epochs that are remembered as such
)

// needs is what a node says. It accounts for the epochs older than Knows.
type needs struct {
	Knows  mark     `json:"knows"`
	Epochs []uint64 `json:"epochs"` // digests
}

// mark is an epoch's place in the order.
type mark struct {
	Counter uint64 `json:"counter"`
	Origin  string `json:"origin"`
}

func (m mark) after(e lb.Epoch) bool {
	return cmp.Or(cmp.Compare(m.Counter, e.Counter), cmp.Compare(m.Origin, e.Origin)) > 0
}

// Holding is what connections of this node need an earlier epoch for.
type Holding struct {
	Epoch   uint64 // its digest
	Flows   int
	Clients []netip.AddrPort // of some of them
}

// retention is what this node knows of the epochs that are not current. Owned
// by run.
type retention struct {
	replaced map[uint64]time.Time // since when an epoch is not the current one, by digest
	unneeded []lb.Epoch           // forgotten, oldest first
	looking  bool                 // at the connections, off the loop
	next     time.Time            // look again not before
	closing  map[uint64]time.Time // epochs whose time is over, and since when the workers close what needs them
	clients  []netip.AddrPort     // whose connections those are
}

// tickRetention looks at the connections, when earlier epochs are kept, and
// forgets those that are needed no more; it reports whether the state that the
// workers have has to change.
func (n *Node) tickRetention() (changed bool) {
	if n.o.Cluster == nil {
		return false
	}
	epochs, now := n.o.Cluster.Epochs(), n.o.Now()
	r := &n.retention
	r.note(epochs, now)
	if n.o.Datapath != nil && len(epochs) > 1 && !r.looking && !now.Before(r.next) {
		n.lookAtConnections(epochs)
	}
	var forget []uint64
	dead, said := n.goneNow(), n.saidNeeds()
	for _, e := range slices.Concat(r.unneeded, epochs[min(1, len(epochs)):]) {
		since := r.replaced[e.Digest()]
		if !since.IsZero() && needless(e, now.Sub(since), n.running.config.Drain.Timeout, dead, said) {
			forget = append(forget, e.Digest())
		}
	}
	n.o.Cluster.Forget(forget)
	r.remember(epochs, forget)
	return r.tidy(epochs)
}

// note remembers since when the earlier epochs are not current.
func (r *retention) note(epochs []lb.Epoch, now time.Time) {
	if r.replaced == nil {
		r.replaced, r.closing = map[uint64]time.Time{}, map[uint64]time.Time{}
	}
	for i, e := range epochs {
		if _, known := r.replaced[e.Digest()]; i > 0 && !known {
			r.replaced[e.Digest()] = now
		}
	}
}

// remember keeps the forgotten epochs, to know them again.
func (r *retention) remember(epochs []lb.Epoch, forget []uint64) {
	for _, e := range epochs[min(1, len(epochs)):] {
		if slices.Contains(forget, e.Digest()) {
			r.unneeded = append(r.unneeded, e)
		}
	}
	r.unneeded = slices.DeleteFunc(r.unneeded, func(e lb.Epoch) bool { return !slices.Contains(forget, e.Digest()) })
	r.unneeded = r.unneeded[max(0, len(r.unneeded)-unneededMax):]
}

// tidy forgets what is about epochs that are gone.
func (r *retention) tidy(epochs []lb.Epoch) (changed bool) {
	known := map[uint64]bool{}
	for _, e := range slices.Concat(epochs, r.unneeded) {
		known[e.Digest()] = true
	}
	maps.DeleteFunc(r.replaced, func(d uint64, _ time.Time) bool { return !known[d] })
	maps.DeleteFunc(r.closing, func(d uint64, _ time.Time) bool {
		return !slices.ContainsFunc(epochs, func(e lb.Epoch) bool { return e.Digest() == d })
	})
	if len(r.closing) == 0 && r.clients != nil {
		r.clients, changed = nil, true
	}
	return changed
}

// needless reports whether an earlier epoch finds no connection any more. A
// member whose datapath is gone has none, one without a weight never had.
func needless(e lb.Epoch, age, most time.Duration, dead []string, said map[string]needs) bool {
	switch {
	case age < freshFor:
		return false
	case age >= most+3*closingTime:
		return true
	}
	for _, m := range e.Members {
		if m.Weight == 0 || slices.Contains(dead, m.Name) {
			continue
		}
		s, says := said[m.Name]
		if !says || !s.Knows.after(e) || slices.Contains(s.Epochs, e.Digest()) {
			return false
		}
	}
	return true
}

func (n *Node) goneNow() []string {
	dead, _ := gone(Facts{Peers: n.o.Cluster.Peers(), Silent: n.silent()})
	return dead
}

func (n *Node) saidNeeds() map[string]needs {
	said := map[string]needs{}
	for _, s := range n.o.Cluster.Said(needsPart) {
		var what needs
		if json.Unmarshal(s.Body, &what) == nil {
			said[s.Member] = what
		}
	}
	return said
}

// lookAtConnections counts, off the loop, the connections that need each
// epoch, says so, and closes those whose time is over.
func (n *Node) lookAtConnections(epochs []lb.Epoch) {
	r := &n.retention
	r.looking = true
	n.group.Go(func() {
		began := time.Now()
		held, err := n.o.Datapath.Holdings()
		took := time.Since(began)
		n.do(func() {
			r.looking = false
			r.next = n.o.Now().Add(max(5*time.Second, 100*took)) // 1 % of the time
			if err != nil {
				n.log.Debug("connections are not counted", "err", err)
				return // nobody believes that we need nothing
			}
			n.sayNeeds(epochs, held)
			n.closeOverdue(held)
		})
	})
}

func (n *Node) sayNeeds(epochs []lb.Epoch, held []Holding) {
	what := needs{Knows: mark{epochs[0].Counter, epochs[0].Origin}, Epochs: []uint64{}}
	now := n.o.Now()
	for _, e := range epochs[1:] {
		d := e.Digest()
		has := slices.ContainsFunc(held, func(h Holding) bool { return h.Epoch == d })
		if has || now.Sub(n.replaced[d]) < freshFor {
			what.Epochs = append(what.Epochs, d)
		}
	}
	body, err := json.Marshal(what)
	if err == nil {
		err = n.o.Cluster.Say(needsPart, body, false)
	}
	if err != nil {
		n.log.Warn("peers do not hear which epochs this node needs", "err", err)
	}
}

// closeOverdue has the workers close what needs an epoch whose time is over,
// and after a while destroys it.
func (n *Node) closeOverdue(held []Holding) {
	r, now := &n.retention, n.o.Now()
	var clients []netip.AddrPort
	for _, h := range held {
		if now.Sub(r.replaced[h.Epoch]) < n.running.config.Drain.Timeout {
			continue
		}
		clients = append(clients, h.Clients...)
		since, known := r.closing[h.Epoch]
		switch {
		case !known:
			r.closing[h.Epoch] = now
			n.event(lb.Event{Kind: "epoch.overdue", Subject: fmt.Sprintf("%016x", h.Epoch), Reason: lb.Draining,
				Detail: fmt.Sprintf("%d connections need it after %s; they are closed", h.Flows, n.running.config.Drain.Timeout)})
		case now.Sub(since) >= closingTime:
			n.group.Go(func() { n.destroy(h.Epoch) })
		}
	}
	r.clients = clients
	if clients != nil {
		r.next = now.Add(closingTime)
	}
}

func (n *Node) destroy(epoch uint64) {
	destroyed, err := n.o.Datapath.Destroy(epoch)
	if destroyed > 0 || err != nil {
		e := lb.Event{Kind: "epoch.destroyed", Subject: fmt.Sprintf("%016x", epoch), Reason: lb.Draining, Detail: fmt.Sprintf("%d connections", destroyed)}
		if err != nil {
			e.Detail += ": " + err.Error()
		}
		n.event(e)
	}
}
