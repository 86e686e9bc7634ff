package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cirque-lb/lb"
)

// maxOrders bounds the overlay: orders for backends that are gone stay, so
// that a backend comes back as it went.
const maxOrders = 20_000

// BackendOrder changes a backend's overlay; nil leaves a part as it is.
type BackendOrder struct {
	ID          lb.BackendID
	Drain       *bool
	Disable     *bool
	Weight      *int
	ClearWeight bool // back to the document's
}

// OrderBackend changes a backend's overlay, on disk first.
func (n *Node) OrderBackend(ctx context.Context, o BackendOrder, a Asked) error {
	if o.Weight != nil && (*o.Weight < 0 || *o.Weight > 1000) {
		return fail(Invalid, "", "a weight is between 0 and 1000, not %d", *o.Weight)
	}
	return n.order(ctx, a, func(now *Snapshot) (Overlay, error) {
		_, ordered := now.Overlay.Backends[o.ID]
		pool := now.Config.Pool(o.ID.Pool)
		if !ordered && (pool == nil || backend(pool, o.ID.Address) == nil) {
			return Overlay{}, noBackend(o.ID)
		}
		if !ordered && len(now.Overlay.Backends) >= maxOrders {
			return Overlay{}, fail(Busy, "take back orders for backends that are gone", "%d backends have orders already", maxOrders)
		}
		return now.Overlay.with(o.ID, o.to(now.Overlay.Backends[o.ID], n.o.Now().UTC())), nil
	}, o.event(a.By))
}

func (o BackendOrder) to(a lb.Admin, now time.Time) lb.Admin {
	switch {
	case o.Drain == nil:
	case !*o.Drain:
		a.Drain, a.Since = false, time.Time{}
	case !a.Drain:
		a.Drain, a.Since = true, now
	}
	if o.Disable != nil {
		a.Disable = *o.Disable
	}
	if o.ClearWeight {
		a.Weight = nil
	}
	if o.Weight != nil {
		a.Weight = o.Weight
	}
	return a
}

func (o BackendOrder) event(by string) lb.Event {
	e := lb.Event{Kind: "backend.undrain", Subject: o.ID.String(), Detail: "by " + by}
	switch {
	case o.Disable != nil && *o.Disable:
		e.Kind = "backend.disable"
	case o.Drain != nil && *o.Drain:
		e.Kind = "backend.drain"
	case o.Weight != nil:
		e.Kind, e.Detail = "backend.weight", fmt.Sprintf("%d by %s", *o.Weight, by)
	case o.ClearWeight:
		e.Kind, e.Detail = "backend.weight", "as configured, by "+by
	}
	return e
}

// order changes the overlay: decided on what is in force, written, then used.
func (n *Node) order(ctx context.Context, a Asked, next func(*Snapshot) (Overlay, error), e lb.Event) error {
	if err := n.awaitServing(ctx); err != nil {
		return err
	}
	if err := n.orders.enter(ctx); err != nil {
		return err
	}
	defer n.orders.leave()
	now := n.snapshot.Load()
	if err := a.fits(now.Generation); err != nil {
		return err
	}
	overlay, err := next(now)
	if err != nil || a.Dry {
		return err
	}
	if err := n.store.writeOverlay(overlay); err != nil {
		n.unwritten(err)
		return because(err, Unwritable, writeHint, "the order cannot be kept, so it is not carried out")
	}
	defer n.stats.forget()
	return n.do(func() {
		n.overlay = overlay
		n.ordered()
		n.followListeners() // now: the end of an earlier drain is none of this one's
		n.followBackends()
		n.event(e)
	})
}

// OrderNode drains this node or takes the drain back.
func (n *Node) OrderNode(ctx context.Context, name string, drain bool, a Asked) error {
	self := n.booted.Node.Name
	if name != "" && name != self {
		return n.otherNode(name, verb(drain))
	}
	return n.order(ctx, a, func(now *Snapshot) (Overlay, error) {
		o := now.Overlay
		switch {
		case drain && o.DrainSince.IsZero():
			o.DrainSince = n.o.Now().UTC()
		case !drain:
			o.DrainSince = time.Time{}
		}
		return o, nil
	}, lb.Event{Kind: "node." + verb(drain), Subject: self, Detail: "by " + a.By})
}

// since puts an order's time, which the disk keeps, on this process's monotonic
// clock: a clock that is set later cuts no drain short, and makes none longer. One
// of a time to come was given now.
func since(ordered, now time.Time) time.Time {
	return now.Add(-max(0, now.Sub(ordered)))
}

func verb(drain bool) string {
	if drain {
		return "drain"
	}
	return "undrain"
}

// MayLeave refuses a request to leave that is meant for another node or
// another generation.
func (n *Node) MayLeave(name string, a Asked) error {
	if name != "" && name != n.booted.Node.Name {
		return n.otherNode(name, "leave")
	}
	return a.fits(n.snapshot.Load().Generation)
}

// otherNode says where a drain of another node has to be asked for: only a
// node itself decides about its weight, and orders do not travel by gossip.
func (n *Node) otherNode(name, verb string) error {
	if n.o.Cluster != nil {
		for _, p := range n.o.Cluster.Peers() {
			if p.Name == name {
				return fail(OtherNode, fmt.Sprintf("run `lbctl node %s` on %s (%s)", verb, name, p.Address),
					"this is %s; only %s itself can %s", n.booted.Node.Name, name, verb)
			}
		}
	}
	return fail(NotFound, "`lbctl node list` shows them", "there is no node %q", name)
}

// Why a Fleet does not drain a worker.
var (
	ErrNoWorker   = errors.New("no such worker")
	ErrLastWorker = errors.New("no other worker serves")
)

// OrderWorker drains a worker of this node or takes the drain back. The order is
// the fleet's to keep: another crew knows nothing of it.
func (n *Node) OrderWorker(ctx context.Context, name string, drain bool, a Asked) error {
	if err := n.awaitServing(ctx); err != nil {
		return err
	}
	if err := n.changes.enter(ctx); err != nil {
		return err
	}
	defer n.changes.leave()
	if err := a.fits(n.snapshot.Load().Generation); err != nil || a.Dry {
		return err
	}
	err := n.o.Fleet.OrderWorker(context.WithoutCancel(ctx), name, drain)
	switch {
	case errors.Is(err, ErrNoWorker):
		return fail(NotFound, "`lbctl worker list` shows them; one of an old crew drains already", "there is no worker %q in the crew that serves", name)
	case errors.Is(err, ErrLastWorker):
		return fail(Conflict, "`lbctl node drain` takes the node out of service, `lbctl upgrade` replaces its workers", "%s is the last worker that serves", name)
	case err != nil:
		return because(err, Unwritable, writeHint, "the order is not carried out")
	}
	n.event(lb.Event{Kind: "worker." + verb(drain), Subject: "worker " + name, Detail: "by " + a.By})
	return n.do(func() { n.paths.force = true })
}

// Upgrade replaces the workers by those of another binary. On an error the
// old ones serve as before.
func (n *Node) Upgrade(ctx context.Context, binary string, a Asked) error {
	if err := n.awaitServing(ctx); err != nil {
		return err
	}
	if err := n.changes.enter(ctx); err != nil {
		return err
	}
	defer n.changes.leave()
	if err := a.fits(n.snapshot.Load().Generation); err != nil || a.Dry {
		return err
	}
	self := n.booted.Node.Name
	n.event(lb.Event{Kind: "node.upgrade", Subject: self, Detail: "by " + a.By})
	if err := n.o.Fleet.Upgrade(context.WithoutCancel(ctx), binary); err != nil {
		n.event(lb.Event{Kind: "node.upgrade-failed", Subject: self, Detail: err.Error()})
		return because(err, NotReady, "", "the upgrade failed and the old workers serve as before")
	}
	return n.do(func() { n.paths.force = true })
}
