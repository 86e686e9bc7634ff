package main

import (
	"bufio"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/cirque-lb/lb/l7/certtest"
)

// tlsCases are section E: TLS with clients and backends, and the PROXY protocol.
func tlsCases() []behaviour {
	all := slices.Concat(clientTLSCases(), backendTLSCases(), proxyCases())
	for i := range all {
		all[i].tls = true
	}
	return all
}

const getTo = "GET /tls/ HTTP/1.1\r\nHost: a\r\n\r\n"

func clientTLSCases() []behaviour {
	alert := func(kind string, more ...string) []string { return append([]string{"alert " + kind}, more...) }
	return []behaviour{
		{name: "TLS 1.2 and 1.3", do: versions, want: []string{"1.2 200, 1.3 200"}},
		{name: "TLS 1.1", do: secureGet(func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }, nil),
			want: alert("protocol version not supported", "alert *", "close")},
		{name: "SNI: exact, wildcard, other, none", do: names, want: []string{"a.example b.example b.example a.example a.example"}},
		{name: "ALPN: h2 first, HTTP/1.1 first, none, another", do: alpn, want: []string{"h2, http/1.1, none, alert no application protocol", "h2, *"}},
		{name: "a handshake byte by byte", do: dripped, want: []string{"200"}},
		{name: "clear text to the port of TLS", do: clearText, want: []string{"400 close", "- close"}},
		{name: "garbage to the port of TLS", do: garbage, want: []string{"close"}},
		{name: "a handshake that never goes on", slow: true, do: silentHandshake, want: []string{"close in time"}},
		{name: "close_notify behind the request", origin: answersLate, do: halfClosed, want: []string{"-", "200"}}, // as a FIN: the client has gone
		{name: "a request's body cut off without close_notify", origin: readsHeadFirst, do: cutOff, want: []string{"up 1 cut", "up 0"}},
		{name: "1 MiB in both directions", do: largeTLS, want: []string{"200 the same"}},
		{name: "a session is resumed", do: resumed, want: []string{"1.2 yes, 1.3 yes"}},

		{name: "client certificate", do: clientCertificate(func(p *pki) *tls.Certificate { return &p.good }), want: []string{"200"}},
		{name: "no client certificate", do: clientCertificate(nil), want: alert("certificate required", "alert *", "400")},
		{name: "client certificate of a stranger", do: clientCertificate(func(p *pki) *tls.Certificate { return &p.other }), want: alert("unknown certificate authority", "alert *", "400")},
		{name: "client certificate that has ended", do: clientCertificate(func(p *pki) *tls.Certificate { return &p.expired }), want: alert("expired certificate", "alert *", "400")},
	}
}

func backendTLSCases() []behaviour {
	get := down(getTo, func(m message) string { return m.body })
	status := down(getTo, func(message) string { return "" })
	shown := func(by func(*pki) *certtest.Authority, good time.Duration, name string) func(*world) string {
		return toOrigin(func(o *originTLS) func(net.Conn) { return o.shown(by(o.pki), good, name) }, status)
	}
	servers := func(p *pki) *certtest.Authority { return p.servers }
	clients := func(p *pki) *certtest.Authority { return p.clients }
	speaking := func(speak func(*tls.Conn), then func(*world) string) func(*world) string {
		return toOrigin(func(o *originTLS) func(net.Conn) { return o.proper(speak) }, then)
	}
	return []behaviour{
		{name: "a backend over TLS", do: shown(servers, time.Hour, "origin.example"), want: []string{"200 "}},
		{name: "a backend's certificate for another name", do: shown(servers, time.Hour, "other.example"), want: []string{"502 ", "503 "}},
		{name: "a backend's certificate that has ended", do: shown(servers, -time.Hour, "origin.example"), want: []string{"502 ", "503 "}},
		{name: "a backend's certificate of another authority", do: shown(clients, time.Hour, "origin.example"), want: []string{"502 ", "503 "}},
		{name: "a backend that speaks no TLS", do: toOrigin(raw502("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), status), want: []string{"502 ", "503 "}},
		{name: "a backend that closes within the handshake", do: toOrigin(raw502(""), status), want: []string{"502 ", "503 "}},
		{name: "a backend that is silent within the handshake", slow: true, do: toOrigin(func(*originTLS) func(net.Conn) {
			return func(c net.Conn) { io.Copy(io.Discard, c) }
		}, status), want: []string{"504 ", "503 ", "502 "}},
		{name: "a backend that wants our certificate", do: toOrigin(func(o *originTLS) func(net.Conn) {
			return o.proper(answer, func(c *tls.Config) { c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, o.pki.clients.Pool() })
		}, get), want: []string{"200 lb"}},
		{name: "TLS 1.2 to a backend", do: toOrigin(func(o *originTLS) func(net.Conn) {
			return o.proper(answer, func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 })
		}, get), want: []string{"200 nobody"}},
		{name: "a backend that speaks no TLS, another host", only: true, do: speaking(answer, several("GET /tlstwo/ HTTP/1.1\r\nHost: a\r\n\r\n")), want: []string{"200 200 200 200"}},
		{name: "a body until close_notify", do: speaking(untilClose(true), get), want: []string{"200 hello"}},
		{name: "a body until a mere FIN", do: speaking(untilClose(false), status), want: []string{"200 cut "}},
		{name: "a kept connection that the backend closes", do: speaking(once, again), want: []string{"200 200, 2 connections"}},
	}
}

func proxyCases() []behaviour {
	const line = "PROXY TCP4 192.0.2.1 198.51.100.2 12345 443\r\n"
	v2 := func(command, kind byte, addresses string) string {
		return "\r\n\r\n\x00\r\nQUIT\n" + string([]byte{command, kind, 0, byte(len(addresses))}) + addresses
	}
	client := func(header string) func(*world) string {
		return behindProxy(header+get+"\r\n", func(w *world, c *conn) string {
			m := c.response("GET")
			if got := w.requests(); len(got) == 1 {
				return m.said() + " " + got[0].fields.get("x-forwarded-for")
			}
			return m.said()
		})
	}
	closes := func(header string) func(*world) string {
		return behindProxy(header, func(w *world, c *conn) string {
			_, how := c.rest()
			return fmt.Sprintf("%s, up %d", strings.Replace(how, "reset", "close", 1), len(w.requests()))
		})
	}
	refused := []string{"close, up 0"}
	return []behaviour{
		{name: "PROXY v1", do: client(line), want: []string{"200 192.0.2.1"}},
		{name: "PROXY v2", do: client(v2(0x21, 0x11, "\xc0\x00\x02\x01\xc6\x33\x64\x02\x30\x39\x01\xbb")), want: []string{"200 192.0.2.1"}},
		{name: "PROXY v2 with TLVs", do: client(v2(0x21, 0x11, "\xc0\x00\x02\x01\xc6\x33\x64\x02\x30\x39\x01\xbb\x04\x00\x01x")), want: []string{"200 192.0.2.1"}},
		{name: "PROXY v2 LOCAL", do: client(v2(0x20, 0, "")), want: []string{"200 127.0.0.1"}},
		{name: "PROXY v1 UNKNOWN", do: client("PROXY UNKNOWN\r\n"), want: []string{"200 127.0.0.1"}},
		{name: "paths are made plain if that is wanted", only: true, do: behindProxy(line+"GET /a/../x/%2e/%79//z%2F?q=%79 HTTP/1.1\r\nHost: a\r\n\r\n", func(w *world, c *conn) string {
			m := c.response("GET")
			if got := w.requests(); len(got) == 1 {
				return m.said() + " " + got[0].line
			}
			return m.said()
		}), want: []string{"200 GET /x/y/z%2F?q=%79 HTTP/1.1"}},
		{name: "a PROXY header is missing", do: closes(get + "\r\n"), want: refused},
		{name: "a PROXY header that is not valid", do: closes("PROXY TCP4 192.0.2.1 198.51.100.2 12345\r\n" + get + "\r\n"), want: refused},
		{name: "a PROXY header from who must not send one", do: raw(line + get + "\r\n"), want: []string{"400 close, up 0"}},
		{name: "a PROXY header that never ends", slow: true, do: lateHeader, want: []string{"close in time"}},
	}
}

// secureGet asks with a changed client.
func secureGet(change func(*tls.Config), show func(*tls.Conn) string) func(*world) string {
	return func(w *world) string {
		c := w.tls.config("a.example")
		change(c)
		return getTLS(w.tls.secure, c, show)
	}
}

func versions(w *world) string {
	var out []string
	for _, v := range []struct {
		name string
		v    uint16
	}{{"1.2", tls.VersionTLS12}, {"1.3", tls.VersionTLS13}} {
		out = append(out, v.name+" "+strings.TrimSpace(secureGet(func(c *tls.Config) { c.MinVersion, c.MaxVersion = v.v, v.v }, nil)(w)))
	}
	return strings.Join(out, ", ")
}

func names(w *world) string {
	var out []string
	for _, name := range []string{"a.example", "B.example", "www.b.example", "other", ""} {
		_, c, why := dialTLS(w.tls.secure, &tls.Config{InsecureSkipVerify: true, ServerName: name})
		if why != "" {
			out = append(out, why)
			continue
		}
		out = append(out, c.ConnectionState().PeerCertificates[0].Subject.CommonName)
		c.Close()
	}
	return strings.Join(out, " ")
}

func alpn(w *world) string {
	var out []string
	for _, protos := range [][]string{{"h2", "http/1.1"}, {"http/1.1"}, nil, {"foo"}} {
		config := w.tls.config("a.example")
		config.NextProtos = protos
		_, c, why := dialTLS(w.tls.secure, config)
		if why != "" {
			out = append(out, why)
			continue
		}
		proto := c.ConnectionState().NegotiatedProtocol
		if proto == "" {
			proto = "none"
		}
		out = append(out, proto)
		c.Close()
	}
	return strings.Join(out, ", ")
}

// dripping writes one byte at a time.
type dripping struct{ net.Conn }

func (d dripping) Write(p []byte) (int, error) {
	for i := range p {
		if _, err := d.Conn.Write(p[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

func dripped(w *world) string {
	raw, err := net.DialTimeout("tcp", w.tls.secure, patience)
	if err != nil {
		return err.Error()
	}
	defer raw.Close()
	raw.(*net.TCPConn).SetNoDelay(true)
	c := &conn{Conn: tls.Client(dripping{raw}, w.tls.config("a.example"))}
	c.r = bufio.NewReader(c.Conn)
	m := c.say(get + "\r\n").response("GET")
	return m.said()
}

func clearText(w *world) string {
	return at(w.tls.secure, func(c *conn) string {
		m := c.say(get + "\r\n").response("GET")
		_, how := c.rest()
		return m.said() + " " + strings.Replace(how, "reset", "close", 1)
	})
}

func garbage(w *world) string {
	return at(w.tls.secure, func(c *conn) string {
		c.say("\x16\x03\x01\x00\x05hello")
		_, how := c.rest()
		return strings.Replace(how, "reset", "close", 1)
	})
}

// at dials an address and closes when the case is over.
func at(addr string, use func(*conn) string) string {
	raw, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return "cannot connect: " + err.Error()
	}
	defer raw.Close()
	return use(&conn{Conn: raw, r: bufio.NewReaderSize(raw, 1<<20)})
}

// lateness waits for the end of a connection that does not go on.
func lateness(w *world, addr, begin string) string {
	return at(addr, func(c *conn) string {
		c.say(begin)
		c.SetReadDeadline(time.Now().Add(w.headTimeout + 8*time.Second))
		if _, err := io.Copy(io.Discard, c); err != nil && failed(err) != "close" {
			return failed(err)
		}
		return "close in time"
	})
}

func silentHandshake(w *world) string { return lateness(w, w.tls.secure, "\x16\x03\x01\x02\x00\x01") }

func lateHeader(w *world) string { return lateness(w, w.tls.proxied, "PROXY TCP4 ") }

// answersLate answers when what a client sent behind its request has surely come.
func answersLate(c *conn) {
	c.request()
	time.Sleep(500 * time.Millisecond)
	c.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
}

// halfClosed: the client has said all it will, in TLS's own words.
func halfClosed(w *world) string {
	c, t, why := dialTLS(w.tls.secure, w.tls.config("a.example"))
	if why != "" {
		return why
	}
	defer c.Close()
	c.say("GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n")
	t.CloseWrite()
	m := c.response("GET")
	return m.said()
}

func cutOff(w *world) string {
	c, t, why := dialTLS(w.tls.secure, w.tls.config("a.example"))
	if why != "" {
		return why
	}
	defer c.Close()
	c.say("POST /x HTTP/1.1\r\nHost: a.example\r\nContent-Length: 10\r\n\r\nhello")
	if !w.waitFor(300*time.Millisecond, func() bool { return len(w.requests()) > 0 }) {
		t.NetConn().(*net.TCPConn).CloseWrite()
		c.rest()
		return fmt.Sprintf("up %d", len(w.requests())) // it buffers requests
	}
	t.NetConn().(*net.TCPConn).CloseWrite()
	w.wait(func() bool { return len(w.requests()) > 1 })
	if got := w.requests(); len(got) == 2 {
		return "up 1 " + got[1].line
	}
	return fmt.Sprintf("up %d", len(w.requests()))
}

func largeTLS(w *world) string {
	c, _, why := dialTLS(w.tls.secure, w.tls.config("a.example"))
	if why != "" {
		return why
	}
	defer c.Close()
	body := make([]byte, 1<<20)
	rand.Read(body)
	go c.Conn.Write(append(fmt.Appendf(nil, "POST /x HTTP/1.1\r\nHost: a.example\r\nContent-Length: %d\r\n\r\n", len(body)), body...))
	m := c.response("POST")
	if strings.HasSuffix(m.body, string(body)) {
		return m.said() + " the same"
	}
	return fmt.Sprintf("%s %d bytes", m.said(), len(m.body))
}

func resumed(w *world) string {
	var out []string
	for _, v := range []struct {
		name string
		v    uint16
	}{{"1.2", tls.VersionTLS12}, {"1.3", tls.VersionTLS13}} {
		config := w.tls.config("a.example")
		config.MaxVersion, config.ClientSessionCache = v.v, tls.NewLRUClientSessionCache(1)
		did := func(c *tls.Conn) string {
			return map[bool]string{true: "yes", false: "no"}[c.ConnectionState().DidResume]
		}
		getTLS(w.tls.secure, config, did)
		_, last, _ := strings.Cut(getTLS(w.tls.secure, config, did), " ")
		out = append(out, v.name+" "+last)
	}
	return strings.Join(out, ", ")
}

func clientCertificate(which func(*pki) *tls.Certificate) func(*world) string {
	return func(w *world) string {
		config := w.tls.config("a.example")
		if which != nil { // also when the proxy does not list its authority
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return which(w.tls.pki), nil }
		}
		return getTLS(w.tls.mutual, config, nil)
	}
}

// toOrigin makes the origin behind TLS follow a script during a case.
func toOrigin(script func(*originTLS) func(net.Conn), then func(*world) string) func(*world) string {
	return func(w *world) string {
		w.tls.origin.follow(script(w.tls.origin))
		return then(w)
	}
}

// raw502 says something instead of a handshake, and closes.
func raw502(text string) func(*originTLS) func(net.Conn) {
	return func(*originTLS) func(net.Conn) {
		return func(c net.Conn) {
			c.Read(make([]byte, 4<<10))
			io.WriteString(c, text)
		}
	}
}

// untilClose answers with a body that ends with the connection.
func untilClose(notify bool) func(*tls.Conn) {
	return func(c *tls.Conn) {
		in := &conn{Conn: c, r: bufio.NewReader(c)}
		if !in.request().whole {
			return
		}
		io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\nhello")
		if notify {
			c.Close()
		}
		c.NetConn().(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, c.NetConn())
	}
}

// once answers one request, as if more were welcome, and closes.
func once(c *tls.Conn) {
	in := &conn{Conn: c, r: bufio.NewReader(c)}
	if in.request().whole {
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		c.Close()
	}
}

func again(w *world) string {
	return w.client(func(c *conn) string {
		a := c.say(getTo).response("GET")
		b := c.say(getTo).response("GET")
		return fmt.Sprintf("%s %s, %d connections", a.said(), b.said(), w.tls.origin.connections())
	})
}

// behindProxy says something to the listener that wants PROXY headers.
func behindProxy(text string, show func(*world, *conn) string) func(*world) string {
	return func(w *world) string {
		return at(w.tls.proxied, func(c *conn) string {
			c.say(text)
			return show(w, c)
		})
	}
}
