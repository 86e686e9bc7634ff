package l7

import (
	"crypto/tls"
	"fmt"
	"net/netip"
	"strings"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7/loop"
)

// clientTLS is the TLS of an endpoint.
type clientTLS struct{ config *tls.Config }

// sessions is how many sessions an endpoint keeps for resumption.
const sessions = 64

// buildClientTLS builds what connections to a backend need.
func buildClientTLS(key *endpointKey, r *secretReader) (*clientTLS, error) {
	c := &key.tls
	config := &tls.Config{
		ServerName:                  c.ServerName,
		InsecureSkipVerify:          c.Insecure,
		MinVersion:                  tls.VersionTLS12,
		NextProtos:                  []string{"http/1.1"},
		ClientSessionCache:          tls.NewLRUClientSessionCache(sessions),
		DynamicRecordSizingDisabled: true,
	}
	if key.protocol != lb.HTTP1 {
		config.NextProtos = []string{"h2"}
	}
	if config.ServerName == "" {
		config.ServerName = backendHost(key.address)
	}
	var err error
	if name := rootsOf(c); name != "" {
		if config.RootCAs, err = r.pool(name); err != nil {
			return nil, err
		}
	}
	if c.Cert != "" {
		certificate, err := r.pair(lb.CertificateFiles{Cert: c.Cert, Key: c.Key})
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{*withLeaf(&certificate.Certificate)}
	}
	return &clientTLS{config}, nil
}

// rootsOf is the file of the authorities that a pool's backends are verified by.
// The supervisor reads the system's, too: a worker opens no path.
func rootsOf(c *lb.ClientTLS) string {
	if c.CA == "" && !c.Insecure {
		return lb.SystemCAs
	}
	return c.CA
}

// backendHost is the name that a backend's certificate is verified by when the
// pool says none: its IP address.
func backendHost(address string) string {
	if strings.HasPrefix(address, "unix:") {
		return ""
	}
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return ""
	}
	return a.Addr().WithZone("").String()
}

// start begins a handshake on raw, which is connected; done hears of its end on
// the loop. A connection that does not agree on the backend's protocol failed.
func (c *clientTLS) start(t *thread, raw *loop.Conn, u loop.User, done func(err error)) *tlsConn {
	var secure *tlsConn
	secure = t.startTLS(raw, func(w *wire) *tls.Conn { return tls.Client(w, c.config) }, func(err error) {
		if err == nil {
			err = c.agreed(secure.conn.ConnectionState().NegotiatedProtocol)
		}
		done(err)
	})
	secure.Use(u)
	return secure
}

// agreed holds the protocol that a backend chose against the pool's: one that
// chooses none speaks HTTP/1.
func (c *clientTLS) agreed(protocol string) error {
	if want := c.config.NextProtos[0]; want != "http/1.1" && protocol != want {
		return fmt.Errorf("backend speaks %q, not %s", protocol, want)
	}
	return nil
}

// tlsError is the error of an attempt whose handshake failed.
func tlsError(err error) *Error {
	return &Error{Status: 502, Source: FromUpstream, Reason: lb.UpstreamTLS, Err: err, kind: failedConnect}
}
