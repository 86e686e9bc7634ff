package node

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/cirque-lb/lb"
)

var (
	web  = lb.VIP{Addr: netip.MustParseAddr("192.0.2.10"), Port: 80, Protocol: lb.TCP}
	mail = lb.VIP{Addr: netip.MustParseAddr("192.0.2.11"), Port: 25, Protocol: lb.TCP}
)

func TestAVIPThatSomeMemberLacksStaysWhereItArrives(t *testing.T) {
	b := Peer{Name: "b", State: "alive", Listed: true}
	with := func(edit func(*Peer)) Peer { p := b; edit(&p); return p }
	both, one := []lb.VIP{web, mail}, []lb.VIP{web}
	for _, c := range []struct {
		sentence string
		peers    []Peer
		served   map[string][]lb.VIP
		was      []lb.VIP
		here     []lb.VIP
		wasHere  []lb.VIP
	}{
		{"all have all", []Peer{b}, map[string][]lb.VIP{"b": both}, nil, nil, nil},
		{"one lacks one", []Peer{b}, map[string][]lb.VIP{"b": one}, nil, []lb.VIP{mail}, nil},
		{"one serves nothing yet", []Peer{b}, map[string][]lb.VIP{"b": {}}, nil, both, nil},
		{"one does not say", []Peer{b}, nil, nil, nil, nil},
		{"who is not listed does not matter", []Peer{with(func(p *Peer) { p.Listed = false })}, map[string][]lb.VIP{"b": one}, nil, nil, nil},
		{"who is dead does not matter", []Peer{with(func(p *Peer) { p.State = "dead" })}, map[string][]lb.VIP{"b": one}, nil, nil, nil},
		{"we do not matter", []Peer{with(func(p *Peer) { p.Self = true })}, map[string][]lb.VIP{"b": one}, nil, nil, nil},
		{"it was so lately", []Peer{b}, map[string][]lb.VIP{"b": both}, []lb.VIP{mail}, nil, []lb.VIP{mail}},
		{"it was so, and is again", []Peer{b}, map[string][]lb.VIP{"b": one}, []lb.VIP{mail}, []lb.VIP{mail}, nil},
	} {
		s := lb.Steering{VIPs: both}
		notes := planVIPs(Facts{Peers: c.peers, Served: c.served, WasHere: c.was}, nil, &s)
		if !reflect.DeepEqual(s.Here, c.here) || !reflect.DeepEqual(s.WasHere, c.wasHere) || len(notes) != len(c.here) {
			t.Errorf("%s: here %v, was here %v, %q", c.sentence, s.Here, s.WasHere, notes)
		}
	}
}

func TestAVIPThatDrainsHereGoesToMembersThatServeIt(t *testing.T) {
	peer := func(name string, edit func(*Peer)) Peer {
		p := Peer{Name: name, State: "alive", Listed: true, Weight: 2}
		if edit != nil {
			edit(&p)
		}
		return p
	}
	b, c := peer("b", nil), peer("c", nil)
	both, one := []lb.VIP{web, mail}, []lb.VIP{web}
	for _, x := range []struct {
		sentence  string
		peers     []Peer
		served    map[string][]lb.VIP
		withdrawn []lb.VIP
		was       []lb.VIP
		away      []lb.VIP
		wasAway   []lb.VIP
		to        []string
		notes     int
	}{
		{"nothing drains", []Peer{b, c}, nil, nil, nil, nil, nil, nil, 0},
		{"all others serve it", []Peer{b, c}, map[string][]lb.VIP{"b": both, "c": both}, one, nil, one, nil, []string{"b", "c"}, 0},
		{"one does not say", []Peer{b, c}, map[string][]lb.VIP{"c": both}, one, nil, one, nil, []string{"b", "c"}, 0},
		{"it drains at another, too", []Peer{b, c}, map[string][]lb.VIP{"b": {mail}, "c": both}, one, nil, one, nil, []string{"c"}, 0},
		{"no other serves it", []Peer{b}, map[string][]lb.VIP{"b": {mail}}, one, nil, nil, nil, nil, 1},
		{"two drain: who serves both", []Peer{b, c}, map[string][]lb.VIP{"b": one, "c": both}, both, nil, both, nil, []string{"c"}, 0},
		{"two drain, nobody serves both", []Peer{b, c}, map[string][]lb.VIP{"b": one, "c": {mail}}, both, nil, one, nil, []string{"b"}, 1},
		{"who drains as a node takes nothing", []Peer{peer("b", func(p *Peer) { p.Weight = 0 }), c}, nil, one, nil, one, nil, []string{"c"}, 0},
		{"nor who is dead", []Peer{peer("b", func(p *Peer) { p.State = "dead" }), c}, nil, one, nil, one, nil, []string{"c"}, 0},
		{"nor this node", []Peer{peer("a", func(p *Peer) { p.Self = true })}, nil, one, nil, nil, nil, nil, 1},
		{"it drained lately", []Peer{b, c}, nil, nil, one, nil, one, []string{"b", "c"}, 0},
		{"it drained lately, and does again", []Peer{b, c}, nil, one, one, one, nil, []string{"b", "c"}, 0},
	} {
		s := lb.Steering{VIPs: both}
		notes := planVIPs(Facts{Peers: x.peers, Served: x.served, WasAway: x.was}, x.withdrawn, &s)
		if !slices.Equal(s.Away, x.away) || !slices.Equal(s.WasAway, x.wasAway) || !slices.Equal(s.AwayTo, x.to) || len(notes) != x.notes {
			t.Errorf("%s: away %v, was away %v, to %v, %q", x.sentence, s.Away, s.WasAway, s.AwayTo, notes)
		}
	}
}

func TestVIPsAreSaidAsTheyAre(t *testing.T) {
	text, err := json.Marshal([]lb.VIP{web, mail})
	var back []lb.VIP
	if err == nil {
		err = json.Unmarshal(text, &back)
	}
	if err != nil || !slices.Equal(back, []lb.VIP{web, mail}) {
		t.Errorf("%s came back as %v: %v", text, back, err)
	}
}

func TestGossipAloneTakesNoConnectionsAway(t *testing.T) {
	at := netip.MustParseAddr("10.0.0.2")
	f := Facts{Clustered: true, Fastpath: "native", Epochs: []lb.Epoch{{Members: []lb.Member{{Name: "b"}}}}}
	for _, c := range []struct {
		sentence string
		state    string
		silent   []netip.Addr
		gone     []string
		note     string
	}{
		{"alive", "alive", nil, nil, ""},
		{"gossip hears it, its datapath does not answer", "alive", []netip.Addr{at}, nil, ""},
		{"gossip lost it, its datapath answers", "dead", nil, nil, "keeps the connections"},
		{"both are gone", "dead", []netip.Addr{at}, []string{"b"}, ""},
		{"it left, and nothing answers", "left", []netip.Addr{at}, []string{"b"}, ""},
		{"it left, and still has connections", "left", nil, nil, ""},
	} {
		f.Peers, f.Silent = []Peer{{Name: "b", Address: at, State: c.state}}, c.silent
		names, notes := gone(f)
		if !slices.Equal(names, c.gone) || !strings.Contains(strings.Join(notes, "; "), c.note) || c.note == "" && notes != nil {
			t.Errorf("%s: gone %v, notes %q", c.sentence, names, notes)
		}
	}
}

func TestFragmentsAreTakenWhereTheConfigurationSaysSo(t *testing.T) {
	c := &lb.Config{
		Protect: lb.ProtectSettings{MissesPerSecond: 77},
		Listeners: []*lb.Listener{
			{Bind: netip.MustParseAddrPort("192.0.2.10:80"), Fragments: lb.FragmentsHash},
			{Bind: netip.MustParseAddrPort("192.0.2.10:81"), Fragments: lb.FragmentsHash},
			{Bind: netip.MustParseAddrPort("192.0.2.11:80"), Fragments: lb.FragmentsDrop},
			{Bind: netip.MustParseAddrPort("127.0.0.1:80"), Fragments: lb.FragmentsHash}, // no VIP
		},
		Services: []*lb.Service{{Bind: netip.MustParseAddrPort("[2001:db8::1]:53"), Protocol: "udp", Fragments: lb.FragmentsHash}},
	}
	s, _ := steering(Facts{Config: c}, nil)
	if want := []netip.Addr{netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("2001:db8::1")}; !slices.Equal(s.Fragments, want) || s.Misses != 77 {
		t.Errorf("fragments to %v, %d misses; want %v, 77", s.Fragments, s.Misses, want)
	}
}
