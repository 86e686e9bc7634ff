package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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

// timing is how fast gossip goes; tests go faster.
type timing struct {
	probe, probeTimeout, gossip, pushPull, stream, redial, reclaim time.Duration
}

// production finds a dead node among few within about 3 s.
var production = timing{
	probe: 500 * time.Millisecond, probeTimeout: 250 * time.Millisecond,
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

// letter is a message on its way to one peer by TCP.
type letter struct {
	to   string // name
	at   netip.AddrPort
	body []byte
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
	transport, err := memberlist.NewNetTransport(&memberlist.NetTransportConfig{
		BindAddrs: []string{o.Bind.Addr().String()}, BindPort: int(o.Bind.Port()), Logger: logger,
	})
	if err != nil {
		return err
	}
	g.address = o.advertised(transport.GetAutoBindPort())
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
	g.cluster.mu.Lock()
	body := encode(kindEpochs, g.cluster.view.epochs)
	var letters []letter
	for _, p := range g.cluster.view.peers {
		if p.here() {
			letters = append(letters, letter{p.Name, p.gossip, body})
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

// NodeMeta is what gossip tells of us.
func (g *gossip) NodeMeta(limit int) []byte {
	c := g.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	meta := c.identity.seal(c.aboutContext(g.name, g.address), plainJSON(signedAbout{c.told, speaks, c.identity.next(), c.identity.public()}))
	if len(meta) > limit {
		panic(fmt.Sprintf("metadata of %d bytes", len(meta))) // it has a fixed size
	}
	return meta
}

// aboutContext is what an about is signed for: this name at this address.
func (c *Cluster) aboutContext(name string, at netip.AddrPort) string {
	return c.context("about " + name + " at " + at.String())
}

// NotifyAlive refuses what is said of a node by anybody but itself. memberlist
// lets every node pass on, and so make up, what it heard of another one.
func (g *gossip) NotifyAlive(n *memberlist.Node) error {
	err := g.cluster.believe(n.Name, addrPort(n), n.Meta)
	if err != nil && !errors.Is(err, errReplayed) { // old news travel, too
		g.refused(fmt.Errorf("%s at %s: %w", n.Name, addrPort(n), err))
	}
	return err
}

// believe decides whether an about is its node's own and none that is older
// than what is known.
func (c *Cluster) believe(name string, at netip.AddrPort, meta []byte) error {
	var a signedAbout
	if err := json.Unmarshal(meta, &a); err != nil {
		return fmt.Errorf("read metadata of %s: %w", name, err)
	}
	signed := len(a.Key) > 0 && sealedBy(a.Key, c.aboutContext(name, at), meta)
	c.mu.Lock()
	defer c.mu.Unlock()
	id := c.identity
	switch known, pinned := id.pins[name]; {
	case name == c.view.self.Name:
		if signed && bytes.Equal(a.Key, id.public()) && a.Seq > id.seq {
			id.beyond(a.Seq) // of a life that we forgot; memberlist makes us speak up
			c.pinsChanged = true
			signal(c.gossip.dirty)
		}
		return nil
	case !signed && len(a.Key) > 0:
		return errForged
	case !signed && !pinned:
		return nil // of version 1
	case !signed:
		if c.freeFor(name) < c.reclaim {
			return errForged
		}
		delete(id.pins, name)
		return nil
	case pinned && bytes.Equal(known.Key, a.Key) && a.Seq < known.Seq:
		return errReplayed
	}
	before := id.pins[name].Key
	first, err := c.vouch(name, a.Key, c.freeFor(name))
	if err != nil {
		return err
	}
	if first && before != nil {
		c.event("member.rekeyed", name, "another key speaks for it: it was installed anew, or the identity file was lost")
	}
	p := id.pins[name]
	p.Seq = a.Seq
	id.pins[name] = p
	if first {
		signal(c.wake)
	}
	return nil
}

// NotifyMsg takes a message of a peer. Whoever can send one holds the key.
func (g *gossip) NotifyMsg(message []byte) {
	if len(message) == 0 {
		return
	}
	var err error
	switch body := message[1:]; message[0] {
	case kindAnnounce:
		err = g.heardOf(body)
	case kindAsk:
		err = g.asked(body)
	case kindEpochs:
		err = g.received(body)
	case kindList:
		err = g.receivedList(body)
	case kindSay:
		err = g.heard(body)
	case kindNews:
		err = g.heardNews(body)
	case kindWant:
		err = g.wanted(body)
	case kindSum:
		err = g.summed(body)
	case kindNumbers:
		err = g.numbered(body)
	case kindWantDocument:
		err = g.wantedDocument(body)
	case kindDocument:
		err = g.receivedDocument(body)
	default:
		g.cluster.count.unknown.Add(1) // of a newer version
	}
	if err != nil {
		g.refused(err)
	}
}

// refused counts what a peer sent in vain, by why.
func (g *gossip) refused(err error) {
	n := &g.cluster.count
	switch {
	case errors.Is(err, errReplayed):
		n.replayed.Add(1) // gossip repeats itself
	case errors.Is(err, errForged):
		g.cluster.rarely(n.forged.Add(1), "gossip.refused", "forged", err.Error())
	case errors.Is(err, errOversized):
		g.cluster.rarely(n.oversized.Add(1), "gossip.refused", "oversized", err.Error())
	default:
		g.cluster.rarely(n.malformed.Add(1), "gossip.refused", "malformed", err.Error())
	}
}

// heard takes in sayings, a line each.
func (g *gossip) heard(body []byte) error {
	var errs []error
	for line := range bytes.SplitSeq(body, []byte{'\n'}) {
		s, err := parseSaying(line)
		if err == nil {
			err = g.cluster.hearSaying(s)
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return worst(errs)
}

// worst is the error that says most of what a message was.
func worst(errs []error) error {
	i := slices.IndexFunc(errs, func(err error) bool { return !errors.Is(err, errReplayed) })
	switch {
	case len(errs) == 0:
		return nil
	case i < 0:
		return errs[0]
	}
	return errs[i]
}

func (g *gossip) heardNews(body []byte) error {
	var n news
	if err := json.Unmarshal(body, &n); err != nil {
		return fmt.Errorf("read news: %w", err)
	}
	g.ask([]news{n}, n.Holder)
	return nil
}

func (g *gossip) summed(body []byte) error {
	var s sum
	if err := json.Unmarshal(body, &s); err != nil {
		return fmt.Errorf("read a sum: %w", err)
	}
	if n, to, differs := g.cluster.compare(s); differs {
		g.post(letter{to.Name, to.gossip, encode(kindNumbers, n)})
	}
	return nil
}

func (g *gossip) numbered(body []byte) error {
	var n numbers
	if err := json.Unmarshal(body, &n); err != nil {
		return fmt.Errorf("read numbers: %w", err)
	}
	g.ask(n.Said, n.From)
	return nil
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

// ask asks a holder for what we lack of the news.
func (g *gossip) ask(told []news, holder string) {
	if w, from, ok := g.cluster.lackingSayings(told, holder); ok {
		g.post(letter{from.Name, from.gossip, encode(kindWant, w)})
	}
}

func (g *gossip) wanted(body []byte) error {
	var w want
	if err := json.Unmarshal(body, &w); err != nil {
		return fmt.Errorf("read a want: %w", err)
	}
	if texts, to, ok := g.cluster.answerSayings(w); ok {
		g.post(letter{to.Name, to.gossip, append([]byte{kindSay}, bytes.Join(texts, []byte{'\n'})...)})
	}
	return nil
}

func (g *gossip) wantedDocument(body []byte) error {
	var w wantDocument
	if err := json.Unmarshal(body, &w); err != nil {
		return fmt.Errorf("read a want: %w", err)
	}
	if d, to, ok := g.cluster.giveDocument(w); ok {
		g.post(letter{to.Name, to.gossip, encodeDocument(d)})
	}
	return nil
}

func (g *gossip) receivedDocument(body []byte) error {
	d, err := decodeDocument(body)
	if err != nil {
		return err
	}
	return g.cluster.receiveDocument(d)
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

// heardOf asks for an announced epoch that is not here yet.
func (g *gossip) heardOf(body []byte) error {
	var a announcement
	if err := json.Unmarshal(body, &a); err != nil {
		return fmt.Errorf("read announcement: %w", err)
	}
	q, holder, lacking := g.cluster.question(a)
	if lacking {
		g.post(letter{holder.Name, holder.gossip, encode(kindAsk, q)})
	}
	return nil
}

func (g *gossip) asked(body []byte) error {
	q, err := decodeQuestion(body)
	if err != nil {
		return err
	}
	if epochs, from, known := g.cluster.answer(q); known && len(epochs) > 0 {
		g.post(letter{from.Name, from.gossip, encode(kindEpochs, epochs)})
	}
	return nil
}

func (g *gossip) received(body []byte) error {
	epochs, err := decodeEpochs(body)
	if err == nil {
		g.cluster.learn(epochs)
	}
	return err
}

func (g *gossip) receivedList(body []byte) error {
	l, err := decodeList(body)
	if err == nil {
		g.cluster.adopt(l)
		g.cluster.learn(l.Epochs)
		g.ask(l.Said, l.From)
	}
	return err
}

// GetBroadcasts hands announcements to UDP gossip.
func (g *gossip) GetBroadcasts(overhead, limit int) [][]byte {
	return g.queue.GetBroadcasts(overhead, limit)
}

// LocalState is our list, for a push/pull.
func (g *gossip) LocalState(bool) []byte { return encode(kindList, g.cluster.list()) }

// MergeRemoteState is a peer's list, by a push/pull.
func (g *gossip) MergeRemoteState(message []byte, _ bool) {
	g.NotifyMsg(message)
}

// NotifyJoin is a node that is here, for the first time or again.
func (g *gossip) NotifyJoin(n *memberlist.Node) {
	g.nodes.Add(1)
	g.hear(n, Alive)
}

// NotifyUpdate is a node that tells something new of itself.
func (g *gossip) NotifyUpdate(n *memberlist.Node) { g.hear(n, Alive) }

// NotifyLeave is a node that is gone: it said so before, or it is dead.
func (g *gossip) NotifyLeave(n *memberlist.Node) {
	g.nodes.Add(-1)
	g.hear(n, Dead)
}

// NotifyConflict is a second node with the name of a living one.
func (g *gossip) NotifyConflict(old, other *memberlist.Node) {
	g.cluster.count.conflicts.Add(1)
	g.cluster.event("member.conflict", old.Name, fmt.Sprintf("%s claims the name of %s", other.Address(), old.Address()))
}

func (g *gossip) hear(n *memberlist.Node, state MemberState) {
	if n.Name == g.name {
		return
	}
	var a about
	if err := json.Unmarshal(n.Meta, &a); err != nil {
		g.refused(fmt.Errorf("read metadata of %s: %w", n.Name, err))
		return
	}
	if a.Leaving && state == Dead {
		state = Left
	}
	g.cluster.hear(peer{
		Member: lb.Member{Name: n.Name, Boot: a.Boot, Address: a.Address, Weight: min(max(a.Weight, 0), maxWeight)},
		state:  state, ready: a.Ready && !a.Leaving && a.Address.IsValid(), view: a.View,
		gossip: addrPort(n), since: time.Now(),
	})
}

func addrPort(n *memberlist.Node) netip.AddrPort {
	address, _ := netip.AddrFromSlice(n.Addr)
	return netip.AddrPortFrom(address.Unmap(), n.Port)
}

// refusals is where memberlist logs. It has no hook for what it refuses, so we
// count its lines; cluster_test.go fails when their words change.
type refusals struct{ cluster *Cluster }

func (r *refusals) Write(line []byte) (int, error) {
	count := &r.cluster.count
	has := func(s string) bool { return bytes.Contains(line, []byte(s)) }
	switch {
	case has("unacceptable label"), has("label header"):
		r.refuse(&count.wrongName, "another cluster's", line)
	case has("could decrypt"), has("Decrypt packet"), has("is not encrypted"), has("is encrypted and encryption is not configured"):
		r.refuse(&count.wrongKey, "wrong key", line)
	case has("larger than limit"), has("message too large"), has("UserStateLen"):
		r.refuse(&count.oversized, "oversized", line)
	default:
		r.cluster.options.Log.Debug(string(bytes.TrimSpace(line)))
	}
	return len(line), nil
}

func (r *refusals) refuse(counter *atomic.Uint64, what string, line []byte) {
	_, detail, found := strings.Cut(string(bytes.TrimSpace(line)), "memberlist: ")
	if !found {
		detail = string(line)
	}
	r.cluster.rarely(counter.Add(1), "gossip.refused", what, detail)
}
