package node

import (
	"net/netip"
	"testing"

	"github.com/cirque-lb/lb"
)

func TestClusterProblemsAreThoseOneCanMend(t *testing.T) {
	self := Peer{Name: "edge-1", Self: true, State: "alive"}
	for _, c := range []struct {
		name  string
		join  []string
		peers []Peer
		want  int
	}{
		{"all are here", []string{"10.0.0.12:7946"}, []Peer{self, {Name: "edge-2", State: "alive"}}, 0},
		{"one is dead", []string{"10.0.0.12:7946"}, []Peer{self, {Name: "edge-2", State: "alive"}, {Name: "edge-3", State: "dead"}}, 1},
		{"no seed answers", []string{"10.0.0.12:7946"}, []Peer{self}, 1},
		{"the only seed is this node", []string{"10.0.0.11:7946"}, []Peer{self}, 0},
		{"nobody is to be joined", nil, []Peer{self}, 0},
		{"the others said good-bye", []string{"10.0.0.12:7946"}, []Peer{self, {Name: "edge-2", State: "left"}}, 0},
	} {
		s := &Snapshot{Clustered: true, Peers: c.peers, Config: &lb.Config{Cluster: &lb.ClusterSettings{
			Bind: netip.MustParseAddrPort("10.0.0.11:7946"), Join: c.join}}}
		if got := clusterProblems(s); len(got) != c.want {
			t.Errorf("%s: %+v, want %d", c.name, got, c.want)
		}
	}
}
