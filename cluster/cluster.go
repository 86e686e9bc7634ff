// Package cluster knows who is here and what they see.
//
// The nodes of a cluster agree on a list of epochs (see lb.Epoch) without a
// leader: each node mints and merges by the same rules, so equal lists follow
// from having heard the same epochs. All methods may be called concurrently.
// Start at Cluster.Run, then view.go for the rules; gossip.go carries messages
// and is the only file that knows memberlist.
package cluster

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"github.com/cirque-lb/lb"
)

// Options says which cluster to join, as whom.
type Options struct {
	Name      string         // of the cluster; gossip of other names is refused
	Self      lb.Member      // name, boot id, encapsulation address, configured weight
	Bind      netip.AddrPort // for gossip, UDP and TCP; port 0 takes a free one
	Advertise netip.AddrPort // what peers dial; default: Bind
	Join      []string       // host:port of seeds, redialled for ever
	Keys      []Key          // the first one encrypts; none only on a loopback Bind
	// StateFile keeps the epochs over a restart of this process; it belongs
	// where the datapath's life does (run_dir). "": they are kept by peers only.
	StateFile string
	Log       *slog.Logger   // default: discarded
	Notify    func(lb.Event) // told of members and epochs, must not block; nil: nobody
}

// MemberState is what gossip says of a node.
type MemberState string

// The states of a member.
const (
	Alive   MemberState = "alive"
	Suspect MemberState = "suspect" // does not answer, may yet
	Dead    MemberState = "dead"    // did not answer in time
	Left    MemberState = "left"    // said good-bye
)

// Member is a node as gossip knows it.
type Member struct {
	lb.Member
	State  MemberState    `json:"state"`
	Ready  bool           `json:"ready"`  // says that it can serve
	Listed bool           `json:"listed"` // the current epoch has it
	View   uint16         `json:"view"`   // of its epoch list; equal views, equal rows
	Gossip netip.AddrPort `json:"gossip"`
	Since  time.Time      `json:"since"` // of State
	Self   bool           `json:"self"`
}

// Counters count since Open.
type Counters struct {
	WrongKey    uint64 // packets and streams that no key of ours opens, or in clear text
	WrongName   uint64 // of another cluster
	Malformed   uint64 // ours by key, not by content
	Minted      uint64
	Merged      uint64 // epochs learnt from others
	Forgotten   uint64 // epochs beyond the 32 retained
	Dials       uint64 // of seeds
	DialsFailed uint64
	Dropped     uint64 // messages our bounded queues had no room for
}

// Cluster is this node's part in a cluster. Make one with Open.
type Cluster struct{ options Options }

// Open binds the gossip sockets and reads the saved epochs; Run does the rest.
func Open(o Options) (*Cluster, error) { return &Cluster{options: o}, nil }

// Run joins and takes part until ctx ends. It does not leave: peers find out
// that we are gone, or that we are back. Leave says good-bye.
func (c *Cluster) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// SetReady says whether this node can serve. A ready node that the current
// epoch lacks adds itself as soon as it has the full list.
func (c *Cluster) SetReady(ready bool) {}

// SetWeight changes this node's weight in the next epoch: 0 drains it, its
// configured slots undrain it.
func (c *Cluster) SetWeight(weight int) {}

// Synced reports whether we have heard the full epoch list from a peer, or
// that no peer answers.
func (c *Cluster) Synced() bool { return false }

// Epochs lists what is agreed, newest first; it must not be changed.
func (c *Cluster) Epochs() []lb.Epoch { return nil }

// Members lists every node gossip knows, this one included, by name.
func (c *Cluster) Members() []Member { return nil }

// Changed carries a token after Epochs or Members changed; tokens coalesce.
func (c *Cluster) Changed() <-chan struct{} { return nil }

// Counters reports what happened so far.
func (c *Cluster) Counters() Counters { return Counters{} }

// Address is the gossip address that peers dial.
func (c *Cluster) Address() netip.AddrPort { return netip.AddrPort{} }

// Leave takes this node out of the current epoch and says good-bye, within
// ctx. Connections it still has stay reachable through the previous epochs.
func (c *Cluster) Leave(ctx context.Context) error { return nil }

// Close ends gossip without a good-bye and waits for what Open started.
func (c *Cluster) Close() error { return nil }
