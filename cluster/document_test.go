package cluster

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/cirque-lb/lb"
)

// edit makes an edit at a node, as package node does.
func (n *network) edit(name, text string) Document {
	n.t.Helper()
	c := n.nodes[name].Cluster
	d := Document{Generation: lb.Generation{Counter: c.Counter() + 1, Node: name}, By: "uid 0", Action: "apply", Text: []byte(text)}
	if now, ok := c.Document(); ok {
		d.Past = append([]lb.Generation{now.Generation}, now.Past...)
	}
	d = c.Seal(d)
	if err := c.Offer(d); err != nil {
		n.t.Fatal(err)
	}
	return d
}

func (n *network) document(want string, names ...string) {
	n.t.Helper()
	n.eventually("document "+want, func(c *Cluster) bool {
		d, _ := c.Document()
		return d.Generation.String()+" "+string(d.Text) == want
	}, names...)
}

func TestTheLastEditReachesEverybody(t *testing.T) {
	n := newNetwork(t)
	n.pace = brisk
	names := []string{"a", "b", "c"}
	for _, name := range names {
		n.start(name)
	}
	n.agree("a=4 b=4 c=4", names...)
	n.edit("a", "one")
	n.document("1@a one", names...)
	n.edit("c", "two")
	n.document("2@c two", names...)
	n.edit("b", strings.Repeat("x", 3<<20))
	n.document("3@b "+strings.Repeat("x", 3<<20), names...)
	n.kill("a")
	n.edit("c", "four")
	n.document("4@c four", "b", "c")
	n.start("a") // it was away, and remembers nothing
	n.document("4@c four", names...)
	for _, name := range names {
		if lost := n.nodes[name].Losses(); lost != nil {
			t.Errorf("%s: no edit was made beside another one, and it reports %v", name, lost)
		}
	}
}

func TestOfTwoEditsMadeApartOneWinsAndTheOtherIsReportedByAll(t *testing.T) {
	n := newNetwork(t)
	n.pace = brisk
	names := []string{"a", "b", "c"}
	for _, name := range names {
		n.start(name)
	}
	n.agree("a=4 b=4 c=4", names...)
	n.edit("a", "one")
	n.document("1@a one", names...)
	n.split("c")
	n.edit("a", "left")
	n.edit("b", "left again")
	n.edit("c", "right")
	n.document("2@c right", "c")
	n.eventually("an edit of the left", func(c *Cluster) bool { d, _ := c.Document(); return string(d.Text) != "one" }, "a", "b")
	n.split()
	// Depending on who heard whom, the left's second edit follows its first.
	winner, _ := n.nodes["b"].Document()
	n.eventually("one document", func(c *Cluster) bool {
		d, _ := c.Document()
		b, _ := n.nodes["b"].Document()
		return d.Generation == b.Generation && d.Digest() == b.Digest()
	}, "a", "b", "c", "a", "b")
	winner, _ = n.nodes["b"].Document()
	if winner.Generation.Compare(lb.Generation{Counter: 2, Node: "c"}) < 0 {
		t.Fatalf("%s won over 2@c", winner.Generation)
	}
	for _, name := range names {
		var lost []string
		n.eventually("a loss", func(c *Cluster) bool {
			for _, d := range c.Losses() {
				lost = append(lost, string(d.Text))
			}
			if winner.Generation.Node == "c" {
				return slices.Contains(lost, "left") || slices.Contains(lost, "left again")
			}
			return slices.Contains(lost, "right")
		}, name)
	}
}

func TestNobodySpeaksForAnother(t *testing.T) {
	n := newNetwork(t)
	a, b := n.start("a"), n.start("b")
	n.agree("a=4 b=4", "a", "b")
	if err := b.Say("health", []byte("all is well"), false); err != nil {
		t.Fatal(err)
	}
	n.eventually("b's word", func(c *Cluster) bool { return said(c, "health", "b") == "all is well" }, "a")

	// c has the cluster's key, and another one of its own.
	c := n.start("c")
	n.agree("a=4 b=4 c=4", "a", "b", "c")
	forge := func(s saying) []byte {
		return append([]byte{kindSay}, c.identity.seal(c.context("saying"), plainJSON(s))...)
	}
	forged := a.Counters().Forged
	a.gossip.NotifyMsg(forge(saying{Member: "b", Part: "health", Seq: 1 << 50, Body: []byte("b is down")}))
	doc := Document{Generation: lb.Generation{Counter: 9, Node: "b"}, Text: []byte("by b, says c")}
	doc = c.Seal(doc)
	doc.Generation.Node = "b"
	a.gossip.NotifyMsg(encodeDocument(doc))
	if got := a.Counters().Forged - forged; got != 2 {
		t.Errorf("refused as forged: %d, want 2", got)
	}
	// An about of b at c's address, or with another weight, or without a key.
	meta := b.gossip.NodeMeta(512)
	for _, lie := range []struct {
		meta []byte
		at   *node
	}{
		{meta, c},
		{bytes.Replace(meta, []byte(`"w":4`), []byte(`"w":0`), 1), b},
		{[]byte(`{"b":[98,0,0,0,0,0,0,0],"a":"10.0.0.98","w":0}`), b},
		{c.identity.seal(c.aboutContext("b", b.Address()), plainJSON(signedAbout{about{Weight: 0}, speaks, 1 << 50, c.identity.public()})), b},
	} {
		if err := a.believe("b", lie.at.Address(), lie.meta); err != errForged {
			t.Errorf("%s: got %v, want %v", lie.meta, err, errForged)
		}
	}
	// The real thing, later than something newer: a replay.
	newer := b.gossip.NodeMeta(512)
	if err := a.believe("b", b.Address(), newer); err != nil {
		t.Error(err)
	}
	if err := a.believe("b", b.Address(), meta); err != errReplayed {
		t.Errorf("got %v, want %v", err, errReplayed)
	}
	n.agree("a=4 b=4 c=4", "a", "b", "c")
	if got := said(a.Cluster, "health", "b"); got != "all is well" {
		t.Errorf("b's word became %q", got)
	}
	if d, ok := a.Document(); ok {
		t.Errorf("a took the document %s", d.Generation)
	}
}

func TestASecondHolderOfANameIsRefusedWhileTheFirstLives(t *testing.T) {
	n := newNetwork(t)
	n.start("a")
	n.start("b")
	n.agree("a=4 b=4", "a", "b")
	other := newNetworkNode(n, "b")
	defer other.stop()
	n.eventually("a refusal", func(c *Cluster) bool { return c.Counters().Forged+c.Counters().Conflicts > 0 }, "a")
	n.agree("a=4 b=4", "a", "b")
}

// newNetworkNode starts a node of a name that is taken.
func newNetworkNode(n *network, name string) *node {
	first := n.nodes[name]
	impostor := n.start(name, func(o *Options) { o.IdentityFile = "" })
	n.nodes[name] = first
	return impostor
}

func TestMessagesThatAreTooLargeAreRefusedAndCounted(t *testing.T) {
	n := newNetwork(t)
	a := n.start("a")
	b := n.start("b")
	n.agree("a=4 b=4", "a", "b")
	if err := b.Say("much", make([]byte, maxPart+1), false); err == nil {
		t.Error("a part of any size was said")
	}
	large := saying{Member: "b", Part: "much", Seq: 1 << 50, Body: make([]byte, maxPart+1)}
	a.gossip.NotifyMsg(append([]byte{kindSay}, b.identity.seal(b.context("saying"), plainJSON(large))...))
	a.gossip.NotifyMsg(append([]byte{kindSay}, bytes.Repeat([]byte("x"), 3*maxPart)...))
	a.gossip.NotifyMsg(slices.Concat([]byte{kindDocument, '{', '}', '\n'}, make([]byte, maxText+maxHeader)))
	for part := range maxParts + 5 {
		b.Say(fmt.Sprint("part ", part), []byte("x"), false)
	}
	if got := a.Counters().Oversized; got != 3 {
		t.Errorf("oversized: got %d, want 3", got)
	}
	if got := len(a.SaidParts("")); got > maxParts {
		t.Errorf("%d parts of a member are kept", got)
	}
}

func TestWhatIsHeardTwiceHasNoEffect(t *testing.T) {
	n := newNetwork(t)
	a, b := n.start("a"), n.start("b")
	n.agree("a=4 b=4", "a", "b")
	b.Say("mood", []byte("one"), false)
	n.eventually("one", func(c *Cluster) bool { return said(c, "mood", "b") == "one" }, "a")
	a.mu.Lock()
	old := append([]byte{kindSay}, a.sayings["b"]["mood"].raw...)
	a.mu.Unlock()
	b.Say("mood", []byte("two"), false)
	n.eventually("two", func(c *Cluster) bool { return said(c, "mood", "b") == "two" }, "a")
	before := a.Counters()
	a.gossip.NotifyMsg(old)
	after := a.Counters()
	if got := said(a.Cluster, "mood", "b"); got != "two" || after.Replayed == before.Replayed || after.Forged != before.Forged {
		t.Errorf("after a replay b says %q, counters %+v", got, after)
	}
	d := n.edit("b", "text")
	n.document("1@b text", "a", "b")
	n.edit("b", "newer")
	n.document("2@b newer", "a", "b")
	a.gossip.NotifyMsg(encodeDocument(d))
	n.document("2@b newer", "a", "b")
	if lost := a.Losses(); lost != nil {
		t.Errorf("a replayed document was taken for a lost edit: %v", lost)
	}
}

func TestANodeThatForgotHowMuchItSaidIsHeardAgain(t *testing.T) {
	n := newNetwork(t)
	a, b := n.start("a"), n.start("b")
	n.agree("a=4 b=4", "a", "b")
	b.mu.Lock()
	b.identity.seq += 100 << lifeBits
	b.mu.Unlock()
	b.Say("mood", []byte("one"), false)
	n.eventually("one", func(c *Cluster) bool { return said(c, "mood", "b") == "one" }, "a")
	at := b.Address()
	n.kill("b") // its file has the life from before
	b = n.start("b", func(o *Options) { o.Bind = at; o.Join = []string{a.Address().String()} })
	b.Say("mood", []byte("two"), false)
	n.eventually("two", func(c *Cluster) bool { return said(c, "mood", "b") == "two" }, "a")
}

func said(c *Cluster, part, member string) string {
	for _, s := range c.Said(part) {
		if s.Member == member {
			return string(s.Body)
		}
	}
	return ""
}

// foreign is a node that speaks another version: memberlist with its own ideas
// of what to say.
type foreign struct {
	meta  func() []byte
	state []byte
	mu    sync.Mutex // guards heard
	heard []byte
}

func (f *foreign) NodeMeta(int) []byte                        { return f.meta() }
func (f *foreign) NotifyMsg([]byte)                           {}
func (f *foreign) GetBroadcasts(overhead, limit int) [][]byte { return nil }
func (f *foreign) LocalState(bool) []byte                     { return f.state }
func (f *foreign) MergeRemoteState(message []byte, isJoin bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.heard = bytes.Clone(message)
}
func (f *foreign) last() (l list, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.heard) == 0 {
		return l, fmt.Errorf("nothing yet")
	}
	return l, json.Unmarshal(f.heard[1:], &l)
}

func (n *network) foreign(name string, f *foreign) *memberlist.Memberlist {
	n.t.Helper()
	m := memberlist.DefaultLANConfig()
	m.Name, m.Label = name, n.name
	m.BindAddr, m.BindPort, m.AdvertiseAddr = "127.0.0.1", 0, "127.0.0.1"
	m.Delegate, m.Logger = f, log.New(bytes.NewBuffer(nil), "", 0)
	m.DelegateProtocolVersion, m.DelegateProtocolMin, m.DelegateProtocolMax = 1, 1, 1
	m.PushPullInterval, m.GossipInterval, m.EnableCompression = 200*time.Millisecond, 10*time.Millisecond, false
	m.Keyring, _ = memberlist.NewKeyring(nil, n.keys[0][:])
	list, err := memberlist.Create(m)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { list.Shutdown() })
	return list
}

// TestANodeOfAnOlderVersionInteroperates has a node of version 1 in the
// cluster: no key, no sayings, only epochs.
func TestANodeOfAnOlderVersionInteroperates(t *testing.T) {
	n := newNetwork(t)
	a := n.start("a")
	n.start("b")
	n.agree("a=4 b=4", "a", "b")
	seed := a.Seed()
	epoch := lb.Epoch{Counter: 50, Origin: "old", Members: []lb.Member{self("a"), self("b"), self("old")}}
	f := &foreign{
		meta:  func() []byte { return []byte(`{"b":[111,0,0,0,0,0,0,0],"a":"10.0.0.111","w":4,"r":true}`) },
		state: encode(kindList, map[string]any{"seed": seed[:], "firm": true, "epochs": []lb.Epoch{epoch}}),
	}
	old := n.foreign("old", f)
	if _, err := old.Join([]string{a.Address().String()}); err != nil {
		t.Fatal(err)
	}
	n.agree("a=4 b=4 old=4", "a", "b")
	n.eventually("old is alive", func(c *Cluster) bool { return state(c, "old") == Alive }, "a", "b")
	n.edit("a", "text")
	n.document("1@a text", "a", "b")
	n.eventually("the older one hears epochs", func(c *Cluster) bool { l, err := f.last(); return err == nil && len(l.Epochs) > 0 }, "a")
	if c := a.Counters(); c.Forged+c.Malformed != 0 {
		t.Errorf("counters: %+v", c)
	}
}

// TestANodeOfANewerVersionInteroperates has one that says more: members of
// objects and kinds of messages that nobody here knows.
func TestANodeOfANewerVersionInteroperates(t *testing.T) {
	n := newNetwork(t)
	a := n.start("a")
	n.start("b")
	n.agree("a=4 b=4", "a", "b")
	id, err := newIdentity("")
	if err != nil {
		t.Fatal(err)
	}
	word := id.seal(a.context("saying"), []byte(`{"m":"new","p":"mood","n":5,"b":"Z29vZA==","zeal":{"more":[1,2]}}`))
	seed := a.Seed()
	f := &foreign{state: encode(kindList, map[string]any{
		"seed": seed[:], "firm": true, "epochs": []any{}, "from": "new", "said": []news{{Member: "new", Part: "mood", Seq: 5}}, "more": map[string]int{"x": 1},
	})}
	f.meta = func() []byte { return []byte(`{}`) } // until its address is known
	list := n.foreign("new", f)
	at := list.LocalNode().FullAddress().Addr
	f.meta = func() []byte {
		about := fmt.Sprintf(`{"b":[110,0,0,0,0,0,0,0],"a":"10.0.0.110","w":4,"r":true,"p":3,"n":7,"k":%s,"future":[true]}`, plainJSON(id.public()))
		return id.seal(a.context("about new at "+at), []byte(about))
	}
	if err := list.UpdateNode(time.Second); err != nil {
		t.Fatal(err)
	}
	if _, err := list.Join([]string{a.Address().String()}); err != nil {
		t.Fatal(err)
	}
	n.eventually("new is alive", func(c *Cluster) bool { return state(c, "new") == Alive }, "a", "b")
	for _, m := range list.Members() {
		if m.Name == "a" {
			for _, message := range [][]byte{append([]byte{kindSay}, word...), []byte("Zwhatever"), []byte(`n{"m":"new","p":"x","n":9,"h":"new","extra":1}`)} {
				if err := list.SendReliable(m, message); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	n.eventually("what it says", func(c *Cluster) bool { return said(c, "mood", "new") == "good" }, "a", "b")
	n.eventually("an unknown kind", func(c *Cluster) bool { return c.Counters().Unknown == 1 }, "a")
	if c := a.Counters(); c.Forged+c.Malformed+c.Oversized != 0 {
		t.Errorf("counters: %+v", c)
	}
}

// TestKeysRotateWhileTheClusterRuns adds, uses and removes on each node in turn,
// under edits that all nodes get.
func TestKeysRotateWhileTheClusterRuns(t *testing.T) {
	n := newNetwork(t)
	names := []string{"a", "b", "c"}
	for _, name := range names {
		n.start(name)
	}
	n.agree("a=4 b=4 c=4", names...)
	older, newer := n.keys[0], Key{2}
	seed, epochs := n.nodes["a"].Seed(), n.nodes["a"].Epochs()
	edits := 0
	for _, keys := range [][]Key{{older, newer}, {newer, older}, {newer}} {
		for _, name := range names {
			if err := n.nodes[name].SetKeys(keys); err != nil {
				t.Fatal(err)
			}
			edits++
			n.edit(name, fmt.Sprint(edits))
			n.document(fmt.Sprintf("%d@%s %d", edits, name, edits), names...)
		}
		n.eventually("what everybody has is known", func(c *Cluster) bool {
			rings := c.KeyRings()
			return len(rings) == 3 && !slices.ContainsFunc(rings, func(r KeyRing) bool { return len(r.Names) != len(keys) || r.Names[0] != keys[0].Name() })
		}, names...)
	}
	for _, name := range names {
		c := n.nodes[name]
		if c.Seed() != seed || !slices.EqualFunc(c.Epochs(), epochs, equalEpochs) || len(c.Tags()) != 1 {
			t.Errorf("%s: seed %x, was %x; epochs %s, were %s; tags %x", name, c.Seed(), seed, lines(c.Epochs()), lines(epochs), c.Tags())
		}
	}
	n.keys = []Key{older} // too late
	n.start("d", func(o *Options) { o.Join = []string{n.nodes["a"].Address().String()} })
	n.eventually("refusals of the old key", func(c *Cluster) bool { return c.Counters().WrongKey > 0 }, "a")
}
