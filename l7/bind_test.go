package l7

import (
	"fmt"
	"net"
	"testing"
)

// Pools that are alike but for bind do not share connections.
func TestConnectionsComeFromThePoolsBind(t *testing.T) {
	o := startOrigin(t, func(c *peer) {
		from := c.RemoteAddr().(*net.TCPAddr).IP.String()
		for head := c.request(); head != ""; head = c.request() {
			c.say(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(from), from))
		}
	})
	for _, threads := range []int{1, 2} {
		l := startLab(t, labOptions{threads: threads}, fmt.Sprintf(`
listeners: { web: { bind: ":80" } }
routes: [ { match: { path: /a }, pool: a }, { match: { path: /b }, pool: b }, { match: { path: /away }, pool: away }, { pool: c } ]
pools:
  a: { bind: 127.0.0.2, backends: [%[1]q] }
  b: { bind: 127.0.0.3, backends: [%[1]q] }
  c: { backends: [%[1]q] }
  away: { bind: 192.0.2.1, backends: [%[1]q] }
`, o.addr))
		before := o.conns.Load()
		for range 3 {
			for path, want := range map[string]string{"/a": "127.0.0.2", "/b": "127.0.0.3", "/c": "127.0.0.1"} {
				l.dial().say("GET "+path+" HTTP/1.1\r\nHost: a\r\n\r\n").response().want(t, "200", want)
			}
		}
		if n := o.conns.Load() - before; n != 3 {
			t.Errorf("%d connections for three pools", n)
		}
		l.dial().say("GET /away HTTP/1.1\r\nHost: a\r\n\r\n").response().want(t, "502", "502 Bad Gateway: connect_failed\n")
	}
}
