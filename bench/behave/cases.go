package main

import (
	"fmt"
	"slices"
	"strings"
)

// behaviour is one thing a proxy does or does not.
type behaviour struct {
	name   string
	origin func(*conn) // nil: echo
	// do provokes the behaviour and says in a few words what came of it.
	do func(*world) string
	// want are the outcomes that are right; the first is Cirque's. A "*" stands
	// for any text.
	want []string
	slow bool // it waits for a time-out
	only bool // it needs routes that only our own lab has
	tls  bool // it needs TLS and the PROXY protocol on both sides
}

// all are the behaviours, by section.
func all() []behaviour {
	return slices.Concat(requestCases(), upgradeCases(), upstreamCases(), tlsCases(), grpcCases(), h2Cases())
}

// met returns the index in want of the outcome, or -1.
func (b *behaviour) met(outcome string) int {
	for i, pattern := range b.want {
		if matches(pattern, outcome) {
			return i
		}
	}
	return -1
}

func matches(pattern, s string) bool {
	before, after, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == s
	}
	return strings.HasPrefix(s, before) && strings.HasSuffix(s[len(before):], after)
}

// raw sends bytes, reads one response, and says: its status, whether the
// connection lives on, and how many requests the origin got.
func raw(bytes string) func(*world) string { return exchange("GET", bytes) }

func exchange(method, bytes string) func(*world) string {
	return func(w *world) string {
		return w.client(func(c *conn) string {
			go c.say(bytes)
			m := c.response(method)
			fate := c.fate(m)
			return fmt.Sprintf("%s %s, up %d", m.said(), fate, len(w.requests()))
		})
	}
}

// up sends a request, and says what show makes of the one that the origin got.
func up(bytes string, show func(request) string) func(*world) string {
	return func(w *world) string {
		return w.client(func(c *conn) string {
			m := c.say(bytes).response("GET")
			if got := w.requests(); len(got) == 1 {
				return m.said() + " " + show(got[0])
			}
			return fmt.Sprintf("%s, up %d", m.said(), len(w.requests()))
		})
	}
}

// down sends a request, and says what show makes of the response.
func down(bytes string, show func(message) string) func(*world) string {
	return func(w *world) string {
		return w.client(func(c *conn) string {
			m := c.say(bytes).response("GET")
			return m.said() + " " + show(m)
		})
	}
}
