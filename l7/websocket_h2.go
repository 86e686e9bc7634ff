package l7

import (
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"slices"

	"github.com/cirque-lb/lb/l7/h1"
	"github.com/cirque-lb/lb/l7/h2"
)

// WebSockets over HTTP/2 are an extended CONNECT (RFC 8441). The exchange knows
// Upgrade only: either side translates, and plays the key game of RFC 6455 with
// whoever still does.

// tunnelH2 is how far a stream is from being a tunnel.
type tunnelH2 uint8

const (
	noTunnel tunnelH2 = iota
	tunnelAsked
	tunnelOpen
)

var (
	errEarlyTunnel = errors.New("bytes for a tunnel that is not open")
	errProtocol    = &h1.Error{Kind: h1.NotImplemented, Detail: ":protocol is not websocket"}
)

// takeProtocol makes an upgrade of an extended CONNECT.
func (st *streamH2) takeProtocol(h *h2.Head) error {
	if h.Protocol == "" {
		return nil
	}
	if !equalFold(h.Protocol, "websocket") {
		return errProtocol
	}
	st.tunnel = tunnelAsked
	r := &st.request
	r.Method, r.Upgrade, r.Length = "GET", "websocket", -1
	return nil
}

// sendTunnelHead answers an extended CONNECT. Any 2xx would say that the tunnel
// is there, so one that came instead of a 101 is passed on as a failure.
func (st *streamH2) sendTunnelHead(res *Response, end bool) {
	status := res.Status
	switch {
	case status == 101:
		st.tunnel = tunnelOpen
		res.Header.Del("sec-websocket-accept")
		status = 200
	case status < 300:
		status = 502
	}
	if !st.c.writeHead(st.s, status, res.Header) {
		st.c.conn.Field("date", st.c.thread.dateText())
	}
	st.c.conn.EndHead(end)
	st.c.soil()
}

// writeConnect writes the head of an extended CONNECT.
func (r *requestH2) writeConnect(req *Request) {
	r.tunnel = tunnelAsked
	r.key = req.Header.Get("sec-websocket-key")
	conn := r.c.conn
	conn.BeginHead(r.s)
	conn.Field(":method", "CONNECT")
	conn.Field(":protocol", "websocket")
	conn.Field(":scheme", r.c.scheme())
	conn.Field(":authority", req.Host)
	conn.Field(":path", req.Target)
	header := slices.Clone(req.Header)
	header.Del("sec-websocket-key")
	writeFields(conn, header)
	conn.EndHead(false)
	r.c.soil()
}

// openTunnel makes a 101 of a backend's 2xx.
func (r *requestH2) openTunnel() {
	r.tunnel = tunnelOpen
	res := &r.x.response
	res.Status, res.Length, res.Upgrade = 101, -1, "websocket"
	if r.key != "" {
		res.Header.Set("Sec-WebSocket-Accept", webSocketAccept(r.key))
	}
}

func webSocketKey() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	return base64.StdEncoding.EncodeToString(b[:])
}

// webSocketAccept answers a key (RFC 6455, section 4.2.2).
func webSocketAccept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}
