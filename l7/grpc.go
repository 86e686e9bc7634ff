package l7

import (
	"strconv"
	"strings"
	"time"

	"github.com/cirque-lb/lb"
)

// isGRPC reports whether the answer to a request is to be in gRPC's words.
// gRPC-Web has other ones.
func isGRPC(req *Request) bool {
	if req == nil {
		return false
	}
	rest, ok := strings.CutPrefix(req.Header.Get("content-type"), "application/grpc")
	return ok && (rest == "" || rest[0] == '+' || rest[0] == ';')
}

// isGRPCWeb reports whether a request is a call in gRPC-Web's words, which
// browsers speak over any version of HTTP.
func isGRPCWeb(req *Request) bool {
	rest, ok := strings.CutPrefix(req.Header.Get("content-type"), "application/grpc-web")
	rest = strings.TrimPrefix(rest, "-text")
	return ok && (rest == "" || rest[0] == '+' || rest[0] == ';')
}

// isCall reports whether a request is a gRPC call, in either's words.
func isCall(req *Request) bool {
	return req.Method == "POST" && (req.Version == HTTP20 && isGRPC(req) || isGRPCWeb(req))
}

// GRPCStatus is the error in gRPC's words.
func (e *Error) GRPCStatus() int { return grpcStatus(e) }

// grpcResponse is an error in gRPC's words: HTTP 200 and a trailers-only answer,
// with the status that gRPC's mapping gives to an HTTP one.
func grpcResponse(e *Error) *Response {
	res := &Response{Status: 200}
	res.Header.Add("content-type", "application/grpc")
	res.Header.Add("grpc-status", strconv.Itoa(grpcStatus(e)))
	res.Header.Add("grpc-message", string(e.Reason))
	return res
}

// grpcStatus maps by gRPC's doc/http-grpc-status-mapping.md, but says what was
// too late by its own name.
func grpcStatus(e *Error) int {
	if e.Reason == lb.UpstreamTimeout {
		return 4 // DEADLINE_EXCEEDED
	}
	switch e.Status {
	case 400:
		return 13 // INTERNAL
	case 401:
		return 16 // UNAUTHENTICATED
	case 403:
		return 7 // PERMISSION_DENIED
	case 404:
		return 12 // UNIMPLEMENTED
	case 429, 502, 503, 504:
		return 14 // UNAVAILABLE
	}
	return 2 // UNKNOWN
}

// grpcDeadline is when the client of a call gives up, by the clock that began
// is of; 0 when it does not say. From then on nothing waits for the backend.
func grpcDeadline(req *Request, began time.Duration) time.Duration {
	v, ok := req.Header.Lookup("grpc-timeout")
	if !ok || !isCall(req) {
		return 0
	}
	d, ok := parseGRPCTimeout(v)
	if !ok {
		return 0
	}
	return began + max(d, 1)
}

// parseGRPCTimeout reads up to 8 digits and a unit (gRPC's PROTOCOL-HTTP2.md).
func parseGRPCTimeout(v string) (time.Duration, bool) {
	if len(v) < 2 || len(v) > 9 {
		return 0, false
	}
	n, err := strconv.ParseUint(v[:len(v)-1], 10, 32)
	if err != nil {
		return 0, false
	}
	const most = 365 * 24 * time.Hour // 8 digits of hours would overflow
	unit := map[byte]time.Duration{'H': time.Hour, 'M': time.Minute, 'S': time.Second,
		'm': time.Millisecond, 'u': time.Microsecond, 'n': time.Nanosecond}[v[len(v)-1]]
	if unit == 0 {
		return 0, false
	}
	if n > uint64(most/unit) {
		return most, true
	}
	return time.Duration(n) * unit, true
}
