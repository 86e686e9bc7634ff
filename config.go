package lb

import (
	"net/netip"
	"time"
)

// Config is one whole configuration with every default filled in. It is built
// by Parse and never changed afterwards. Slices keep the document's order.
type Config struct {
	Node     NodeSettings     `yaml:"node"`
	Workers  WorkerSettings   `yaml:"workers"`
	Fastpath FastpathSettings `yaml:"fastpath"`
	Protect  ProtectSettings  `yaml:"protect"`
	Cluster  *ClusterSettings `yaml:"cluster"` // nil: this node is alone
	Log      LogSettings      `yaml:"log"`
	Trusted  []netip.Prefix   `yaml:"trusted"` // whose X-Forwarded-* is believed
	Forward  ForwardSettings  `yaml:"forward"`
	Drain    DrainSettings    `yaml:"drain"`
	Limits   Limits           `yaml:"limits"`
	Admin    AdminSettings    `yaml:"admin"`

	Listeners []*Listener `yaml:"listeners" by:"Name"`     // a mapping by name in the document
	Routes    []*Route    `yaml:"routes" range:"0..10000"` // first match wins
	Pools     []*Pool     `yaml:"pools" by:"Name"`         // a mapping by name in the document
	Services  []*Service  `yaml:"services" by:"Name"`      // a mapping by name in the document

	files []fileGroup // what it names, for ReadFiles
}

// NodeSettings names this node and its directories.
type NodeSettings struct {
	Name    string     `yaml:"name"`     // default: the host's name
	Address netip.Addr `yaml:"address"`  // where peers send encapsulated packets; required with a cluster or a VIP
	DataDir string     `yaml:"data_dir"` // state that outlives a reboot; default /var/lib/lbd, without root $XDG_STATE_HOME/lbd
	RunDir  string     `yaml:"run_dir"`  // sockets and locks; default /run/lbd, without root $XDG_RUNTIME_DIR/lbd or a private directory in /tmp
}

// WorkerSettings says how many worker processes and threads serve requests.
type WorkerSettings struct {
	Processes int    `yaml:"processes" default:"2" range:"1..64"`   // default 2, at most 64
	Threads   int    `yaml:"threads" words:"auto=0" range:"0..256"` // each; "auto" (0): CPUs / processes, at least 1
	User      string `yaml:"user"`                                  // default lbd when it exists, else uid 65534; ignored without root
}

// FastpathMode is how packets are steered.
type FastpathMode string

// The modes. Auto tries native, then generic, then goes on without.
const (
	FastpathAuto    FastpathMode = "auto"
	FastpathNative  FastpathMode = "native"
	FastpathGeneric FastpathMode = "generic"
	FastpathOff     FastpathMode = "off"
)

// FastpathSettings configures the packet half.
type FastpathSettings struct {
	Mode       FastpathMode `yaml:"mode" default:"auto" one:"auto|native|generic|off"`
	Required   bool         `yaml:"required"`   // refuse to start without it
	Interfaces []string     `yaml:"interfaces"` // where XDP attaches; none: sk_lookup only
	Pins       string       `yaml:"pins"`       // default /sys/fs/bpf/lbd/<node name>
}

// ProtectSettings says whose packets to VIPs XDP drops. All of it but
// misses_per_second is off unless it is set; the longest prefix that fits a
// source counts.
type ProtectSettings struct {
	Block            []netip.Prefix `yaml:"block" range:"0..30000"`                  // their packets are dropped
	Allow            []netip.Prefix `yaml:"allow" range:"0..30000"`                  // no limit holds for them, nor a block of a wider prefix
	PacketsPerSecond int            `yaml:"packets_per_second" range:"0..100000000"` // per IPv4 address or IPv6 /64; 0: no limit
	SYNsPerSecond    int            `yaml:"syns_per_second" range:"0..100000000"`    // new TCP connections, likewise; 0: no limit
	// MissesPerSecond is how many segments without a connection here one CPU
	// sends on to owners before, in a second: it ends what a scan by ACKs has the
	// nodes do to each other. 0: no limit.
	MissesPerSecond int `yaml:"misses_per_second" default:"1000000" range:"0..100000000"`
}

// ClusterSettings configures gossip.
type ClusterSettings struct {
	Name    string         `yaml:"name" default:"lbd"`
	Bind    netip.AddrPort `yaml:"bind" need:"true"`
	Join    []string       `yaml:"join"`     // host:port of seeds, redialled for ever
	KeyFile string         `yaml:"key_file"` // required unless bind is a loopback address
}

// LogSettings says where logs go.
type LogSettings struct {
	Level  string `yaml:"level" default:"info" one:"debug|info|warn|error"` // debug | info | warn | error
	Access string `yaml:"access" default:"stdout"`                          // stdout | FILE | off
	Format string `yaml:"format" default:"json" one:"json|combined"`        // of the access log
}

// ForwardSettings says what messages tell of us besides X-Forwarded-For, -Proto
// and -Host.
type ForwardSettings struct {
	Forwarded bool   `yaml:"forwarded"` // requests get a Forwarded field (RFC 7239), too
	Via       string `yaml:"via"`       // the name in the Via field of requests and responses; "": none is added
}

// DrainSettings bounds how long old connections may live on.
type DrainSettings struct {
	Timeout time.Duration `yaml:"timeout" default:"30s" range:"0s..24h"`
}

// Limits bound what clients may use.
type Limits struct {
	Connections int `yaml:"connections" default:"100000" range:"1..10000000"` // per worker
	// PerClient bounds the connections of one client's address, of IPv6 of a
	// /64, per worker; trusted networks have no such limit.
	PerClient int `yaml:"per_client" default:"10000" words:"off=0" range:"0..10000000"`
	// Memory is what a worker may have: near it keep-alive ends, at it requests
	// are refused. "auto" (0): 70 % of the host's or control group's memory,
	// shared by the workers.
	Memory Bytes `yaml:"memory" words:"auto=0B" range:"0B..1TiB"`
	Head   Bytes `yaml:"head" default:"64KiB" range:"1KiB..1MiB"`
	Fields int   `yaml:"fields" default:"100" range:"10..10000"`
	URI    Bytes `yaml:"uri" default:"16KiB" range:"256B..1MiB"`
	// BodyRate is the least that a client must send of a request's body, and
	// take of a response that waits for it, in bytes per second over 30 s (of
	// a request: timeout.idle). "off" (0): anything but silence will do.
	BodyRate Bytes `yaml:"body_rate" default:"256B" words:"off=0B" range:"0B..1MiB"`
}

// AdminSettings says where the admin API is served.
type AdminSettings struct {
	Socket string `yaml:"socket"` // default <run_dir>/lbd.sock
	// ReadOnlySocket serves what changes nothing to every user of the host;
	// default "": none, which a document may write as off.
	ReadOnlySocket string `yaml:"read_only_socket"`
	HTTP           string `yaml:"http"` // read-only: /metrics /healthz /readyz; default "": none, which a document may write as off
}

// Bytes is a size; the document may say 64KiB, 1MiB, 500.
type Bytes int64

// Share is a fraction between 0 and 1; the document says 20%.
type Share float64

// ListenerProtocol is what a listener speaks.
type ListenerProtocol string

// The listener protocols.
const (
	ListenHTTP  ListenerProtocol = "http"  // HTTP/1.1 and HTTP/2 prior knowledge on one port
	ListenHTTPS ListenerProtocol = "https" // TLS, ALPN h2 and http/1.1
	ListenTCP   ListenerProtocol = "tcp"   // bytes, to Pool
)

// Listener is an address the workers serve.
type Listener struct {
	Name          string           `yaml:"-"`
	Bind          netip.AddrPort   `yaml:"bind" need:"true"` // ":80" is [::]:80, which takes IPv4 too
	Protocol      ListenerProtocol `yaml:"protocol" default:"http" one:"http|https|tcp"`
	TLS           *ServerTLS       `yaml:"tls"`
	ProxyProtocol *ProxyProtocol   `yaml:"proxy_protocol"`
	Pool          string           `yaml:"pool"`                                                // protocol tcp only
	Connections   int              `yaml:"connections" words:"unlimited=0" range:"0..10000000"` // open at once, per worker; default limits.connections

	// Fragments says what becomes of fragments to the listener's VIP: "drop", or
	// "hash": ports play no part in where its packets go, so that all fragments
	// of one come to the same node, and all connections of a client, too. All that
	// is at one address says the same.
	Fragments Fragments `yaml:"fragments" default:"drop" one:"drop|hash"`

	// Normalize makes paths plain before they are routed and passed on: %-escapes
	// of unreserved characters decoded, dots and double slashes resolved.
	Normalize   bool          `yaml:"normalize"`                                  // http and https only
	IdleTimeout time.Duration `yaml:"idle_timeout" default:"1h" range:"1s..720h"` // protocol tcp only: silence in both directions; default 1h
}

// Fragments is what becomes of fragments of packets to a VIP.
type Fragments string

// What a VIP does with fragments.
const (
	FragmentsDrop Fragments = "drop"
	FragmentsHash Fragments = "hash" // takes them: ports play no part in where its packets go
)

// ServerTLS is the TLS side of an https listener.
type ServerTLS struct {
	Certificates []CertificateFiles `yaml:"certificates" need:"true" range:"1..10000"` // chosen by SNI; the first is the default
	ClientCA     string             `yaml:"client_ca"`                                 // a file: clients must present a certificate of it
	MinVersion   string             `yaml:"min_version" default:"1.2" one:"1.2|1.3"`   // "1.2" | "1.3"
}

// CertificateFiles names a PEM certificate chain and its key.
type CertificateFiles struct {
	Cert string `yaml:"cert" need:"true"`
	Key  string `yaml:"key" need:"true"`
}

// ProxyProtocol lists the networks whose connections begin with a PROXY header.
type ProxyProtocol struct {
	From []netip.Prefix `yaml:"from" need:"true"`
}

// Route says what to do with the requests that match.
type Route struct {
	Match    Match         `yaml:"match"`
	Filters  []FilterSpec  `yaml:"filters"` // in the document each is a mapping of one name
	Timeout  RouteTimeout  `yaml:"timeout"`
	Retry    Retry         `yaml:"retry"`
	Pool     string        `yaml:"pool"` // exactly one of these four
	Split    []WeightedRef `yaml:"split" by:"Pool" range:"1..64"`
	Redirect *Redirect     `yaml:"redirect"`
	Respond  *Respond      `yaml:"respond"`

	Line int `yaml:"-"` // where the route begins in the document; its name in logs
}

// Match is a conjunction; an empty field matches all.
type Match struct {
	Listener []string          `yaml:"listener"` // one of
	Host     []string          `yaml:"host"`     // one of: exact, or *.suffix for any number of labels
	Path     string            `yaml:"path"`     // prefix, ends at a segment or a slash; "=/exact"; "~regex"
	Method   []string          `yaml:"method"`   // one of
	Header   map[string]string `yaml:"header"`   // all of: exact value
	Query    map[string]string `yaml:"query"`    // all of: exact value
}

// FilterSpec is one filter with its own, still unread configuration.
type FilterSpec struct {
	Name string
	Node Node // what stands under the name

	place Node       // its name
	files []fileName // that its settings name; known once they were checked
}

// RouteTimeout bounds a request's waits.
type RouteTimeout struct {
	Request time.Duration `yaml:"request" default:"60s" range:"1ms..24h"` // request read -> response head, of the last attempt; default 60s
	Attempt time.Duration `yaml:"attempt" range:"1ms..24h"`               // the same of one that another may follow (retry.on: timeout); 0: as request
	Idle    time.Duration `yaml:"idle" default:"30s" range:"1ms..24h"`    // silence inside a body; default 30s
	Tunnel  time.Duration `yaml:"tunnel" default:"1h" range:"1s..720h"`   // silence in an upgraded connection, and in a gRPC call once it is answered; default 1h
	Total   time.Duration `yaml:"total" default:"24h" range:"1ms..720h"`  // head read -> response's last byte, with all attempts; not of an upgraded connection; default 24h
}

// Retry says when a request is tried again.
type Retry struct {
	Attempts int      `yaml:"attempts" default:"2" range:"1..10"`                                             // counts the first; default 2
	On       []string `yaml:"on" default:"connect,reset,refused,timeout" one:"connect|reset|refused|timeout"` // default all four
	Methods  []string `yaml:"methods" default:"GET,HEAD,OPTIONS,PUT,DELETE"`                                  // that may reach backends twice; default the idempotent ones
	Budget   Share    `yaml:"budget" default:"20%"`                                                           // of the pool's requests in 10 s, never fewer than 10; default 20%
}

// WeightedRef is a pool with its share of a split.
type WeightedRef struct {
	Pool   string `yaml:"-"`
	Weight int    `yaml:"weight" short:"true" range:"0..1000"`
}

// Redirect answers with a Location.
type Redirect struct {
	Status int    `yaml:"status" default:"308" one:"301|302|303|307|308"` // default 308
	Scheme string `yaml:"scheme" one:"http|https"`                        // "": unchanged
	Host   string `yaml:"host"`                                           // "": unchanged
	Path   string `yaml:"path"`                                           // "": unchanged, with the query
}

// Respond answers with a fixed response.
type Respond struct {
	Status  int               `yaml:"status" default:"200" range:"200..599"` // default 200
	Body    string            `yaml:"body" range:"0..64KiB"`
	Headers map[string]string `yaml:"headers"`
}

// PoolProtocol is what a pool's backends speak.
type PoolProtocol string

// The pool protocols. GRPC is HTTP/2 with gRPC's error mapping.
const (
	HTTP1 PoolProtocol = "http1"
	HTTP2 PoolProtocol = "http2"
	GRPC  PoolProtocol = "grpc"
)

// Pool is backends with a balancer and a check.
type Pool struct {
	Name        string         `yaml:"-"`
	Protocol    PoolProtocol   `yaml:"protocol" default:"http1" one:"http1|http2|grpc"`                                            // default http1
	TLS         *ClientTLS     `yaml:"tls"`                                                                                        // nil: plain text
	Balance     string         `yaml:"balance" default:"round_robin" one:"round_robin|least_request|random|ewma|maglev|ring_hash"` // round_robin | least_request | random | ewma | maglev | ring_hash
	Hash        *HashKey       `yaml:"hash"`                                                                                       // for maglev and ring_hash
	Connections PoolLimits     `yaml:"connections"`
	SlowStart   time.Duration  `yaml:"slow_start" range:"0s..1h"`
	Panic       Share          `yaml:"panic" words:"off=0%"` // "off" (0), or the share of healthy backends below which health is ignored
	Check       *Check         `yaml:"check"`                // nil: backends count as up
	Outlier     *OutlierPolicy `yaml:"outlier"`
	Backends    []*Backend     `yaml:"backends" range:"0..10000"` // may be absent when the pool discovers them
	Discover    *Discovery     `yaml:"discover"`                  // nil: only the backends that are listed

	// ProxyProtocol "v2" begins each connection with a PROXY header that names
	// the client; requests of other clients do not share the connection.
	ProxyProtocol string `yaml:"proxy_protocol" one:"v2"`
	// Bind is the address of this host that connections to backends, and checks,
	// come from; not valid: the kernel chooses. Unix sockets have none.
	Bind netip.Addr `yaml:"bind"`
}

// ClientTLS is how backends are reached over TLS.
type ClientTLS struct {
	CA         string `yaml:"ca"`          // a file; "": the system's
	ServerName string `yaml:"server_name"` // "": the backend's host
	Cert       string `yaml:"cert"`
	Key        string `yaml:"key"`
	Insecure   bool   `yaml:"insecure"` // do not verify; said loudly in status
}

// HashKey chooses what consistent hashing looks at.
type HashKey struct {
	Header string `yaml:"header"`
	Cookie string `yaml:"cookie"`
	Client bool   `yaml:"client"` // the client's address
}

// PoolLimits bounds a pool's connections.
type PoolLimits struct {
	PerBackend     int           `yaml:"per_backend" default:"1024" range:"1..1000000"` // open at once, per worker; default 1024
	Pending        int           `yaml:"pending" default:"128" range:"0..100000"`       // requests that wait, no longer than connect_timeout, when per_backend or requests is reached; per backend and worker, default 128
	Requests       int           `yaml:"requests" range:"0..1000000"`                   // at once per backend and worker; 0: no limit
	Idle           int           `yaml:"idle" default:"1024" range:"0..100000"`         // kept per backend and worker; default 1024
	Warm           int           `yaml:"warm" range:"0..1000"`                          // made before they are asked for, and kept: idle ones per backend that is up and worker; default 0
	IdleTimeout    time.Duration `yaml:"idle_timeout" default:"75s" range:"1s..24h"`    // default 75s
	MaxAge         time.Duration `yaml:"max_age" default:"5m" range:"1s..24h"`          // with jitter; default 5m
	ConnectTimeout time.Duration `yaml:"connect_timeout" default:"2s" range:"1ms..5m"`  // TLS included; default 2s
}

// Check is an active health check.
type Check struct {
	HTTP    string   `yaml:"http"` // a path; exactly one of HTTP, TCP, GRPC
	TCP     bool     `yaml:"tcp"`
	GRPC    *string  `yaml:"grpc"`                                             // a service name; "" is the whole server
	Expect  Statuses `yaml:"expect" default:"200-299"`                         // http; default 200-299
	Method  string   `yaml:"method" default:"GET" one:"GET|HEAD|OPTIONS|POST"` // http; default GET
	Body    string   `yaml:"body" range:"1..4096"`                             // http: what the first 64 KiB of the response must contain
	Host    string   `yaml:"host"`                                             // http and grpc; default the backend's address
	Send    string   `yaml:"send" range:"1..4096"`                             // tcp: what is sent
	Receive string   `yaml:"receive" range:"1..4096"`                          // tcp: what the first 64 KiB of the answer must contain
	// TLS has the check speak TLS although requests do not; the certificate is
	// not verified then. With the pool's tls every check does what requests do.
	TLS bool `yaml:"tls"`
	// Certificate fails the check when the backend's certificate ends within
	// this time.
	Certificate time.Duration `yaml:"certificate" range:"1m..720h"`
	Interval    time.Duration `yaml:"interval" default:"2s" range:"100ms..1h"` // default 2s, spread by 10 % jitter
	// Fast is the interval while results differ from the state that holds;
	// default a quarter of Interval, at least 100 ms.
	Fast    time.Duration `yaml:"fast" range:"100ms..1h"`
	Timeout time.Duration `yaml:"timeout" default:"1s" range:"10ms..1m"` // default 1s
	Rise    int           `yaml:"rise" default:"2" range:"1..100"`       // default 2
	Fall    int           `yaml:"fall" default:"3" range:"1..100"`       // default 3
}

// Statuses are ranges of HTTP statuses, "200-299,404".
type Statuses []StatusRange

// StatusRange is an inclusive range of HTTP statuses, "200-299" or "200".
type StatusRange struct{ From, To int }

// OutlierPolicy ejects backends by what requests observe.
type OutlierPolicy struct {
	Consecutive5xx int           `yaml:"consecutive_5xx" default:"5" range:"1..10000"`
	Interval       time.Duration `yaml:"interval" default:"10s" range:"100ms..1h"`
	Eject          time.Duration `yaml:"eject" default:"30s" range:"1s..24h"`
	MaxEjected     Share         `yaml:"max_ejected" default:"10%"`
}

// Backend is one server of a pool; in the document also just its address.
type Backend struct {
	Address string `yaml:"address" need:"true" short:"true"`   // "192.0.2.1:80", "[2001:db8::1]:80" or "unix:/path"
	Weight  int    `yaml:"weight" default:"1" range:"0..1000"` // default 1, 0..1000
	Backup  bool   `yaml:"backup"`                             // used only when no other is up
	Found   bool   `yaml:"-" json:"-"`                         // discovered, not listed
}

// Service is an L4 service: packets go to the backends, no proxy in between.
type Service struct {
	Name     string         `yaml:"-"`
	Bind     netip.AddrPort `yaml:"bind" need:"true"`
	Protocol string         `yaml:"protocol" default:"tcp" one:"tcp|udp"`
	Forward  string         `yaml:"forward" default:"ipip" one:"ipip|gue|l2|nat"`
	Affinity string         `yaml:"affinity" one:"client"`              // "": each flow by its 5-tuple
	Hold     time.Duration  `yaml:"hold" default:"10m" range:"0s..24h"` // how long TCP connections stay where they began after a backend's share changed
	Pool     string         `yaml:"pool" need:"true"`
	// Fragments "hash" takes fragments: all flows of a client go to one backend,
	// and the service is the only one of its protocol at its address.
	Fragments Fragments `yaml:"fragments" default:"drop" one:"drop|hash"`
}
