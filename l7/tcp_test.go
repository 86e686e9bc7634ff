package l7

import (
	"strings"
	"testing"

	"github.com/cirque-lb/lb"
)

func tcpTo(backends ...string) string {
	return "listeners: { web: { bind: \"127.0.0.1:1\", protocol: tcp, pool: app } }\npools:\n  app: { backends: [\"" + strings.Join(backends, `", "`) + "\"] }\n"
}

func TestTCPPassesBytesAndEndsBothWays(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 100_000)
	o := startOrigin(t, func(c *peer) {
		c.say("welcome\n")
		if got := c.rest(); got != "hello "+big {
			t.Errorf("the backend got %q", shorten(got))
		}
		c.say(big)
	})
	l := startLab(t, labOptions{}, tcpTo(deadPort(t), o.addr)) // the other one is tried when one refuses
	for range 4 {
		c := l.dial()
		if got := c.line(); got != "welcome" {
			t.Fatalf("got %q", got)
		}
		c.say("hello ").say(big)
		c.closeWrite()
		if got := c.rest(); got != big {
			t.Errorf("got %q", shorten(got))
		}
	}
	for l.proxy.Stats().Connections > 0 {
	}
	on(l, func() {})
	for _, b := range l.proxy.Stats().Backends {
		if b.Active != 0 || b.Connections != 0 {
			t.Errorf("got %+v", b)
		}
	}
}

func TestTCPWithoutABackendEnds(t *testing.T) {
	l := startLab(t, labOptions{}, tcpTo(deadPort(t)))
	l.dial().ended(t)
	l.proxy.SetState(lb.State{Health: map[lb.BackendID]lb.Health{l.proxy.Stats().Backends[0].ID: lb.Down}})
	l.dial().ended(t)
}
