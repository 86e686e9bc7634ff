package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
)

// timing is how fast gossip goes; tests go faster.
type timing struct {
	suspicion                                                      int // probes' intervals that a suspected node has to object, twice that among 100; 0: memberlist's default
	probe, probeTimeout, gossip, pushPull, stream, redial, reclaim time.Duration
}

// production finds a dead node among three within 1.6 to 2.4 s: it is probed after
// one or two intervals, does not answer for one, and does not object for three.
// To be wrong costs little: a node that lives keeps its connections.
var production = timing{
	suspicion: 3, probe: 400 * time.Millisecond, probeTimeout: 250 * time.Millisecond,
	gossip: 100 * time.Millisecond, pushPull: 10 * time.Second,
	stream: 2 * time.Second, redial: time.Second, reclaim: 10 * time.Second,
}

// wrapTransport lets tests stand between a node and its sockets.
type wrapTransport func(memberlist.NodeAwareTransport) memberlist.NodeAwareTransport

// gossip carries messages between a Cluster and memberlist. It is memberlist's
// delegate, too: memberlist calls it with its locks held, so nothing here calls
// back into memberlist from those methods.
type gossip struct {
	cluster *Cluster
	name    string // of this node
	list    *memberlist.Memberlist
	queue   *memberlist.TransmitLimitedQueue
	keyring *memberlist.Keyring // nil: in clear text
	address netip.AddrPort
	opened  time.Time

	dirty   chan struct{} // what we tell about ourselves has changed
	telling sync.Mutex
	send    chan letter
	nodes   atomic.Int32 // known to be here, for the number of retransmissions

	telltime     time.Duration // for something about us to go out
	compareEvery time.Duration
}

// openGossip opens the sockets and starts memberlist: from its return on peers
// may call us, so everything they may reach is set up before.
func (c *Cluster) openGossip(t timing, wrap wrapTransport) error {
	o := c.options
	g := &gossip{
		cluster: c, name: o.Self.Name, opened: time.Now(),
		dirty: make(chan struct{}, 1), send: make(chan letter, sendQueue), telltime: max(10*t.gossip, time.Second), compareEvery: 10 * t.gossip,
	}
	g.nodes.Store(1)
	g.queue = &memberlist.TransmitLimitedQueue{RetransmitMult: 4, NumNodes: func() int { return int(g.nodes.Load()) }}
	logger := log.New(&refusals{cluster: c}, "", 0)
	transport, port, err := o.open(logger)
	if err != nil {
		return err
	}
	g.address = o.advertised(port)
	config := g.config(o, t)
	config.Logger = logger
	config.Transport = transport
	switch {
	case wrap != nil:
		config.Transport = wrap(transport)
	case o.Reaches != nil:
		config.Transport = &cutTransport{transport, o.Reaches}
	}
	c.gossip = g
	if g.list, err = memberlist.Create(config); err != nil {
		return errors.Join(err, transport.Shutdown())
	}
	return nil
}

// open binds the sockets, unless a test has something in their place.
func (o Options) open(logger *log.Logger) (memberlist.NodeAwareTransport, int, error) {
	if o.transport != nil {
		return o.transport, int(o.Bind.Port()), nil
	}
	sockets, err := memberlist.NewNetTransport(&memberlist.NetTransportConfig{
		BindAddrs: []string{o.Bind.Addr().String()}, BindPort: int(o.Bind.Port()), Logger: logger,
	})
	if err != nil {
		return nil, 0, err
	}
	return sockets, sockets.GetAutoBindPort(), nil
}

// advertised is what peers dial when port is the one we listen on.
func (o Options) advertised(port int) netip.AddrPort {
	address, at := o.Bind.Addr(), uint16(port)
	if address.IsUnspecified() {
		address = o.Self.Address
	}
	if a := o.Advertise; a.IsValid() {
		address = a.Addr()
		if a.Port() != 0 {
			at = a.Port()
		}
	}
	return netip.AddrPortFrom(address, at)
}

func (g *gossip) config(o Options, t timing) *memberlist.Config {
	m := memberlist.DefaultLANConfig()
	m.Name, m.Label = g.name, o.Name
	m.BindAddr, m.BindPort = o.Bind.Addr().String(), int(o.Bind.Port())
	m.AdvertiseAddr, m.AdvertisePort = g.address.Addr().String(), int(g.address.Port())
	m.ProbeInterval, m.ProbeTimeout = t.probe, t.probeTimeout
	m.GossipInterval, m.PushPullInterval, m.TCPTimeout = t.gossip, t.pushPull, t.stream
	m.DeadNodeReclaimTime = t.reclaim
	if t.suspicion > 0 {
		m.SuspicionMult = t.suspicion
		m.SuspicionMaxTimeoutMult = 1 // who is cut off alone has nobody to confirm what it suspects
	}
	m.EnableCompression = false // our messages are small; what is not compressed cannot be a bomb
	m.Delegate, m.Events, m.Conflict, m.Alive = g, g, g, g
	m.DelegateProtocolVersion, m.DelegateProtocolMin, m.DelegateProtocolMax = 1, 1, 1
	if len(o.Keys) > 0 {
		var keys [][]byte
		for _, k := range o.Keys {
			keys = append(keys, bytes.Clone(k[:]))
		}
		m.Keyring, _ = memberlist.NewKeyring(keys, keys[0]) // fails only on a key's length
		g.keyring = m.Keyring
	}
	return m
}

// join exchanges everything with the node at address.
func (g *gossip) join(address string) error {
	_, err := g.list.Join([]string{address})
	if err == nil {
		return nil
	}
	text := strings.TrimSpace(err.Error()) // "1 error occurred:\n\t* failed to join ADDRESS: …"
	_, reason, found := strings.Cut(text, address+": ")
	if !found {
		reason = text
	}
	if strings.HasSuffix(reason, "EOF") || strings.Contains(reason, "reset by peer") {
		return fmt.Errorf("join %s: it hung up on us; does it have the same cluster name and key?", address)
	}
	return fmt.Errorf("join %s: %s", address, reason)
}

// leave hands our last epochs to the others, then says good-bye.
func (g *gossip) leave(ctx context.Context) error {
	last := encode(kindGoodBye, goodBye{g.name, g.NodeMeta(memberlist.MetaMaxSize)})
	g.cluster.mu.Lock()
	body := encode(kindEpochs, g.cluster.view.epochs)
	var letters []letter
	for _, p := range g.cluster.view.peers {
		if p.here() {
			letters = append(letters, letter{p.Name, p.gossip, last}, letter{p.Name, p.gossip, body})
		}
	}
	g.cluster.mu.Unlock()
	left := make(chan error, 1)
	go func() { left <- g.sayGoodBye(ctx, letters) }()
	select {
	case err := <-left:
		return err
	case <-ctx.Done():
		return ctx.Err() // what is under way ends by its own time-outs
	}
}

func (g *gossip) sayGoodBye(ctx context.Context, letters []letter) error {
	for _, l := range letters {
		if ctx.Err() == nil {
			g.deliver(l)
		}
	}
	if err := g.tell(); err != nil { // so that they know us left, not dead
		return err
	}
	return g.list.Leave(2 * time.Second)
}

func (g *gossip) close() error { return g.list.Shutdown() }
