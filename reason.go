package lb

// Reason says why something was dropped, refused, retried, ejected or done
// otherwise than asked. Reasons are labels of metrics and fields of log lines;
// the names are a contract.
type Reason string

// Reasons of the request half. An empty reason means nothing unusual happened.
const (
	NoRoute          Reason = "no_route"           // 404: no route matches
	NoHealthyBackend Reason = "no_healthy_backend" // 503: every backend is down, drained or at its limit
	ConnectFailed    Reason = "connect_failed"     // 502: refused or unreachable
	ConnectTimeout   Reason = "connect_timeout"    // 504: no connection within connect_timeout
	UpstreamTLS      Reason = "upstream_tls"       // 502: the handshake with the backend failed
	UpstreamReset    Reason = "upstream_reset"     // 502: closed before a whole response
	UpstreamTimeout  Reason = "upstream_timeout"   // 504: no response head in time, or silence in a body
	UpstreamProtocol Reason = "upstream_protocol"  // 502: the response is not valid
	ClientAbort      Reason = "client_abort"       // the client went away
	ClientTimeout    Reason = "client_timeout"     // 408: a head not in time, or silence in a body
	SlowClient       Reason = "slow_client"        // 408: a body slower than limits.body_rate, in either direction
	BadRequest       Reason = "bad_request"        // 400: the request is not valid
	BadFraming       Reason = "bad_framing"        // 400: where the body ends is in doubt
	HeadTooLarge     Reason = "head_too_large"     // 431: too many or too large fields
	URITooLong       Reason = "uri_too_long"       // 414
	MethodRefused    Reason = "method_refused"     // 405: TRACE, CONNECT
	VersionRefused   Reason = "version_refused"    // 505
	NotImplemented   Reason = "not_implemented"    // 501: an unknown transfer coding
	ExpectRefused    Reason = "expect_refused"     // 417: an unknown expectation
	RateLimited      Reason = "rate_limited"       // 429
	AccessDenied     Reason = "access_denied"      // 403: the client's address is not allowed
	Unauthorized     Reason = "unauthorized"       // 401: no credentials, or wrong ones
	Overload         Reason = "overload"           // 503: a limit of ours is reached
	ConnectionLimit  Reason = "connection_limit"   // limits.connections, or a listener's, is reached
	ClientLimit      Reason = "client_limit"       // limits.per_client is reached
	MemoryLimit      Reason = "memory_limit"       // 503: limits.memory is reached; 408: the kernel's for TCP is, and this client takes nothing
	NoDescriptors    Reason = "no_descriptors"     // 503: no file descriptor is left for a connection to a backend
	FilterPanic      Reason = "filter_panic"       // 500: a filter panicked
	FilterError      Reason = "filter_error"       // 500: a filter failed without saying how
	FilterAnswer     Reason = "filter_answer"      // a filter made the response
	StreamBudget     Reason = "stream_budget"      // HTTP/2: resets, control or empty frames over budget
	Draining         Reason = "draining"           // the connection or stream ended because we drain
	TLSHandshake     Reason = "tls_handshake"      // the client's handshake failed
	InternalError    Reason = "internal_error"     // 500: a fault of ours
	Outlier          Reason = "outlier"            // ejected: too many failures in a row
	PoolPanic        Reason = "pool_panic"         // too few backends are healthy: health is ignored
)

// Reasons of the packet half: why a packet left a program, and its counter.
// The list is generated into bpf/reason.h and bpf/reason.go by go generate.
// Append only: a reason's place in the list is its index in a pinned map. The
// first word of each comment is what happens to the packet.
const (
	XDPNotIP        Reason = "xdp_not_ip"         // pass: no whole IPv4 or IPv6 header
	XDPNotVIP       Reason = "xdp_not_vip"        // pass: the destination is no VIP
	XDPNoPort       Reason = "xdp_no_port"        // pass: a VIP, but nothing is served at this port; the kernel answers
	XDPICMP         Reason = "xdp_icmp"           // pass: ICMP that belongs to no flow is answered where it arrives
	XDPLocal        Reason = "xdp_local"          // pass: the row is ours
	XDPFound        Reason = "xdp_found"          // pass: one of several owners, and the flow's socket is here
	XDPReceived     Reason = "xdp_received"       // pass: encapsulated to us as the one owner, or a SYN
	XDPLastHop      Reason = "xdp_last_hop"       // pass: encapsulated to us as the last of several owners
	XDPAlone        Reason = "xdp_alone"          // pass: the row has no owner, but slots are served here
	XDPSent         Reason = "xdp_sent"           // send: encapsulated to the row's owner
	XDPMissed       Reason = "xdp_missed"         // send: no socket here, on to the previous owner
	XDPUnresolved   Reason = "xdp_unresolved"     // pass: encapsulated, and the kernel finds the next hop
	XDPShort        Reason = "xdp_short"          // drop: the packet ends before its headers do
	XDPBadHeader    Reason = "xdp_bad_header"     // drop: a header contradicts itself
	XDPBadFlags     Reason = "xdp_bad_flags"      // drop: TCP flags that no segment carries
	XDPFragment     Reason = "xdp_fragment"       // drop: a fragment to a VIP
	XDPTooManyParts Reason = "xdp_too_many_parts" // drop: over 4 IPv6 extension headers
	XDPNoOwner      Reason = "xdp_no_owner"       // drop: the row has no owner
	XDPHopLimit     Reason = "xdp_hop_limit"      // drop: TTL or hop limit used up
	XDPTooBig       Reason = "xdp_too_big"        // drop: with the encapsulation over the MTU to the owner
	XDPHeadroom     Reason = "xdp_headroom"       // drop: the driver leaves no room for encapsulation
	XDPStranger     Reason = "xdp_stranger"       // drop: encapsulated by somebody who is no peer
	XDPBadTunnel    Reason = "xdp_bad_tunnel"     // drop: an encapsulation header that is not ours
	XDPBadTag       Reason = "xdp_bad_tag"        // drop: an encapsulation header of another key
	XDPBadInner     Reason = "xdp_bad_inner"      // drop: encapsulated, but not a packet to a VIP
	XDPUnknownHop   Reason = "xdp_unknown_hop"    // drop: the next owner in the header is no peer
	XDPNoNeighbour  Reason = "xdp_no_neighbour"   // drop: the kernel has no route to the owner
	XDPNoSlot       Reason = "xdp_no_slot"        // drop: sk_lookup found no listening socket in a bind's slots
	XDPServed       Reason = "xdp_served"         // send: to a backend of a service
	XDPServedHere   Reason = "xdp_served_here"    // pass: to a backend of a service, which is this node
	XDPNoBackend    Reason = "xdp_no_backend"     // drop: no backend of the service takes it
	XDPHeld         Reason = "xdp_held"           // drop: no socket here while the node sets are unsettled; TCP repeats it
	XDPMissLastHop  Reason = "xdp_miss_last_hop"  // pass: encapsulated to us as the last of several owners, and no socket is here
	XDPMissLimit    Reason = "xdp_miss_limit"     // pass: no socket here, and too many such packets were sent on in this moment
	XDPHere         Reason = "xdp_here"           // pass: to a VIP that some member lacks: served where it arrives
	XDPPulse        Reason = "xdp_pulse"          // send: a peer's question whether this node lives, answered
	XDPUnwrapped    Reason = "xdp_unwrapped"      // pass: from a node, taken out of its encapsulation at a backend
	XDPBlocked      Reason = "xdp_blocked"        // drop: protect.block lists its source
	XDPRateLimited  Reason = "xdp_rate_limited"   // drop: its source sends more than protect.packets_per_second
	XDPSynLimited   Reason = "xdp_syn_limited"    // drop: its source opens more than protect.syns_per_second
	XDPTold         Reason = "xdp_told_too_big"   // send: too big for the encapsulation; the sender is told by ICMP
	XDPLearned      Reason = "xdp_path_mtu"       // drop: ICMP of the fabric about our encapsulation: its MTU is noted
)
