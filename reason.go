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
	ClientTimeout    Reason = "client_timeout"     // 408: head or body too slow
	BadRequest       Reason = "bad_request"        // 400: the request is not valid
	BadFraming       Reason = "bad_framing"        // 400: where the body ends is in doubt
	HeadTooLarge     Reason = "head_too_large"     // 431: too many or too large fields
	URITooLong       Reason = "uri_too_long"       // 414
	MethodRefused    Reason = "method_refused"     // 405: TRACE, CONNECT
	VersionRefused   Reason = "version_refused"    // 505
	NotImplemented   Reason = "not_implemented"    // 501: an unknown transfer coding
	ExpectRefused    Reason = "expect_refused"     // 417: an unknown expectation
	RateLimited      Reason = "rate_limited"       // 429
	Overload         Reason = "overload"           // 503: a limit of ours is reached
	FilterPanic      Reason = "filter_panic"       // 500: a filter panicked
	FilterError      Reason = "filter_error"       // 500: a filter failed without saying how
	FilterAnswer     Reason = "filter_answer"      // a filter made the response
	StreamBudget     Reason = "stream_budget"      // HTTP/2: resets, control or empty frames over budget
	Draining         Reason = "draining"           // the connection or stream ended because we drain
	TLSHandshake     Reason = "tls_handshake"      // the client's handshake failed
	InternalError    Reason = "internal_error"     // 500: a fault of ours
)
