package l7

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

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

// A connection that nobody reads for now may be over in both directions and still
// have much to give.
func TestTCPLosesNothingThatASlowClientReadsAfterTheEnds(t *testing.T) {
	const size = 8 << 20
	o := startOrigin(t, func(c *peer) {
		c.rest()
		c.say(strings.Repeat("x", size))
	})
	c := startLab(t, labOptions{}, tcpTo(o.addr)).dial()
	c.Conn.(*net.TCPConn).SetReadBuffer(256 << 10)
	c.say("ask").closeWrite()
	if n, err := c.slowly(); n != size || err != nil {
		t.Errorf("got %d bytes of %d: %v", n, size, err)
	}
}

// slowly reads until the end.
func (p *peer) slowly() (n int64, err error) {
	p.SetReadDeadline(time.Now().Add(patience))
	time.Sleep(200 * time.Millisecond)
	for err == nil {
		var m int64
		m, err = io.CopyN(io.Discard, p.r, 64<<10)
		n += m
		time.Sleep(time.Millisecond)
	}
	if err == io.EOF {
		err = nil
	}
	return n, err
}

func TestAUnixSocketBackendThatClosesIsHeardToItsEnd(t *testing.T) {
	const size = 8 << 20
	path := t.TempDir() + "/s"
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				c := newPeer(t, conn)
				c.request()
				c.say(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", size, strings.Repeat("x", size)))
				conn.Close()
			}()
		}
	}()
	c := startLab(t, labOptions{}, pool("unix:"+path)).dial()
	c.Conn.(*net.TCPConn).SetReadBuffer(256 << 10)
	c.say("GET / HTTP/1.0\r\nHost: a\r\n\r\n").head()
	if n, err := c.slowly(); n != size || err != nil {
		t.Errorf("got %d bytes of %d: %v", n, size, err)
	}
}
