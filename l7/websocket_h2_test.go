package l7

import (
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

func extended(path string) []string {
	return []string{":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":authority", "a.example", ":path", path, "sec-websocket-version", "13"}
}

// upgrading accepts a WebSocket and echoes what comes in upper case.
func upgrading(c *peer) {
	head := c.request()
	if strings.HasPrefix(head, "GET /other ") {
		c.say(ok)
		return
	}
	if field(head, "upgrade") != "websocket" || field(head, "sec-websocket-key") == "" || !strings.HasPrefix(head, "GET /chat ") {
		c.t.Errorf("the backend saw\n%s", head)
	}
	c.say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " +
		webSocketAccept(field(head, "sec-websocket-key")) + "\r\n\r\nhello")
	b := make([]byte, 100)
	for {
		n, err := c.r.Read(b)
		c.say(strings.ToUpper(string(b[:n])))
		if err != nil {
			return
		}
	}
}

func TestWebSocketsOverHTTP2ReachAnHTTP1Backend(t *testing.T) {
	o := startOrigin(t, upgrading)
	l := startLab(t, labOptions{}, pool(o.addr))
	r := l.raw()
	r.head(1, false, extended("/chat")...)
	r.want("HEADERS 1 :status=200", `DATA 1 "hello"`)
	for _, s := range []string{"one", "two"} {
		r.fr.WriteData(1, false, []byte(s))
		r.want(`DATA 1 "` + strings.ToUpper(s) + `"`)
	}
	r.fr.WriteData(1, true, []byte("bye"))
	r.want(`DATA 1 "BYE"`, `DATA 1 "" end`)
	r.head(3, true, request("GET", "/other", "x", "y")...) // the connection serves on
	if got := r.next(); !strings.HasPrefix(got, "HEADERS 3") {
		t.Error(got)
	}
}

func TestWebSocketsThatAreRefused(t *testing.T) {
	for name, x := range map[string]struct{ origin, want string }{
		"403":              {"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "HEADERS 1 :status=403 end"},
		"200 is no tunnel": {"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "HEADERS 1 :status=502 end"},
	} {
		t.Run(name, func(t *testing.T) {
			o := startOrigin(t, answering(x.origin))
			l := startLab(t, labOptions{}, pool(o.addr))
			r := l.raw()
			r.head(1, false, extended("/chat")...)
			r.want(x.want, "RST 1 NO_ERROR")
		})
	}
	t.Run("another protocol", func(t *testing.T) {
		l := startLab(t, labOptions{}, pool("127.0.0.1:1"))
		r := l.raw()
		kv := extended("/chat")
		kv[3] = "connect-udp"
		r.head(1, false, kv...)
		if got := r.next(); !strings.HasPrefix(got, "HEADERS 1 :status=501") {
			t.Error(got)
		}
	})
	t.Run("bytes before the answer", func(t *testing.T) {
		release := make(chan bool)
		defer close(release)
		o := startOrigin(t, func(c *peer) { c.request(); <-release })
		l := startLab(t, labOptions{}, pool(o.addr))
		r := l.raw()
		r.head(1, false, extended("/chat")...)
		r.fr.WriteData(1, false, []byte("early"))
		r.want("RST 1 PROTOCOL_ERROR")
	})
}

func TestWebSocketsReachAnHTTP2Backend(t *testing.T) {
	o := startRawOrigin(t, func(r *raw, _ int) {
		for {
			f, err := r.fr.ReadFrame()
			if err != nil {
				return
			}
			switch f := f.(type) {
			case *http2.SettingsFrame:
				if !f.IsAck() {
					r.fr.WriteSettingsAck()
				}
			case *http2.MetaHeadersFrame:
				if f.PseudoValue("method") != "CONNECT" || f.PseudoValue("protocol") != "websocket" || f.PseudoValue("path") != "/chat" {
					r.t.Errorf("the backend saw %v", f.Fields)
				}
				r.head(f.StreamID, false, ":status", "200")
			case *http2.DataFrame:
				r.fr.WriteData(f.StreamID, f.StreamEnded(), []byte(strings.ToUpper(string(f.Data()))))
			}
		}
	}, http2.Setting{ID: http2.SettingEnableConnectProtocol, Val: 1})
	l := startLab(t, labOptions{}, poolH2("http2", o.addr))
	t.Run("from HTTP/1", func(t *testing.T) {
		p := l.dial()
		head := p.say("GET /chat HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n").head()
		if !strings.HasPrefix(head, "HTTP/1.1 101 ") || field(head, "sec-websocket-accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" || field(head, "upgrade") != "websocket" {
			t.Fatalf("got\n%s", head)
		}
		for _, s := range []string{"one", "two"} {
			if got := p.say(s).body(3); got != strings.ToUpper(s) {
				t.Errorf("got %q", got)
			}
		}
		p.Conn.(interface{ CloseWrite() error }).CloseWrite()
		if rest := p.rest(); rest != "" {
			t.Errorf("got %q", rest)
		}
	})
	t.Run("from HTTP/2", func(t *testing.T) {
		r := l.raw()
		r.head(1, false, extended("/chat")...)
		r.want("HEADERS 1 :status=200")
		r.fr.WriteData(1, false, []byte("one"))
		r.want(`DATA 1 "ONE"`)
		r.fr.WriteData(1, true, []byte("bye"))
		r.want(`DATA 1 "BYE" end`)
	})
}
