package l7

import (
	"errors"
	"strconv"
	"time"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7/h1"
	"github.com/cirque-lb/lb/l7/h2"
	"github.com/cirque-lb/lb/l7/loop"
)

// streamH2 is one request of a serverH2.
type streamH2 struct {
	c       *serverH2
	s       *h2.Stream // nil once it is closed
	x       *exchange  // nil once it is over
	request Request

	sent    int64 // of s, when it last was enough
	seen    int64 // of s, when it was last looked at
	stalled time.Duration
	narrow  bool // it began without a window
	tunnel  tunnelH2
}

func (st *streamH2) reset() {
	header := st.request.Header
	clear(header)
	*st = streamH2{request: Request{Header: header[:0]}}
}

// take makes the exchange's request of a head.
func (st *streamH2) take(h *h2.Head) *Error {
	c, r := st.c, &st.request
	header := r.Header[:0]
	*r = Request{Method: h.Method, Scheme: c.client.scheme, Host: h.Authority, Target: h.Path, Version: HTTP20, Length: h.Length}
	c.client.describe(r)
	bad := st.takeProtocol(h)
	for i := range h.Fields {
		f := &h.Fields[i]
		switch f.Name {
		case "host":
			bad = firstError(bad, st.host(f.Value))
			continue
		case "te", "content-length":
			continue
		}
		keep, err := h1.CheckField(f.Name, f.Value)
		if bad = firstError(bad, err); keep {
			header = append(header, Field(*f))
		}
	}
	r.Header = header
	if st.tunnel == tunnelAsked {
		r.Header.Set("sec-websocket-key", webSocketKey())
	}
	if h.TooLarge {
		return &Error{Status: 431, Source: FromClient, Reason: lb.HeadTooLarge}
	}
	bad = firstError(bad, h1.CheckTarget(r.Method, r.Target, &c.thread.proxy.view.Load().limits))
	bad = firstError(bad, h1.CheckHost(r.Host))
	if bad != nil {
		return requestError(bad)
	}
	return nil
}

var errHosts = errors.New(":authority and host differ")

// host takes a host field: the only name of the request, or the same once more.
func (st *streamH2) host(value string) error {
	if st.request.Host != "" && !h1.SameHost(st.request.Host, value) {
		return errHosts
	}
	st.request.Host = value
	return nil
}

func firstError(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// sendInfo is downstream's, as those that follow.
func (st *streamH2) sendInfo(status int, h Header) {
	if st.s != nil && status != 101 {
		st.c.writeHead(st.s, status, h)
		st.c.conn.EndHead(false)
		st.c.soil()
	}
}

func (st *streamH2) sendHead(res *Response, end bool) {
	if st.s == nil {
		return
	}
	conn := st.c.conn
	if st.tunnel == tunnelAsked {
		st.sendTunnelHead(res, end)
		return
	}
	dated := st.c.writeHead(st.s, res.Status, res.Header)
	if !dated {
		conn.Field("date", st.c.thread.dateText())
	}
	if res.Length >= 0 && res.Status != 204 {
		var digits [20]byte
		conn.Field("content-length", string(strconv.AppendInt(digits[:0], res.Length, 10)))
	}
	conn.EndHead(end)
	st.c.soil()
}

// writeHead begins a response's section and tells whether it has a date.
func (c *serverH2) writeHead(s *h2.Stream, status int, h Header) (dated bool) {
	c.conn.BeginHead(s)
	c.conn.Field(":status", statusText(status))
	return writeFields(c.conn, h)
}

// writeFields adds the fields that may go out by HTTP/2, where some are an
// error and not just ignored (RFC 9113, section 8.2.2).
func writeFields(conn *h2.Conn, h Header) (dated bool) {
	for i := range h {
		name := h[i].Name
		switch len(name) {
		case 2:
			if equalFold(name, "te") {
				continue
			}
		case 4:
			dated = dated || equalFold(name, "date")
			if equalFold(name, "host") {
				continue
			}
		case 7, 10, 14, 16, 17:
			if hopByHop(name) {
				continue
			}
		}
		conn.Field(name, h[i].Value)
	}
	return dated
}

func hopByHop(name string) bool {
	switch lowerByte(name[0]) {
	case 'c':
		return equalFold(name, "connection") || equalFold(name, "content-length")
	case 'k':
		return equalFold(name, "keep-alive")
	case 'p':
		return equalFold(name, "proxy-connection")
	case 't':
		return equalFold(name, "transfer-encoding")
	case 'u':
		return equalFold(name, "upgrade")
	}
	return false
}

var statusTexts = func() (t [500]string) {
	for i := range t {
		t[i] = strconv.Itoa(100 + i)
	}
	return t
}()

func statusText(n int) string {
	if n < 100 || n > 599 {
		return strconv.Itoa(min(max(n, 100), 999))
	}
	return statusTexts[n-100]
}

func (st *streamH2) sendBody(p []byte, end bool) {
	if st.s != nil {
		st.c.conn.Write(st.s, p, end)
		st.c.soil()
	}
}

func (st *streamH2) sendTrailers(h Header) {
	if st.s == nil {
		return
	}
	conn := st.c.conn
	conn.BeginHead(st.s)
	writeFields(conn, h)
	conn.EndHead(true)
	st.c.soil()
}

func (st *streamH2) pauseBody() {
	if st.s != nil {
		st.c.conn.Pause(st.s)
	}
}

func (st *streamH2) resumeBody() {
	if st.s != nil {
		st.c.conn.Resume(st.s)
		st.c.soil()
	}
}

// buffered says that the client is full as soon as it gives no window: a client
// that opens many streams and takes nothing is to cost little on each.
func (st *streamH2) buffered() int {
	if st.s == nil {
		return 0
	}
	n := st.s.Buffered()
	if n > 0 && st.c.conn.Stalled(st.s) {
		n += highWater
	}
	return n
}

func (st *streamH2) known() bool { return st.c.took }

func (st *streamH2) room() int {
	if st.s == nil {
		return 0
	}
	return st.c.conn.Room(st.s)
}

// abort: the response is not whole, and must not look so.
func (st *streamH2) abort(*Error) { st.endStream(h2.InternalError) }

func (st *streamH2) endStream(code h2.ErrCode) {
	if st.s != nil {
		st.c.conn.Reset(st.s, code)
		st.s = nil
		st.closed()
		st.c.soil()
	}
}

// done: what is queued still goes out; Closed follows.
func (st *streamH2) done() {
	st.x = nil
	if st.s != nil && !st.s.Finished() {
		st.endStream(h2.Cancel)
	}
	if st.s == nil {
		st.c.put(st)
	}
}

// clientFailed ends an exchange whose client cannot be answered.
func (x *exchange) clientFailed(e *Error) {
	if !x.over && !x.hold(heldEvent{kind: heldGone, err: e}) {
		x.finish(e)
	}
}

// streamFault tells clients that went away from those that broke the rules.
func streamFault(err error) *Error {
	e := &Error{Status: 499, Source: FromClient, Reason: lb.ClientAbort, Err: err}
	var stream *h2.StreamError
	var conn *h2.ConnError
	switch {
	case errors.As(err, &stream) && !stream.Remote:
		e.Status, e.Reason = 400, lb.BadFraming
		if stream.Code == h2.RefusedStream {
			e.Status, e.Reason = 503, lb.StreamBudget
		}
	case errors.As(err, &conn):
		e.Status, e.Reason = 400, lb.BadFraming
		switch conn.Code {
		case h2.EnhanceYourCalm:
			e.Reason = lb.StreamBudget
		case h2.NoError: // it was us who had enough
			e.Status, e.Reason = 408, lb.ClientTimeout
		}
	case errors.Is(err, loop.ErrSlow):
		e.Status, e.Reason = 408, lb.SlowClient
	case errors.Is(err, loop.ErrStalled):
		e.Status, e.Reason = 408, lb.ClientTimeout
	case errors.Is(err, loop.ErrStrain):
		e.Status, e.Reason = 408, lb.MemoryLimit
	}
	return e
}
