package admin

import (
	"time"

	"github.com/cirque-lb/lb"
)

// Status answers the five daily questions: what is exposed, which listener
// gets traffic, which route sends it where, are the backends healthy, are the
// nodes in sync.
type Status struct {
	Node        string     `json:"node"`
	Version     string     `json:"version"`
	Started     time.Time  `json:"started"`
	State       string     `json:"state"` // starting | serving | not ready | draining | empty
	Generation  string     `json:"generation"`
	Document    string     `json:"document,omitempty"` // the edit of the objects, when a document owns them
	Since       time.Time  `json:"since,omitzero"`     // of the generation
	Trial       *Trial     `json:"trial,omitempty"`    // the generation is taken back unless it is confirmed
	Owner       string     `json:"owner"`              // of the objects: file | document
	File        string     `json:"file"`
	Fastpath    Fastpath   `json:"fastpath"`
	Connections int        `json:"connections"`
	Requests    int        `json:"requests"`
	Listeners   []Listener `json:"listeners"`
	Routes      []Route    `json:"routes"`
	Pools       []Pool     `json:"pools"`
	Services    []Service  `json:"services"`
	Sources     []Source   `json:"sources"` // of discovered backends
	Workers     []Worker   `json:"workers"`
	Nodes       []Node     `json:"nodes"`
	Problems    []Problem  `json:"problems"` // what an operator can mend; any makes the node degraded
	Notes       []string   `json:"notes"`    // modes that were chosen or are all this host can do
}

// Degraded reports whether something is broken that an operator can mend.
func (s Status) Degraded() bool { return len(s.Problems) > 0 }

// Trial is a change that is taken back unless somebody confirms it.
type Trial struct {
	Back  string    `json:"back"` // the generation that returns
	Until time.Time `json:"until"`
	By    string    `json:"by"`
}

// Problem is one reason for being degraded, with the next thing to do.
type Problem struct {
	Subject string `json:"subject"`
	Text    string `json:"text"`
	Do      string `json:"do,omitempty"`
}

// Fastpath says how packets are steered, and why not better.
type Fastpath struct {
	Wanted     string            `json:"wanted"`
	Mode       string            `json:"mode"` // native | generic | sk_lookup | off
	Interfaces map[string]string `json:"interfaces,omitempty"`
	Reason     string            `json:"reason,omitempty"`
	Epoch      string            `json:"epoch,omitempty"` // counter@origin of the current one
	View       uint16            `json:"view,omitempty"`
}

// Listener is an address the workers serve.
type Listener struct {
	Name        string  `json:"name"`
	Bind        string  `json:"bind"`
	Protocol    string  `json:"protocol"`
	Scope       string  `json:"scope"` // local | vip
	Slots       int     `json:"slots"`
	Live        int     `json:"live"` // slots that take new connections
	Connections float64 `json:"connections"`
	Requests    float64 `json:"requests"`        // since the daemon's first worker
	Drain       string  `json:"drain,omitempty"` // draining | empty | closed; "": it serves
	Note        string  `json:"note,omitempty"`
}

// Route is one row of the routing table, in the order of matching.
type Route struct {
	Index   int      `json:"index"`
	Line    int      `json:"line"`
	Match   string   `json:"match"`
	Filters []string `json:"filters,omitempty"`
	Target  string   `json:"target"` // pool app | split a:90 b:10 | redirect 308 | respond 200
}

// Pool is backends with a balancer and a check.
type Pool struct {
	Name     string `json:"name"`
	Protocol string `json:"protocol"`
	Balance  string `json:"balance"`
	Check    string `json:"check"`              // "http /healthz every 2s"; "" without one
	Discover string `json:"discover,omitempty"` // "dns app.internal:80"; "" without discovery
	Backends int    `json:"backends"`
	Usable   int    `json:"usable"` // neither down nor drained nor disabled
	Active   int    `json:"active"`
}

// Service is an L4 service: packets go to the pool's backends.
type Service struct {
	Name     string `json:"name"`
	Bind     string `json:"bind"`
	Protocol string `json:"protocol"`
	Forward  string `json:"forward"`
	Affinity string `json:"affinity,omitempty"`
	Pool     string `json:"pool"`
	Backends int    `json:"backends"`
	Usable   int    `json:"usable"`

	Packets     float64         `json:"packets"` // since the datapath was made
	Bytes       float64         `json:"bytes"`
	Connections float64         `json:"connections"` // SYNs
	Members     []ServiceMember `json:"members"`
}

// ServiceMember is what one backend gets of a service.
type ServiceMember struct {
	Address     string  `json:"address"`
	Share       float64 `json:"share"` // of new flows, 0 to 1
	Packets     float64 `json:"packets"`
	Bytes       float64 `json:"bytes"`
	Connections float64 `json:"connections"`
}

// Source is a place where pools find backends.
type Source struct {
	Name     string    `json:"name"` // dns app.internal:80
	Pools    []string  `json:"pools"`
	Backends int       `json:"backends"` // of the last good answer, which is in use
	Answered time.Time `json:"answered,omitzero"`
	Failing  time.Time `json:"failing,omitzero"` // since when
	Error    string    `json:"error,omitempty"`
}

// Backend is one server of a pool as this node sees it.
type Backend struct {
	ID          string        `json:"id"` // pool/address
	Pool        string        `json:"pool"`
	Address     string        `json:"address"`
	State       string        `json:"state"` // up | down | ejected | unknown | draining | drained | disabled
	Health      string        `json:"health"`
	Weight      int           `json:"weight"`     // the one in force
	Configured  int           `json:"configured"` // the document's
	Backup      bool          `json:"backup,omitempty"`
	Discovered  bool          `json:"discovered,omitempty"` // not listed in the document
	Drain       bool          `json:"drain,omitempty"`
	Disable     bool          `json:"disable,omitempty"`
	Active      int           `json:"active"`      // requests and tunnels in progress
	Connections int           `json:"connections"` // open, idle ones included
	Requests    uint64        `json:"requests"`
	Failures    uint64        `json:"failures"`
	Check       string        `json:"check,omitempty"` // what the last probe saw
	Since       time.Time     `json:"since,omitzero"`  // of the health's last change
	Took        time.Duration `json:"took_ns,omitempty"`
	Alone       bool          `json:"alone,omitempty"` // down as this node sees it, up as the others do
	Ejected     *Ejection     `json:"ejected,omitempty"`
}

// Ejection is why requests pass a backend by that its checks find up.
type Ejection struct {
	Since  time.Time `json:"since"`
	Until  time.Time `json:"until"`
	Reason string    `json:"reason"`
	Times  int       `json:"times"` // in a row; each is longer
}

// Story says why a backend is in the state it is in.
type Story struct {
	Backend Backend  `json:"backend"`
	Verdict string   `json:"verdict"` // whether it gets requests, in a sentence
	Why     []string `json:"why"`     // what that follows from, one sentence each
	Checks  []Check  `json:"checks"`  // the last ones, newest first
	Events  []Event  `json:"events"`  // of this backend and its pool, oldest first
	Acts    []Act    `json:"acts"`    // what operators did about it, oldest first
}

// Check is what one health check found.
type Check struct {
	Time   time.Time     `json:"time"`
	OK     bool          `json:"ok"`
	Took   time.Duration `json:"took_ns"`
	Detail string        `json:"detail"` // "status 200"; "connect: connection refused"
}

// Traffic is what was counted so far; who asks twice sees the rates.
type Traffic struct {
	Time      time.Time `json:"time"`
	Node      string    `json:"node"`
	State     string    `json:"state"`
	Listeners []Flow    `json:"listeners"`
	Backends  []Flow    `json:"backends"`
	Packets   []Packets `json:"packets"` // by how they left XDP
}

// Flow is what went through a listener, or to a backend. What is counted goes
// on over restarts of workers.
type Flow struct {
	Name        string   `json:"name"`
	State       string   `json:"state,omitempty"`
	Connections int      `json:"connections"` // open now
	Active      int      `json:"active"`      // requests to a backend in progress now
	Requests    float64  `json:"requests"`
	Errors      float64  `json:"errors"` // answered with 5xx, or not at all; failed attempts
	BytesIn     float64  `json:"bytes_in"`
	BytesOut    float64  `json:"bytes_out"`
	Latency     *Latency `json:"latency,omitempty"`
}

// Latency is a histogram of seconds.
type Latency struct {
	Buckets []lb.Bucket `json:"buckets"` // cumulative
	Count   uint64      `json:"count"`
	Sum     float64     `json:"sum"`
}

// Packets is how many left XDP for a reason.
type Packets struct {
	Reason  string  `json:"reason"`
	Verdict string  `json:"verdict"`
	Count   float64 `json:"count"`
}

// Certificate is one that clients of a listener are shown, or the backends of a
// pool.
type Certificate struct {
	Listener string    `json:"listener,omitempty"`
	Pool     string    `json:"pool,omitempty"`
	Default  bool      `json:"default,omitempty"` // for clients that ask for no name there is
	Subject  string    `json:"subject"`
	Names    []string  `json:"names"` // host names and addresses
	Issuer   string    `json:"issuer"`
	Serial   string    `json:"serial"`
	Key      string    `json:"key"` // ECDSA P-256, RSA 2048...
	Begins   time.Time `json:"begins"`
	Ends     time.Time `json:"ends"`
	File     string    `json:"file"`
}

// Refusal is a request that was malformed.
type Refusal struct {
	Time     time.Time `json:"time"`
	Listener string    `json:"listener"`
	Client   string    `json:"client"`
	Version  string    `json:"version"`
	Status   int       `json:"status"` // what it was answered with, or would have been
	Reason   string    `json:"reason"`
	Error    string    `json:"error"` // the rule it broke
	Head     string    `json:"head"`  // how it began, quoted as in Go; passwords and cookies are blanked out
}

// Worker is one process of a crew.
type Worker struct {
	Name        string    `json:"name"` // crew.index
	PID         int       `json:"pid"`
	State       string    `json:"state"` // starting | ready | stuck | draining | drained | down
	Slots       []int     `json:"slots"`
	Connections int       `json:"connections"` // of clients
	Generation  uint64    `json:"generation"`
	Version     string    `json:"version,omitempty"`
	Since       time.Time `json:"since,omitzero"` // when it started, or was adopted
	Restarts    int       `json:"restarts"`
	Adopted     bool      `json:"adopted,omitempty"` // an earlier supervisor started it
	Detail      string    `json:"detail,omitempty"`
}

// Node is a member of the cluster, or this node alone.
type Node struct {
	Name        string    `json:"name"`
	Self        bool      `json:"self"`
	Address     string    `json:"address,omitempty"`
	State       string    `json:"state"` // serving | draining | empty | suspect | dead | left
	Ready       bool      `json:"ready"`
	Listed      bool      `json:"listed"` // owns rows in the current epoch
	Weight      int       `json:"weight"`
	View        uint16    `json:"view,omitempty"`
	InSync      bool      `json:"in_sync"`              // its current epoch and its objects are ours
	Differs     string    `json:"differs,omitempty"`    // what is another there: epoch | objects
	Generation  string    `json:"generation,omitempty"` // that runs there
	Document    string    `json:"document,omitempty"`   // the edit of the cluster's document that runs there
	Drift       *Drift    `json:"drift,omitempty"`      // the document that cannot be built there
	Connections *int      `json:"connections,omitempty"`
	Since       time.Time `json:"since,omitzero"`
}

// Drift is a document of the cluster that a node cannot build.
type Drift struct {
	Document string `json:"document"`
	Text     string `json:"text"` // why, with the line
}

// Verdict is what another node of the cluster made of a change.
type Verdict struct {
	Node   string `json:"node"`
	State  string `json:"state"` // runs | refuses | waits | apart | away
	Detail string `json:"detail,omitempty"`
}

// Applied is the verdict on an accepted change.
type Applied struct {
	Generation string    `json:"generation"`
	Changed    bool      `json:"changed"`
	DryRun     bool      `json:"dry_run,omitempty"`
	Changes    []Change  `json:"changes,omitempty"`
	Notes      []string  `json:"notes,omitempty"`   // what takes a restart, what was ignored
	Workers    []Built   `json:"workers,omitempty"` // what each answered
	Trial      *Trial    `json:"trial,omitempty"`   // it is taken back unless it is confirmed
	Nodes      []Verdict `json:"nodes,omitempty"`   // what the others of the cluster made of it
}

// Built is what one worker answered to a change.
type Built struct {
	Worker string        `json:"worker"` // crew.index
	PID    int           `json:"pid"`
	OK     bool          `json:"ok"`
	Took   time.Duration `json:"took_ns"`
	Error  string        `json:"error,omitempty"`
}

// Change is one difference between two configurations, and what it breaks.
type Change struct {
	Path   string `json:"path"`
	Text   string `json:"text"`
	Breaks string `json:"breaks,omitempty"`
}

// Generation is one entry of the history.
type Generation struct {
	Generation string    `json:"generation"`
	Time       time.Time `json:"time"`
	By         string    `json:"by"`     // who: file reload, uid 0 (pid 4711)
	Action     string    `json:"action"` // what: reload, apply, rollback to 41@edge-1
	Owner      string    `json:"owner"`
	Current    bool      `json:"current"`
	Bytes      int       `json:"bytes"`
	Lost       string    `json:"lost,omitempty"`    // to this one, made without knowing of it
	Trouble    string    `json:"trouble,omitempty"` // why it cannot be read
}

// Document is a configuration's text.
type Document struct {
	Generation string `json:"generation"`
	Text       string `json:"text"`
}

// ReleaseOrder gives the objects back to the file.
type ReleaseOrder struct {
	// Discard: although the file says something else than what runs.
	Discard bool `json:"discard,omitempty"`
}

// RollbackOrder makes an earlier generation's objects the newest.
type RollbackOrder struct {
	Generation string `json:"generation"` // 42@edge-1, or 42 when only one node made it
}

// BackendEdit changes the document.
type BackendEdit struct {
	Action  string `json:"action"` // add | set | remove
	Pool    string `json:"pool"`
	Address string `json:"address"`
	Weight  *int   `json:"weight,omitempty"`
	Backup  *bool  `json:"backup,omitempty"`
}

// BackendOrder changes the operational overlay; nil leaves a part as it is.
type BackendOrder struct {
	ID          string `json:"id"` // pool/address
	Drain       *bool  `json:"drain,omitempty"`
	Disable     *bool  `json:"disable,omitempty"`
	Weight      *int   `json:"weight,omitempty"`
	ClearWeight bool   `json:"clear_weight,omitempty"` // back to the document's
}

// NodeOrder drains a node, or takes the drain back.
type NodeOrder struct {
	Name  string `json:"name,omitempty"` // "": the addressed node
	Drain bool   `json:"drain"`
}

// ListenerOrder drains a listener of a node, or takes the drain back.
type ListenerOrder struct {
	Name  string `json:"name"`
	Drain bool   `json:"drain"`
}

// WorkerOrder drains a worker of a node, or takes the drain back.
type WorkerOrder struct {
	Name  string `json:"name"` // crew.index
	Drain bool   `json:"drain"`
}

// LeaveOrder has a node drain, say good-bye and exit.
type LeaveOrder struct {
	Name string `json:"name,omitempty"` // "": the addressed node
}

// KeyRing is which keys of the cluster a node has, by name. The first one signs.
type KeyRing struct {
	Node  string   `json:"node"`
	Alive bool     `json:"alive"`
	Keys  []string `json:"keys"`
}

// KeyOrder changes this node's keys of the cluster.
type KeyOrder struct {
	Action string `json:"action"` // add | use | remove
	Key    string `json:"key"`    // add: the secret; use, remove: its name
	// Force: although other nodes would be left behind.
	Force bool `json:"force,omitempty"`
}

// UpgradeOrder replaces the workers.
type UpgradeOrder struct {
	Binary string `json:"binary,omitempty"` // "": the path resolved at start
}

// Question is a flow or a request to be explained.
type Question struct {
	Tuple    string            `json:"tuple,omitempty"` // "tcp 198.51.100.7:40000 > 192.0.2.10:80"
	URL      string            `json:"url,omitempty"`
	Method   string            `json:"method,omitempty"`
	Header   map[string]string `json:"header,omitempty"`
	Listener string            `json:"listener,omitempty"`
	From     string            `json:"from,omitempty"` // client address:port, for the packet half
}

// Explanation says what would happen, and why not something else.
type Explanation struct {
	Listener string          `json:"listener,omitempty"`
	Bind     string          `json:"bind,omitempty"`
	Scope    string          `json:"scope"` // local | vip | none
	Packet   *PacketWay      `json:"packet,omitempty"`
	Routes   []RouteVerdict  `json:"routes,omitempty"`
	Route    int             `json:"route"` // number of the one that matches, from 1; -1
	Filters  []string        `json:"filters,omitempty"`
	Target   string          `json:"target,omitempty"`
	Pool     string          `json:"pool,omitempty"`
	Balance  string          `json:"balance,omitempty"`
	Backends []BackendChoice `json:"backends,omitempty"`
	Verdict  string          `json:"verdict"`
}

// PacketWay is the way of a flow through rows and slots.
type PacketWay struct {
	Tuple string   `json:"tuple"`
	VIP   string   `json:"vip,omitempty"`
	Row   int      `json:"row"` // -1 without one
	Chain []string `json:"chain,omitempty"`
	Slot  int      `json:"slot"`          // -1: another node's, or the kernel's own hash
	Why   []string `json:"why,omitempty"` // one sentence per decision

	Service string `json:"service,omitempty"` // whose packets these are
	Backend string `json:"backend,omitempty"` // where a new flow of a service goes
}

// RouteVerdict says whether a route matches, and if not, what differs.
type RouteVerdict struct {
	Index   int    `json:"index"`
	Line    int    `json:"line"`
	Match   string `json:"match"`
	Matches bool   `json:"matches"`
	Why     string `json:"why"`
}

// BackendChoice says whether a backend may be picked, and if not, why.
type BackendChoice struct {
	ID       string `json:"id"`
	Eligible bool   `json:"eligible"`
	Weight   int    `json:"weight"`
	Why      string `json:"why"`
}

// Event is an lb.Event with its place in the node's ring.
type Event struct {
	Seq uint64 `json:"seq"`
	lb.Event
}

// Version says what runs.
type Version struct {
	Version string `json:"version"`
	Go      string `json:"go"`
	API     int    `json:"api"`
}
