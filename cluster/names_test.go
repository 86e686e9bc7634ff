package cluster

import (
	"fmt"
	"testing"
	"time"

	"github.com/cirque-lb/lb"
)

func TestNamesThatAreGoneLeaveRoomForNewOnes(t *testing.T) {
	n := newNetwork(t)
	a := n.start("a")
	a.mu.Lock()
	for i := range maxMember {
		name := fmt.Sprintf("host-%d", i)
		a.identity.pins[name] = pin{Key: make([]byte, 32)}
		a.sayings[name] = map[string]saying{"part": {Member: name, Part: "part", Seq: 1, Body: []byte("x")}}
	}
	a.view.peers["host-7"] = peer{Member: lb.Member{Name: "host-7"}, state: Alive, since: time.Now().Add(-time.Hour)}
	a.mu.Unlock()
	n.start("b")
	n.eventually("b", func(c *Cluster) bool { return state(c, "b") == Alive }, "a")
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.identity.pins) > maxMember || len(a.sayings) > maxMember+2 {
		t.Errorf("%d names and what %d said", len(a.identity.pins), len(a.sayings))
	}
	if _, there := a.identity.pins["host-7"]; !there {
		t.Error("the name of one that is here was forgotten")
	}
}

func TestADocumentThatNobodyHasAnyMoreIsNotOffered(t *testing.T) {
	n := newNetwork(t)
	a := n.start("a")
	n.edit("a", "one")
	apart := Document{Generation: lb.Generation{Counter: 1, Node: "Z"}, Text: []byte("apart")} // it loses to 1@a
	if err := a.Offer(a.Seal(apart)); err != nil {
		t.Fatal(err)
	}
	for i := range shelf + 1 {
		n.edit("a", fmt.Sprint(i))
	}
	n.start("b")
	n.document(fmt.Sprintf("%d@a %d", shelf+2, shelf), "b")
	if letters, more := n.nodes["b"].wanted(); more {
		t.Errorf("b asks for ever: %d letters", len(letters))
	}
}

func TestBothKeysMayBeReplacedAtOnce(t *testing.T) {
	n := newNetwork(t)
	n.keys = []Key{{1}, {2}}
	a := n.start("a")
	if err := a.SetKeys([]Key{{3}, {4}}); err != nil {
		t.Fatal(err)
	}
	if ring := a.gossip.keyring.GetKeys(); len(ring) != 2 {
		t.Errorf("%d keys open gossip, want 2", len(ring))
	}
}
