// Package lb holds the nouns of the load balancer: what a configuration says
// (Config, Listener, Route, Pool, Service), what a cluster agrees on (Member,
// Epoch), what is observed (Health, State, Stats) and the reason codes that
// every drop, refusal, retry and fallback carries.
//
// It imports nothing of the project, so every other package may import it.
// Values are plain data: build one, hand it out, never change it afterwards.
// Start at Parse, then Config.
package lb

import (
	"cmp"
	"encoding/binary"
	"hash/fnv"
	"net/netip"
	"slices"
	"strconv"
	"time"
)

// Protocol is the transport protocol of a VIP or a Service: its IANA number.
type Protocol uint8

// The transport protocols that Cirque steers.
const (
	TCP Protocol = 6
	UDP Protocol = 17
)

func (p Protocol) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	}
	return "protocol " + strconv.Itoa(int(p))
}

// VIP is an address, port and protocol that this node answers for although no
// interface owns it. Port 0 means any port.
type VIP struct {
	Addr     netip.Addr
	Port     uint16
	Protocol Protocol
}

func (v VIP) String() string {
	return netip.AddrPortFrom(v.Addr, v.Port).String() + "/" + v.Protocol.String()
}

// Tuple names one flow as the client's packets carry it.
type Tuple struct {
	Protocol Protocol
	Src, Dst netip.AddrPort
}

func (t Tuple) String() string {
	return t.Protocol.String() + " " + t.Src.String() + " > " + t.Dst.String()
}

// Rows is the number of hash buckets that flows fall in: a prime, the same in
// every epoch and on every node.
const Rows = 65537

// BootID is a random id made with a datapath (in run_dir, on tmpfs): kept when
// lbd restarts, new when the host or its namespace is new.
type BootID [8]byte

// Member is a node as an Epoch lists it.
type Member struct {
	Name    string     `json:"name"`
	Boot    BootID     `json:"boot"`
	Address netip.Addr `json:"address"` // where encapsulated packets go
	Weight  int        `json:"weight"`  // configured slots; 0: gets no new flows
}

// Epoch is one agreed node set. Epochs form a set ordered by (Counter, Origin);
// the greatest one is current. Members are sorted by name.
type Epoch struct {
	Counter uint64   `json:"counter"`
	Origin  string   `json:"origin"` // the member that minted it
	Members []Member `json:"members"`
}

// Compare orders epochs by (Counter, Origin).
func (e Epoch) Compare(o Epoch) int {
	return cmp.Or(cmp.Compare(e.Counter, o.Counter), cmp.Compare(e.Origin, o.Origin))
}

// SameMembers reports whether both epochs list the same members with the same
// boot ids, addresses and weights.
func (e Epoch) SameMembers(o Epoch) bool { return slices.Equal(e.Members, o.Members) }

// Digest identifies the epoch's content: 64-bit FNV-1a over its fields.
func (e Epoch) Digest() uint64 {
	h := fnv.New64a()
	var n [8]byte
	number := func(v uint64) { binary.BigEndian.PutUint64(n[:], v); h.Write(n[:]) }
	text := func(s string) { number(uint64(len(s))); h.Write([]byte(s)) }
	number(e.Counter)
	text(e.Origin)
	for _, m := range e.Members {
		text(m.Name)
		h.Write(m.Boot[:])
		text(m.Address.String())
		number(uint64(m.Weight))
	}
	return h.Sum64()
}

// View is the 16-bit digest of an ordered epoch list (newest first): two nodes
// with equal views derive equal rows. 0 is never a view of a non-empty list.
func View(epochs []Epoch) uint16 {
	if len(epochs) == 0 {
		return 0
	}
	h := fnv.New64a()
	var n [8]byte
	for _, e := range epochs {
		binary.BigEndian.PutUint64(n[:], e.Digest())
		h.Write(n[:])
	}
	s := h.Sum64()
	return max(1, uint16(s^s>>16^s>>32^s>>48))
}

// Steering is everything a datapath needs to know; applying the same Steering
// twice writes nothing the second time.
type Steering struct {
	Self string // our name among the members; "" or unlisted: we own no row
	VIPs []VIP  // what XDP looks at; all else passes untouched
	// Here lists those of them that some member lacks: their new connections
	// stay where they arrive. WasHere lists those of which this was so lately.
	Here, WasHere []VIP
	// Away lists those whose new connections go to the members of AwayTo: their
	// listeners drain here. WasAway lists those of which this was so lately.
	Away, WasAway []VIP
	AwayTo        []string
	// Fragments lists the addresses of VIPs and services that take fragments:
	// ports play no part in the rows of their packets.
	Fragments []netip.Addr
	// Misses is how many segments without a connection here one CPU sends on to
	// earlier owners, in a second; 0: any number.
	Misses int
	// Gone lists members that are dead for certain: their connections are, too.
	Gone   []string
	Epochs []Epoch // newest first; empty: every row belongs to this node
	Seed   [16]byte
	// Tag authenticates encapsulated packets: of the current key first, then
	// of a key that is being rotated out. Empty: no encapsulation is accepted.
	Tags []uint32
	// Binds lists what sk_lookup serves; new connections go to live slots only.
	Binds []SteeredBind
	// Services are what XDP sends to backends; their VIPs are not among VIPs.
	Services []SteeredService
	// Sources says what is known of where packets come from.
	Sources []SteeredSource
	Limits  SourceLimits
}

// SourceLimits is how much one source may send to VIPs in a second; 0: as much
// as it likes.
type SourceLimits struct{ Packets, SYNs int }

// SteeredSource is what is known of a prefix; the longest one that fits counts.
type SteeredSource struct {
	Prefix  netip.Prefix
	Blocked bool // its packets to VIPs are dropped
	Exempt  bool // neither blocked by a wider prefix nor limited
	Trusted bool // a backend takes packets out of encapsulations of its
}

// SteeredService is an L4 service as the datapath needs it.
type SteeredService struct {
	Name     string
	VIP      VIP
	Forward  string // ipip | gue | l2
	ByClient bool   // all flows of a client go to one backend
	// Hold is how long connections that began before a backend's share changed
	// stay where they are.
	Hold     time.Duration
	Backends []SteeredBackend
}

// SteeredBackend is a backend of a SteeredService.
type SteeredBackend struct {
	ID      BackendID
	Address netip.Addr
	Weight  int  // its share of new flows
	Takes   bool // gets new flows now; else its share goes to the others
	Keeps   bool // its connections stay: it is up, or may be
}

// SteeredBind is one bound address and port with its listening sockets.
type SteeredBind struct {
	Bind    netip.AddrPort // an unspecified address: any local one
	Sockets []int          // file descriptor of slot i's listening socket, or -1
	Live    []bool         // whether slot i takes new connections
}

// Health is what is known of a backend. Unknown counts as up.
type Health uint8

// The states of a backend.
const (
	Unknown Health = iota
	Up
	Down
)

func (h Health) String() string { return [...]string{"unknown", "up", "down"}[min(h, Down)] }

// MarshalText writes the state's name.
func (h Health) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText reads a state's name; anything unknown is Unknown.
func (h *Health) UnmarshalText(b []byte) error {
	*h = Unknown
	switch string(b) {
	case "up":
		*h = Up
	case "down":
		*h = Down
	}
	return nil
}

// BackendID is a backend's identity: its pool and address, never its weight.
// Its text form is "pool/address".
type BackendID struct {
	Pool    string
	Address string
}

func (id BackendID) String() string { return id.Pool + "/" + id.Address }

// MarshalText writes "pool/address".
func (id BackendID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads "pool/address"; the pool's name holds no slash.
func (id *BackendID) UnmarshalText(b []byte) error {
	pool, address, _ := cutSlash(string(b))
	*id = BackendID{pool, address}
	return nil
}

func cutSlash(s string) (before, after string, found bool) {
	for i := range len(s) {
		if s[i] == '/' {
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}

// Admin is an operator's standing order for a backend; it overlays the
// configuration, survives restarts and is shown as such.
type Admin struct {
	Drain   bool      `json:"drain,omitempty"`   // no new requests; those running finish
	Since   time.Time `json:"since,omitzero"`    // it drains
	Cut     bool      `json:"cut,omitempty"`     // that has lasted longer than drain.timeout: what still runs is cut
	Disable bool      `json:"disable,omitempty"` // no new requests; those running are cut
	Weight  *int      `json:"weight,omitempty"`  // instead of the configured weight
}

// State is what the workers act on besides the configuration: observed health
// and the operators' overlay. A backend that is not listed is Unknown.
type State struct {
	Health map[BackendID]Health `json:"health,omitempty"`
	Admin  map[BackendID]Admin  `json:"admin,omitempty"`
	// Draining: the node leaves; responses carry Connection: close, HTTP/2
	// connections get GOAWAY.
	Draining bool `json:"draining,omitempty"`
	// Cut: the drain has lasted longer than drain.timeout; client connections
	// that are still open are closed.
	Cut bool `json:"cut,omitempty"`
	// Stragglers are clients whose connections are closed: their packets would
	// not find the way to this node any more.
	Stragglers []netip.AddrPort `json:"stragglers,omitempty"`
	// Listeners are those that drain: who comes new is turned away, who is here
	// is told to go. True: that has lasted longer than drain.timeout, and what
	// is left is closed.
	Listeners map[string]bool `json:"listeners,omitempty"`
}

// Sample is one metric value, cumulative since its worker began unless Gauge.
// The name is the Prometheus name; Labels are name, value, name, value…
type Sample struct {
	Name    string   `json:"n"`
	Labels  []string `json:"l,omitempty"`
	Gauge   bool     `json:"g,omitempty"`
	Value   float64  `json:"v,omitempty"`
	Buckets []Bucket `json:"b,omitempty"` // a histogram: Value is the sum of all observations
	Count   uint64   `json:"c,omitempty"` // a histogram's number of observations
}

// Bucket is the cumulative count of observations of at most Le.
type Bucket struct {
	Le float64 `json:"le"`
	N  uint64  `json:"n"`
}

// BackendLoad is what one worker knows of a backend's use now.
type BackendLoad struct {
	ID          BackendID `json:"id"`
	Active      int       `json:"active"`      // requests and tunnels in progress
	Connections int       `json:"connections"` // open, idle ones included
	Requests    uint64    `json:"requests"`    // since the worker began
	Failures    uint64    `json:"failures"`    // attempts that failed, or were answered with 5xx
	Latency     *Timing   `json:"latency,omitempty"`
	Ejected     *Ejection `json:"ejected,omitempty"`
}

// Timing counts how long a backend took to answer: Counts[i] of at most
// TimingBounds[i] seconds and more than the bound before, the last of more.
type Timing struct {
	Counts []uint64 `json:"n"`
	Sum    float64  `json:"sum"` // in seconds
}

// TimingBounds are in seconds: a proxied request takes 0.2 ms at best, and the
// default time-out is 60 s.
var TimingBounds = [...]float64{.00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}

// Add is the sum of both; those of a version with other bounds are given up.
func (t *Timing) Add(o *Timing) *Timing {
	switch {
	case t == nil:
		return o
	case o == nil || len(t.Counts) != len(o.Counts):
		return t
	}
	sum := &Timing{Counts: slices.Clone(t.Counts), Sum: t.Sum + o.Sum}
	for i, n := range o.Counts {
		sum.Counts[i] += n
	}
	return sum
}

// Ejection is a worker's verdict on a backend that failed too often: it gets no
// requests of this worker for a while.
type Ejection struct {
	Reason Reason    `json:"reason"`
	Since  time.Time `json:"since"`
	Until  time.Time `json:"until"`
	Times  int       `json:"times"` // in a row, this one included; each is longer
}

// Stats is what one worker reports when asked; values are since it began.
type Stats struct {
	Samples     []Sample      `json:"samples"`
	Backends    []BackendLoad `json:"backends"`
	Connections int           `json:"connections"` // client connections open now
	Requests    int           `json:"requests"`    // requests in progress now
}

// Refusal is a request that a worker could not take for one.
type Refusal struct {
	Time     time.Time      `json:"time"`
	Listener string         `json:"listener"`
	Client   netip.AddrPort `json:"client"`
	Version  string         `json:"version"`
	Status   int            `json:"status"` // what it was answered with, or would have been
	Reason   Reason         `json:"reason"`
	Error    string         `json:"error"` // the rule it broke
	Head     []byte         `json:"head"`  // how it began, passwords and cookies blanked out
}

// Crash is what is known of a worker that ended otherwise than it was told to.
type Crash struct {
	Time    time.Time `json:"time"`
	Worker  string    `json:"worker"` // crew.index
	PID     int       `json:"pid"`
	Version string    `json:"version"`
	Started time.Time `json:"started"`
	How     string    `json:"how"`            // the signal or exit status
	Said    string    `json:"said,omitempty"` // the runtime's last words: a panic and its stacks
	Flight
}

// Flight is what a worker's recorder held when it ended.
type Flight struct {
	Begun    uint64          `json:"begun"` // requests of its life
	Ended    uint64          `json:"ended"`
	Failed   uint64          `json:"failed"`   // of those: 5xx, or no response at all
	Requests []FlightRequest `json:"requests"` // the last of each thread, newest first
}

// FlightRequest is one request in a recorder; long texts are cut.
type FlightRequest struct {
	Time     time.Time     `json:"time"`
	Thread   int           `json:"thread"`
	Method   string        `json:"method"`
	Listener string        `json:"listener"`
	Route    string        `json:"route"`
	Path     string        `json:"path"` // without the query
	UnderWay bool          `json:"under_way,omitempty"`
	Status   int           `json:"status,omitempty"` // 0: under way, or no response
	Took     time.Duration `json:"took,omitempty"`
}

// Event is something an operator may want to know of: an ejection, a drain, an
// epoch, a fallback.
type Event struct {
	Time    time.Time `json:"time"`
	Kind    string    `json:"kind"`    // noun.verb: backend.down, worker.exit, epoch.minted
	Subject string    `json:"subject"` // what it happened to
	Reason  Reason    `json:"reason,omitempty"`
	Detail  string    `json:"detail,omitempty"`
}
