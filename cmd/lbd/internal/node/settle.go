package node

import (
	"maps"
	"reflect"
	"slices"

	"github.com/cirque-lb/lb"
)

// settle brings what the node's parts were told in line with the facts: it
// looks at everything, plans, tells those for whom the plan changed, and
// publishes. Called by run after every request and event.
func (n *Node) settle() {
	f := n.facts()
	d := Plan(f)
	if n.probe(d) {
		f.Health = n.o.Monitor.Health()
		d = Plan(f)
	}
	n.tell(d)
	n.publish(d)
}

// probe tells the monitor of a new configuration's targets, which follow from it
// alone. It comes before the workers hear of health: what the monitor remembers of
// an earlier life it says only of targets that it has.
func (n *Node) probe(d Decision) (fresh bool) {
	if n.o.Monitor == nil || n.probing == n.running.config {
		return false
	}
	n.probing = n.running.config
	n.o.Monitor.Update(d.Targets)
	return true
}

func (n *Node) facts() Facts {
	f := Facts{
		Config: n.running.config, Overlay: n.overlay,
		Leaving: n.drain.leaving, Overdue: n.drain.overdue, OverdueListeners: n.listeners.are((*listenerDrain).isOverdue), SteeringListeners: n.steering(), OverdueBackends: n.backends.overdue(),
		Sockets: n.o.Fleet.Sockets(), Seed: n.seed,
		Addresses: n.address, Fastpath: n.fastpath().Mode,
	}
	if n.o.Monitor != nil {
		f.Health = n.o.Monitor.Health()
	}
	if c := n.o.Cluster; c != nil {
		f.Clustered, f.Epochs = true, c.Epochs()
		f.Seed, f.Tags = c.Seed(), c.Tags()
		f.Peers, f.Served, f.Silent = c.Peers(), n.saidVIPs(), n.silent()
		f.Turning = n.turning()
		f.Stragglers = n.retention.clients
		f.WasHere, f.WasAway = slices.Collect(maps.Keys(n.here)), slices.Collect(maps.Keys(n.away))
	}
	n.watchSlots(f.Sockets)
	f.SlotsGone = n.live.gone
	return f
}

// watchSlots notes since when there is no live slot.
func (n *Node) watchSlots(sockets []lb.SteeredBind) {
	_, live := slots(sockets)
	switch {
	case live > 0:
		n.live = liveness{}
	case n.live.goneSince.IsZero():
		n.live.goneSince = n.o.Now()
	}
}

// tell says what changed to those whom it concerns. Workers hear of health
// before the datapath moves flows.
func (n *Node) tell(d Decision) {
	first := n.told == nil
	if first {
		n.told = &Decision{}
	}
	if first || !sameState(d.State, n.told.State) {
		n.o.Fleet.SetState(d.State)
	}
	if c := n.o.Cluster; c != nil {
		if first || d.Weight != n.told.Weight {
			c.SetWeight(d.Weight)
		}
		if first || d.Ready != n.told.Ready || !equal(d.Steering.VIPs, n.told.Steering.VIPs) || !equal(d.Withdrawn, n.told.Withdrawn) {
			n.sayVIPs(d)
		}
		n.noteHere(d.Steering.Here)
		n.noteAway(d.Steering.Away)
		if first || d.Ready != n.told.Ready {
			c.SetReady(d.Ready)
		}
	}
	n.steer(d.Steering)
	if n.paths.err != nil || n.paths.force {
		d.Steering = n.told.Steering // what the datapath has, not what it was offered
	}
	n.told = &d
}

// steer gives the datapath what to do. While the fleet applies an update its
// sockets may be closed under our hands: then steering waits for the end of
// the change, which settles again.
func (n *Node) steer(s lb.Steering) {
	if n.o.Datapath == nil {
		n.paths.force = false
		return
	}
	if !n.paths.force && n.paths.err == nil && sameSteering(s, n.told.Steering) {
		return
	}
	if n.paths.err != nil && n.o.Now().Before(n.paths.retry) {
		return
	}
	if !n.sockets.TryLock() {
		n.paths.force = true
		return
	}
	defer n.sockets.Unlock()
	before := n.paths.err
	n.paths = pathState{err: n.o.Datapath.Apply(s)}
	switch {
	case n.paths.err != nil:
		n.paths.retry = n.o.Now().Add(retryEvery)
		if before == nil || before.Error() != n.paths.err.Error() {
			n.event(lb.Event{Kind: "fastpath.error", Subject: n.running.config.Node.Name, Detail: n.paths.err.Error()})
		}
	case before != nil:
		n.event(lb.Event{Kind: "fastpath.mended", Subject: n.running.config.Node.Name})
	}
}

// sameState is reflect.DeepEqual, which takes long for many backends.
func sameState(a, b lb.State) bool {
	return a.Draining == b.Draining && a.Cut == b.Cut && equal(a.Stragglers, b.Stragglers) && maps.Equal(a.Health, b.Health) && maps.Equal(a.Listeners, b.Listeners) && reflect.DeepEqual(a.Admin, b.Admin)
}

func sameSteering(a, b lb.Steering) bool { return reflect.DeepEqual(a, b) }

// fastpath is how packets are steered now.
func (n *Node) fastpath() Fastpath {
	switch {
	case n.o.Datapath != nil:
		return n.o.Datapath.Fastpath()
	case n.o.DatapathError != nil:
		return Fastpath{Mode: "off", Reason: n.o.DatapathError.Error()}
	}
	return Fastpath{Mode: "off", Reason: "fastpath.mode is off"}
}

func equal[T comparable](a, b []T) bool { return slices.Equal(a, b) }

// with gives a copy of the overlay with one backend's order changed.
func (o Overlay) with(id lb.BackendID, a lb.Admin) Overlay {
	o.Backends = maps.Clone(o.Backends)
	if o.Backends == nil {
		o.Backends = map[lb.BackendID]lb.Admin{}
	}
	if a == (lb.Admin{}) {
		delete(o.Backends, id)
	} else {
		o.Backends[id] = a
	}
	return o
}
