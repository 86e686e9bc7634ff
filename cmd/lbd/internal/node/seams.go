package node

import (
	"context"
	"net/netip"
	"time"

	"github.com/cirque-lb/lb"
)

// Fleet is the parent side of the worker processes and the owner of every
// listening socket.
type Fleet interface {
	// Apply opens what sockets are missing, has every worker build the update,
	// calls Persist and switches it in: all or none.
	Apply(context.Context, Update) error
	Adopted() map[string][]byte // files of the configuration that adopted workers serve
	SetState(lb.State)          // does not wait
	// Upgrade replaces the crew by one of the given binary ("": the path that
	// was resolved at start) and returns when the new one serves.
	Upgrade(ctx context.Context, binary string) error
	// OrderWorker drains a worker of the crew, or takes that back: ErrNoWorker,
	// ErrLastWorker.
	OrderWorker(ctx context.Context, name string, drain bool) error
	// CloseListener closes the sockets of a listener and says whether there were
	// any; its connections stay. OpenListener opens them again.
	CloseListener(ctx context.Context, name string) (closed bool, err error)
	OpenListener(ctx context.Context, name string) error
	Stats() lb.Stats       // totals that survive workers
	Refused() []lb.Refusal // the last malformed requests, newest first
	Crashes() []lb.Crash   // the last workers that ended by themselves, newest first
	Crew() []Worker
	Sockets() []lb.SteeredBind
	Notes() []string          // what runs otherwise than an operator may expect
	Changed() <-chan struct{} // a token after Crew or Sockets changed; tokens coalesce
	Events() <-chan lb.Event
}

// Update is one configuration on its way to the workers. They parse Document
// themselves, with the same filters, and build from Files; Config is what the
// node made of the same bytes.
type Update struct {
	Generation uint64
	File       string // the document's name in messages
	Document   []byte
	Files      map[string][]byte // every file the configuration names, by path
	Config     *lb.Config
	Drained    []string // listeners whose sockets are not opened; those that are open stay
	// Persist is called once, after every worker has built the update and
	// before any switches to it. Its error leaves everything as it was.
	Persist func() error
	// Built, when set, is told what each worker answered. It may be called
	// concurrently.
	Built func(worker string, pid int, took time.Duration, err error)
}

// Worker is one worker process.
type Worker struct {
	Crew        int // the start or upgrade it belongs to
	Index       int // its place in the crew
	PID         int
	State       string // starting | ready | stuck | draining | drained | down
	Ready       bool
	Slots       []int // it accepts on these now
	Connections int   // of clients, as of a moment ago
	Generation  uint64
	Version     string
	Since       time.Time // when it started or was adopted
	Restarts    int       // of this place in the crew
	Adopted     bool      // an earlier supervisor started it
	Detail      string
}

// Datapath is the kernel half.
type Datapath interface {
	Apply(lb.Steering) error // the same Steering twice writes nothing the second time
	Fastpath() Fastpath
	Explain(lb.Tuple) Path
	Silent() []netip.Addr  // peers whose datapath does not answer
	Turning() []netip.Addr // peers whose workers serve, by what it answers
	// Holdings lists the earlier epochs that connections here need, and Destroy
	// closes those that need one, from below.
	Holdings() ([]Holding, error)
	Destroy(epoch uint64) (int, error)
	Samples() []lb.Sample
}

// Fastpath says how packets are steered, and why not better.
type Fastpath struct {
	Mode       string            // native | generic | sk_lookup | off
	Interfaces map[string]string // interface -> native | generic | off
	Reason     string            // why it is not the best mode, in words; "" when it is
	Problems   []string          // what does not hold and an operator can mend
}

// Path is what the datapath does with a flow.
type Path struct {
	VIP   string   // "" when no VIP matches: the packet passes untouched
	Row   int      // -1 without one
	Chain []string // names of the row's owners, the current one first
	Slot  int      // -1 when none here takes it
	Why   []string // one sentence per decision

	Service string // whose packets these are; "" the workers'
	Backend string // where a new flow of a service goes
}

// Monitor probes backends. Whoever makes it sends its changes to Node.Note.
type Monitor interface {
	Update([]Target)
	Health() map[lb.BackendID]lb.Health // of every target now; the caller's own map
	Report() []Report                   // sorted by identity
}

// Target is a backend to be probed.
type Target struct {
	ID    lb.BackendID
	Check lb.Check
}

// Report is what a monitor knows of a target.
type Report struct {
	ID     lb.BackendID
	Health lb.Health
	Since  time.Time // of the last change; zero while unknown
	Reason string    // what the probe saw that made it
	Streak int       // equal results in a row, the last one included
	Probes uint64
	Fails  uint64
	Last   []Probe // newest first, a few

	Heard  bool // other nodes probe it, and this one goes by what they find
	Alone  bool // this node finds it down, the others that probe it find it up
	Others int  // whose word on it is fresh
}

// Probe is what one probe found.
type Probe struct {
	At     time.Time
	OK     bool
	Took   time.Duration
	Detail string // "status 200"; "connect: connection refused"
}

// Detail is what the last probe saw, "" without one.
func (r Report) Detail() string {
	if len(r.Last) == 0 {
		return ""
	}
	return r.Last[0].Detail
}

// Discovery finds the backends that a configuration does not list by address.
// Whoever makes it sends its events to Node.Note.
type Discovery interface {
	// Recall hands over the answers of an earlier life, by source.
	Recall(map[string][]lb.Backend)
	Follow([]lb.Discovery) // replaces what is followed; does not wait
	// Await follows these, too, and returns when each was asked once or ctx
	// ends.
	Await(context.Context, []lb.Discovery)
	Found(lb.Discovery) []lb.Backend // the last good answer; nil: none yet
	Changed() <-chan struct{}        // a token after an answer or a source's state changed; tokens coalesce
	Sources() []Source               // by name
}

// Source is what is known of a source of backends.
type Source struct {
	Name     string // lb.Discovery.String
	Backends int    // of the last good answer
	Answered time.Time
	Failing  time.Time // since when; zero: the last question was answered
	Err      error     // why
	Asks     uint64
	Failures uint64
}

// Cluster knows the other nodes. Whoever makes it sends its events to Node.Note.
type Cluster interface {
	SetReady(bool)            // whether this node can serve
	SetWeight(int)            // in the next epoch; 0 drains
	Epochs() []lb.Epoch       // newest first; not to be changed
	Peers() []Peer            // by name, this node among them
	Forget([]uint64)          // these earlier epochs, by digest, and no others
	Changed() <-chan struct{} // a token after Epochs or Peers changed; tokens coalesce
	Seed() [16]byte           // of the row hash
	Tags() []uint32           // of encapsulated packets
	Samples() []lb.Sample     // what gossip counts

	// What a node says of itself; nobody else can.
	Say(part string, body []byte, repeat bool) error
	Said(part string) []Saying // by all nodes, this one included

	// The document that the nodes share: the last writer wins.
	Seal(Document) string                 // the signature of an edit that this node makes
	Offer(seal string, text []byte) error // what this node has
	Document() (Document, bool)           // the newest that is here
	Losses() []Document                   // once: edits that lost to one made without knowing of them
	Counter() uint64                      // the greatest of a document that anybody says to have
}

// Peer is a node as gossip knows it.
type Peer struct {
	Name    string
	Address netip.Addr
	State   string // alive | suspect | dead | left
	Ready   bool   // says that it can serve
	Listed  bool   // the current epoch has it
	Weight  int
	View    uint16 // equal views, equal rows
	Since   time.Time
	Self    bool
}
