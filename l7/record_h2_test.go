package l7

import (
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

func TestH2RequestsAreLoggedHoweverTheyEnd(t *testing.T) {
	o := startOrigin(t, func(c *peer) {
		head := c.request()
		if strings.HasPrefix(head, "GET /ok ") {
			c.say(ok)
		}
		c.rest()
	})
	l := startLab(t, labOptions{}, pool(o.addr))
	log := l.watchLog()
	for _, x := range []struct {
		name string
		send func(r *raw)
		want string
	}{
		{"whole", func(r *raw) { r.head(1, true, request("GET", "/ok")...) },
			"GET a.example /ok HTTP/2.0 200 reason= source= route:3 app backend attempts=1 in=0 out=2 id="},
		{"malformed", func(r *raw) { r.head(1, true, request("GET", "/x", "Upper", "1")...) },
			"GET a.example /x HTTP/2.0 0 reason=bad_request source=client attempts=0 in=0 out=0 id="},
		{"not for HTTP/1", func(r *raw) { r.head(1, true, request("GET", "/x y")...) },
			"GET a.example /x y HTTP/2.0 400 reason=bad_request source=client attempts=0 in=0 out=29 id="},
		{"body over its length", func(r *raw) {
			r.head(1, false, request("POST", "/x", "content-length", "2")...)
			r.fr.WriteData(1, true, []byte("abc"))
		}, "POST a.example /x HTTP/2.0 0 reason=bad_framing source=client route:3 app backend attempts=1 in=0 out=0 id="},
		{"cancelled", func(r *raw) {
			r.head(1, true, request("GET", "/x")...)
			r.fr.WriteRSTStream(1, http2.ErrCodeCancel)
		}, "GET a.example /x HTTP/2.0 0 reason=client_abort source=client route:3 app backend attempts=1 in=0 out=0 id="},
		{"the connection breaks the rules", func(r *raw) {
			r.head(1, true, request("GET", "/x")...)
			r.fr.WriteWindowUpdate(0, 0)
		}, "GET a.example /x HTTP/2.0 0 reason=bad_framing source=client route:3 app backend attempts=1 in=0 out=0 id="},
	} {
		t.Run(x.name, func(t *testing.T) {
			r := l.raw()
			x.send(r)
			if got := shortLine(<-log.lines, o.addr, "none"); got != x.want {
				t.Errorf("got  %s\nwant %s", got, x.want)
			}
		})
	}
}
