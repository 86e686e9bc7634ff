package main

import (
	"fmt"
	"strings"
	"time"
)

// upstreamCases are section C: what a backend may do.
func upstreamCases() []behaviour {
	status := func(message) string { return "" }
	body := func(m message) string { return m.framing + " " + m.body }
	okThen := func(response string) func(*conn) { return saying(response) }
	return []behaviour{
		{name: "a fresh connection dies, GET", origin: dying(""), do: attempts(get + "\r\n"), want: []string{"502, 1 attempts", "502, 2 attempts"}},
		{name: "a reused connection dies, GET", origin: diesWhenReused, do: reusedDies("GET", ""), want: []string{"200 fresh"}},
		{name: "a reused connection dies, POST", origin: diesWhenReused, do: reusedDies("POST", "body"), want: []string{"502"}},
		{name: "a reused connection dies, small PUT", origin: diesWhenReused, do: reusedDies("PUT", strings.Repeat("p", 60<<10)), want: []string{"200 fresh", "502"}},
		{name: "a reused connection dies, large PUT", origin: diesWhenReused, do: reusedDies("PUT", strings.Repeat("p", 200<<10)), want: []string{"502"}},
		{name: "garbage for a status line", origin: dying("garbage\r\n\r\n"), do: down(get+"\r\n", status), want: []string{"502 "}},
		{name: "the origin closes, the client's connection stays", origin: dying("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"),
			do: raw(get + "\r\n"), want: []string{"200 open, up 1"}},
		{name: "a body until close", origin: dying("HTTP/1.1 200 OK\r\n\r\nhello"), do: down(get+"\r\n", body), want: []string{"200 chunked hello", "200 close hello"}},
		{name: "a body until close for HTTP/1.0", origin: dying("HTTP/1.1 200 OK\r\n\r\nhello"), do: down("GET /x HTTP/1.0\r\nHost: a\r\n\r\n", body), want: []string{"200 close hello"}},
		{name: "a chunked body for HTTP/1.0", origin: saying("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
			do: down("GET /x HTTP/1.0\r\nHost: a\r\n\r\n", body), want: []string{"200 close hello"}},
		{name: "204 with a body", origin: okThen("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nEVILS"), do: noDesync("GET", true), want: []string{"204 open, no length, origin's connection dropped"}},
		{name: "304 with CL", origin: okThen("HTTP/1.1 304 Not Modified\r\nContent-Length: 50\r\nETag: x\r\n\r\n"), do: raw(get + "\r\n"), want: []string{"304 open, up 1"}},
		{name: "HEAD with CL", origin: okThen("HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n"), do: headCL, want: []string{"200 open, CL 1234"}},
		{name: "HEAD answered with a body", origin: okThen("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nEVILS"), do: noDesync("HEAD", false), want: []string{"200 open, length, origin's connection dropped"}},
		{name: "response trailers", origin: saying("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n2\r\nok\r\n0\r\nX-T: 1\r\n\r\n"),
			do: down(get+"\r\n", func(m message) string { return "trailer " + m.trailer.get("x-t") }), want: []string{"200 trailer 1"}},
		{name: "a truncated body with CL", origin: dying("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"), do: down(get+"\r\n", status), want: []string{"200 cut "}},
		{name: "a truncated chunked body", origin: dying("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"), do: down(get+"\r\n", status), want: []string{"200 cut "}},
		{name: "a truncated chunked body for HTTP/1.0", origin: dying("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
			do: looksWhole, want: []string{"cut"}},
		{name: "a head of 100 KB", origin: dying("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("a", 100<<10) + "\r\nContent-Length: 0\r\n\r\n"), do: down(get+"\r\n", status), want: []string{"502 "}},
		{name: "CL twice, differing", origin: dying("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc"), do: down(get+"\r\n", status), want: []string{"502 "}},
		{name: "TE + CL", origin: saying("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"), do: teWins,
			want: []string{"200 ok, no CL, origin's connection dropped", "502*"}},
		{name: "bytes behind the response", origin: saying("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nPOISON"), do: poison,
			want: []string{"never delivered"}},
		{name: "hop-by-hop fields of a response", origin: saying("HTTP/1.1 200 OK\r\nConnection: X-Secret\r\nX-Secret: 1\r\nKeep-Alive: 5\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n"),
			do: down(get+"\r\n", func(m message) string { return m.fields.get("x-secret") + m.fields.get("keep-alive") }), want: []string{"200 "}},
		{name: "the client goes while the origin thinks", origin: thinking, do: abortThinking, want: []string{"origin's connection closed soon"}},
		{name: "the client goes in the middle of a body", origin: pouring, do: abortPouring, want: []string{"the origin's write failed soon"}},
		{name: "connect refused, another host", only: true, do: several("GET /two/ HTTP/1.1\r\nHost: a\r\n\r\n"), want: []string{"200 200 200 200"}},
		{name: "connect refused, POST, another host", only: true, do: several("POST /two/ HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab"), want: []string{"200 200 200 200"}},
		{name: "connect time-out, another host", only: true, slow: true, do: several("GET /both/ HTTP/1.1\r\nHost: a\r\n\r\n"), want: []string{"200 200 200 200"}},
		{name: "no response in time, another host", only: true, slow: true, do: several("GET /late/ HTTP/1.1\r\nHost: a\r\n\r\n"), want: []string{"200 200 200 200"}},
		{name: "no response in time, PUT, another host", only: true, slow: true, do: several("PUT /late/ HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab"), want: []string{"200 200 200 200"}},
		{name: "no response in time, POST that may come twice", only: true, slow: true, do: several("POST /latecall/ HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab"), want: []string{"200 200 200 200"}},
		{name: "connect refused", only: true, do: down("GET /none/ HTTP/1.1\r\nHost: a\r\n\r\n", status), want: []string{"502 ", "503 "}},
		{name: "connect time-out", only: true, slow: true, do: down("GET /hang/ HTTP/1.1\r\nHost: a\r\n\r\n", status), want: []string{"504 "}},
		{name: "no response in time", only: true, slow: true, origin: thinking, do: down("GET /slow/ HTTP/1.1\r\nHost: a\r\n\r\n", status), want: []string{"504 "}},
	}
}

// wait polls until a condition holds; a case that is right sees it at once.
func (w *world) wait(holds func() bool) bool { return w.waitFor(patience, holds) }

func (w *world) waitFor(most time.Duration, holds func() bool) bool {
	for end := time.Now().Add(most); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if holds() {
			return true
		}
	}
	return false
}

func attempts(bytes string) func(*world) string {
	return func(w *world) string {
		return w.client(func(c *conn) string {
			m := c.say(bytes).response("GET")
			return fmt.Sprintf("%s, %d attempts", m.said(), len(w.requests()))
		})
	}
}

// several sends a request a few times, so that each backend has its turn.
func several(bytes string) func(*world) string {
	return func(w *world) string {
		return w.client(func(c *conn) string {
			var said []string
			for range 4 {
				m := c.say(bytes).response("GET")
				said = append(said, m.said())
			}
			return strings.Join(said, " ")
		})
	}
}

// diesWhenReused serves one request; the second on the same connection is read
// and the connection is cut.
func diesWhenReused(c *conn) {
	if probe(c) {
		return
	}
	m := c.request()
	c.o.mu.Lock()
	earlier := 0
	for _, r := range c.o.log {
		if r.conn == c.number {
			earlier++
		}
	}
	c.o.mu.Unlock()
	if earlier > 1 {
		c.Close()
		return
	}
	_, path, _ := strings.Cut(m.line, " ")
	text := "fresh"
	if strings.HasPrefix(path, "/first") {
		text = "first"
	}
	c.say(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(text), text))
}

func reusedDies(method, body string) func(*world) string {
	return func(w *world) string {
		return w.client(func(c *conn) string {
			if m := c.say("GET /first HTTP/1.1\r\nHost: a\r\n\r\n").response("GET"); m.body != "first" {
				return "first: " + m.said()
			}
			request := method + " /second HTTP/1.1\r\nHost: a\r\n"
			if body != "" {
				request += fmt.Sprintf("Content-Length: %d\r\n", len(body))
			}
			m := c.say(request + "\r\n" + body).response(method)
			if m.status() != 200 {
				return m.said()
			}
			return m.said() + " " + m.body
		})
	}
}

// noDesync sends a request whose answer has an illegal body, and then another.
func noDesync(method string, _ bool) func(*world) string {
	return func(w *world) string {
		return w.client(func(c *conn) string {
			m := c.say(method + " /x HTTP/1.1\r\nHost: a\r\n\r\n").response(method)
			length := "no length"
			if m.fields.has("content-length") {
				length = "length"
			}
			return fmt.Sprintf("%s %s, %s, %s", m.said(), c.fate(m), length, w.dropped())
		})
	}
}

// dropped tells whether the proxy used more than one connection so far.
func (w *world) dropped() string {
	if w.connections() > 1 {
		return "origin's connection dropped"
	}
	return "origin's connection reused"
}

// looksWhole: an HTTP/1.0 client must see an error instead of the end.
func looksWhole(w *world) string {
	return w.client(func(c *conn) string {
		if m := c.say("GET /x HTTP/1.0\r\nHost: a\r\n\r\n").response("GET"); m.whole && m.line != "" {
			return "whole"
		}
		return "cut"
	})
}

func headCL(w *world) string {
	return w.client(func(c *conn) string {
		m := c.say("HEAD /x HTTP/1.1\r\nHost: a\r\n\r\n").response("HEAD")
		return fmt.Sprintf("%s %s, CL %s", m.said(), c.fate(m), m.fields.get("content-length"))
	})
}

func teWins(w *world) string {
	return w.client(func(c *conn) string {
		m := c.say(get + "\r\n").response("GET")
		length := "no CL"
		if m.fields.has("content-length") && m.fields.has("transfer-encoding") {
			length = "CL"
		}
		c.fate(m)
		return fmt.Sprintf("%s %s, %s, %s", m.said(), m.body, length, w.dropped())
	})
}

func poison(w *world) string {
	return w.client(func(c *conn) string {
		for range 5 {
			if m := c.say(get + "\r\n").response("GET"); m.body != "ok" {
				return fmt.Sprintf("delivered %q", m.body)
			}
		}
		return "never delivered"
	})
}

// thinking reads a request and answers nothing, until the proxy goes.
func thinking(c *conn) {
	c.request()
	_, how := c.rest()
	note := request{conn: c.number}
	note.line = how
	c.o.mu.Lock()
	c.o.log = append(c.o.log, note)
	c.o.mu.Unlock()
	c.Close()
}

func abortThinking(w *world) string {
	w.client(func(c *conn) string {
		c.say(get + "\r\n")
		w.wait(func() bool { return len(w.requests()) > 0 })
		return ""
	})
	if !w.wait(func() bool { return len(w.requests()) > 1 }) || w.requests()[1].line == "silence" {
		return "origin's connection stays open"
	}
	return "origin's connection closed soon"
}

// pouring sends a body without end.
func pouring(c *conn) {
	c.request()
	c.say("HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n")
	c.SetWriteDeadline(time.Now().Add(patience))
	block := []byte(strings.Repeat("x", 64<<10))
	var err error
	for err == nil {
		_, err = c.Write(block)
	}
	note := request{conn: c.number}
	note.line = err.Error()
	c.o.mu.Lock()
	c.o.log = append(c.o.log, note)
	c.o.mu.Unlock()
	c.Close()
}

func abortPouring(w *world) string {
	w.client(func(c *conn) string { c.say(get + "\r\n").take(1 << 20); return "" })
	if !w.wait(func() bool { return len(w.requests()) > 1 }) || strings.Contains(w.requests()[1].line, "timeout") {
		return "the origin writes on"
	}
	return "the origin's write failed soon"
}

// dribble sends one byte at a time and never ends the head; a deadline that
// each byte renews would never come.
func dribble(w *world) string {
	if w.headTimeout == 0 {
		return "skipped: the time-out is not known"
	}
	return w.client(func(c *conn) string {
		c.say("GET /x HTTP/1.1\r\nHost: a\r\n")
		start := time.Now()
		stop := make(chan struct{})
		go func() { // ends with the case
			for {
				select {
				case <-stop:
					return
				case <-time.After(w.headTimeout / 8):
					c.say("X")
				}
			}
		}()
		defer close(stop)
		c.SetReadDeadline(time.Now().Add(3 * w.headTimeout))
		if _, err := c.r.Peek(1); err != nil && time.Since(start) > 2*w.headTimeout {
			return "the connection stays open"
		}
		m := c.response("GET")
		if d := time.Since(start); d < w.headTimeout/2 || d > 2*w.headTimeout {
			return fmt.Sprintf("%s after %v", m.said(), d)
		}
		return m.said() + " " + c.fate(m) + " at a total deadline"
	})
}

// shortBody announces ten bytes, sends three, and says FIN once the origin has
// the head.
func shortBody(w *world) string {
	return w.client(func(c *conn) string {
		c.say("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
		streamed := w.wait(func() bool { return len(w.requests()) > 0 }) // no: it buffers requests
		c.closeWrite()
		m := c.response("POST")
		fate := c.fate(m)
		if !streamed {
			return fmt.Sprintf("%s %s, up %d", m.said(), fate, len(w.requests()))
		}
		w.wait(func() bool { return len(w.requests()) > 1 })
		got := w.requests()
		if len(got) != 2 || got[1].line != "cut" {
			return fmt.Sprintf("%s %s, up %d", m.said(), fate, len(got))
		}
		return m.said() + " " + fate + ", up 1 cut"
	})
}

// readsHeadFirst logs the head, then whether the body came whole.
func readsHeadFirst(c *conn) {
	if probe(c) {
		return
	}
	note := func(m message) {
		c.o.mu.Lock()
		c.o.log = append(c.o.log, request{m, c.number})
		c.o.mu.Unlock()
	}
	m := c.head()
	note(m)
	c.readBody(&m, "none")
	if m.whole {
		m.line = "whole"
		note(m)
		c.say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		return
	}
	m.line = "cut"
	note(m)
	c.Close()
}
