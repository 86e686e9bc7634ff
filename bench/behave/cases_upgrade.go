package main

import (
	"fmt"
	"strings"
)

// The key and its answer are the example's of RFC 6455 section 1.3.
const (
	upgrade = get + "Connection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
	upgraded = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)

// upgradeCases are section B: upgrades, expectations and early answers.
func upgradeCases() []behaviour {
	return []behaviour{
		{name: "a tunnel carries bytes both ways and closes by halves", origin: websocket, do: tunnel, want: []string{"101 hello, ping: pong; bye: end"}},
		{name: "the origin closes a tunnel", origin: dying(upgraded + "hi"),
			do: tunnelClosed, want: []string{"101 hi, close"}},
		{name: "a refused upgrade leaves HTTP", do: refusedUpgrade, want: []string{"200 200 open"}},
		{name: "an upgrade nobody asked for", origin: dying("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"),
			do: down(get+"\r\n", func(message) string { return "" }), want: []string{"502 "}},
		{name: "h2c is not passed on", do: up(get+"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
			func(r request) string { return r.fields.get("upgrade") + r.fields.get("http2-settings") }), want: []string{"200 "}},
		{name: "Expect: 100 then 200", origin: expecting, do: expect, want: []string{"100 200 hello"}},
		{name: "Expect refused, next request instead of a body", origin: expectRefused, do: expectSmuggle, want: []string{"417 close, up 1, origin's connection closed"}},
		{name: "an early 413 ends both connections", origin: early, do: early413, want: []string{"413 close, origin's connection closed"}},
		{name: "103 then 200", origin: saying("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
			do: twoHeads, want: []string{"103 </a>, 200 ok"}},
		{name: "103 then the origin dies", origin: dying("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"), do: twoHeads, want: []string{"103 </a>, 502 *"}},
		{name: "1xx is not for HTTP/1.0", origin: saying("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
			do: down("GET /x HTTP/1.0\r\nHost: a\r\n\r\n", func(m message) string { return m.body }), want: []string{"200 ok"}},
	}
}

func websocket(c *conn) {
	if probe(c) {
		return
	}
	c.request()
	c.say(upgraded + "hello")
	if c.take(4) == "ping" {
		c.say("pong")
	}
	if rest, how := c.rest(); rest == "bye" && how == "close" {
		c.say("end")
	}
	c.Close()
}

func tunnel(w *world) string {
	return w.client(func(c *conn) string {
		m := c.say(upgrade).response("GET")
		hello := c.take(5)
		c.say("ping")
		pong := c.take(4)
		c.say("bye").closeWrite()
		rest, _ := c.rest()
		return fmt.Sprintf("%s %s, ping: %s; bye: %s", m.said(), hello, pong, rest)
	})
}

func tunnelClosed(w *world) string {
	return w.client(func(c *conn) string {
		m := c.say(upgrade).response("GET")
		rest, how := c.rest()
		return fmt.Sprintf("%s %s, %s", m.said(), rest, how)
	})
}

func refusedUpgrade(w *world) string {
	return w.client(func(c *conn) string {
		c.say(upgrade + get + "\r\n")
		a, b := c.response("GET"), c.response("GET")
		return fmt.Sprint(a.said(), " ", b.said(), " ", c.fate(b))
	})
}

// expecting asks for the body.
func expecting(c *conn) {
	if probe(c) {
		return
	}
	m := c.head()
	c.say("HTTP/1.1 100 Continue\r\n\r\n")
	c.readBody(&m, "none")
	c.say(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(m.body), m.body))
}

func expect(w *world) string {
	return w.client(func(c *conn) string {
		m := c.say("POST /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n").response("POST")
		said := m.said()
		if m.status() == 100 {
			m = c.say("hello").response("POST")
			said += " " + m.said()
		}
		return said + " " + m.body
	})
}

// expectRefused answers at once and notes what comes then.
func expectRefused(c *conn) {
	m := c.head()
	c.o.mu.Lock()
	c.o.log = append(c.o.log, request{m, c.number})
	c.o.mu.Unlock()
	c.say("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n")
	rest, how := c.rest()
	note := request{conn: c.number}
	note.line, note.body = how, rest
	c.o.mu.Lock()
	c.o.log = append(c.o.log, note)
	c.o.mu.Unlock()
	c.Close()
}

func expectSmuggle(w *world) string {
	return w.client(func(c *conn) string {
		m := c.say("POST /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 500\r\n\r\n").response("POST")
		said := m.said()
		c.say("GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
		return said + " " + c.fate(m) + ", " + w.afterwards(2)
	})
}

// afterwards waits until the origin's note is there, and reads it.
func (w *world) afterwards(n int) string {
	if !w.wait(func() bool { return len(w.requests()) >= n }) {
		return fmt.Sprintf("up %d, origin's connection open", len(w.requests()))
	}
	note := w.requests()[n-1]
	out := fmt.Sprintf("up %d, origin's connection ", n-1)
	if note.line == "silence" {
		return out + "open"
	}
	if strings.Contains(note.body, "smuggled") {
		return out + "got the smuggled request"
	}
	return out + "closed"
}

var early = expectRefusedAs("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig")

func expectRefusedAs(response string) func(*conn) {
	return func(c *conn) {
		c.head()
		c.say(response)
		rest, how := c.rest()
		note := request{conn: c.number}
		note.line, note.body = how, rest
		c.o.mu.Lock()
		c.o.log = append(c.o.log, request{}, note)
		c.o.mu.Unlock()
		c.Close()
	}
}

func early413(w *world) string {
	return w.client(func(c *conn) string {
		c.say("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nsome")
		m := c.response("POST")
		fate := c.fate(m)
		after := w.afterwards(2)
		_, after, _ = strings.Cut(after, ", ")
		return m.said() + " " + fate + ", " + after
	})
}

func twoHeads(w *world) string {
	return w.client(func(c *conn) string {
		a := c.say(get + "\r\n").response("GET")
		out := a.said() + " " + a.fields.get("link")
		if a.status() != 103 {
			return out
		}
		b := c.response("GET")
		return out + ", " + b.said() + " " + b.body
	})
}
