package cluster

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/cirque-lb/lb"
)

const (
	sendersAtOnce  = 4    // messages on their way by TCP
	sendQueue      = 256  // messages waiting for them
	broadcastQueue = 1024 // messages waiting for UDP gossip
	pushPeers      = 16   // a new epoch's body is pushed to so many peers, the others ask for it
)

// letter is a message on its way to one peer by TCP.
type letter struct {
	to   string // name
	at   netip.AddrPort
	body []byte
}

// publish makes a new epoch of ours known: the body at once to a few, an
// announcement to all.
func (g *gossip) publish(e lb.Epoch, peers map[string]peer) {
	body, n := encode(kindEpochs, []lb.Epoch{e}), 0
	for _, p := range peers {
		if p.here() && n < pushPeers {
			g.post(letter{p.Name, p.gossip, body})
			n++
		}
	}
	g.announce(e)
}

// announce says that we have e.
func (g *gossip) announce(e lb.Epoch) {
	g.queue.QueueBroadcast(rumour(encode(kindAnnounce, announce(e, g.name))))
	g.queue.Prune(broadcastQueue)
}

// spread makes a saying known: a small one as it is, of a larger one that it is
// here. A newer one takes the place of an older one that still waits.
func (g *gossip) spread(s saying) {
	body := append([]byte{kindSay}, s.raw...)
	if len(s.raw) > smallPart {
		body = encode(kindNews, news{s.Member, s.Part, s.Seq, g.name})
	}
	g.queue.QueueBroadcast(named{s.Member + "\x00" + s.Part, body})
	g.queue.Prune(broadcastQueue)
}

// named is a broadcast that replaces an older one of the same name.
type named struct {
	name string
	body []byte
}

func (n named) Invalidates(memberlist.Broadcast) bool { return false } // by name
func (n named) Name() string                          { return n.name }
func (n named) Message() []byte                       { return n.body }
func (named) Finished()                               {}

// rumour is a broadcast that no other one replaces.
type rumour []byte

func (rumour) Invalidates(memberlist.Broadcast) bool { return false }
func (r rumour) Message() []byte                     { return r }
func (rumour) Finished()                             {}
func (rumour) UniqueBroadcast()                      {}

func (g *gossip) post(l letter) {
	select {
	case g.send <- l:
	default:
		g.cluster.count.dropped.Add(1)
	}
}

// runSend delivers letters. One that does not arrive is not tried again: its
// addressee asks when it hears the announcement, or gets it with a push/pull.
func (g *gossip) runSend(ctx context.Context) {
	var senders sync.WaitGroup
	for range sendersAtOnce {
		senders.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case l := <-g.send:
					g.deliver(l)
				}
			}
		})
	}
	senders.Wait()
}

func (g *gossip) deliver(l letter) {
	to := &memberlist.Node{Name: l.to, Addr: l.at.Addr().AsSlice(), Port: l.at.Port()}
	if err := g.list.SendReliable(to, l.body); err != nil {
		g.cluster.options.Log.Debug("message not delivered", "to", l.to, "at", l.at, "error", err)
	}
}

// runAbout tells the others whenever something about us changed.
func (g *gossip) runAbout(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.dirty:
			if err := g.tell(); err != nil { // push/pull repeats it anyway
				g.cluster.options.Log.Debug("metadata not yet gossiped", "error", err)
			}
		}
	}
}

// tell gossips what changed about us and waits until it went out. One at a
// time: a second one would replace the first before anybody heard it.
func (g *gossip) tell() error {
	g.telling.Lock()
	defer g.telling.Unlock()
	return g.list.UpdateNode(g.telltime)
}

// runCompare tells one peer after the other what is here.
func (g *gossip) runCompare(ctx context.Context) {
	every := time.NewTicker(g.compareEvery)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-every.C:
		}
		if s, p, ok := g.cluster.sumNow(); ok {
			to := &memberlist.Node{Name: p.Name, Addr: p.gossip.Addr().AsSlice(), Port: p.gossip.Port()}
			if err := g.list.SendBestEffort(to, encode(kindSum, s)); err != nil {
				g.cluster.options.Log.Debug("sum not sent", "to", p.Name, "error", err)
			}
		}
	}
}

// runFetch asks for newer documents until they are here.
func (g *gossip) runFetch(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		letters, more := g.cluster.wanted()
		for _, l := range letters {
			g.post(l)
		}
		wait := time.Hour
		if more {
			wait = fetchAgain / 4
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return
		case <-g.cluster.fetch:
		case <-timer.C:
		}
	}
}
