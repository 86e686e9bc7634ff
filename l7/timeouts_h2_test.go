package l7

import (
	"io"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// impatient makes every thread's HTTP/2 connections wait for moments only.
func (l *lab) impatient(change func(*timesH2)) {
	done := make(chan bool)
	for _, t := range l.proxy.threads {
		t.loop.Post(func() {
			t.h2.times.check = 20 * time.Millisecond
			change(&t.h2.times)
			done <- true
		})
	}
	for range l.proxy.threads {
		<-done
	}
}

func TestH2AnIdleConnectionIsClosed(t *testing.T) {
	o := startOrigin(t, answering(ok))
	l := startLab(t, labOptions{}, pool(o.addr))
	l.impatient(func(t *timesH2) { t.idle = 50 * time.Millisecond })
	r := l.raw()
	r.head(1, true, request("GET", "/")...)
	r.want("HEADERS 1 :status=200 content-length=2", `DATA 1 "ok" end`, "GOAWAY 1 NO_ERROR", "EOF")
}

func TestH2ADribbledHeadEndsTheConnection(t *testing.T) {
	for name, begin := range map[string]func(r *raw){
		"HEADERS without END_HEADERS": func(r *raw) {
			r.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x82}})
		},
		"half a frame": func(r *raw) { io.WriteString(r.c, "\x00\x00\x08\x06") },
		"no SETTINGS":  nil,
	} {
		t.Run(name, func(t *testing.T) {
			l := startLab(t, labOptions{}, pool("127.0.0.1:1"))
			l.impatient(func(*timesH2) { l.proxy.times.head = 50 * time.Millisecond })
			if begin == nil {
				p := l.dial().say(http2.ClientPreface)
				if rest := p.rest(); strings.Contains(rest, "timeout") {
					t.Error("still open")
				}
				return
			}
			r := l.raw()
			r.fr.WritePing(false, [8]byte{})
			r.want("PONG")
			begin(r)
			if got := r.next(); !strings.HasSuffix(got, " NO_ERROR") {
				t.Errorf("got %s, want GOAWAY", got)
			}
			r.want("EOF")
		})
	}
}

func TestH2AWindowThatNeverOpensEndsTheStream(t *testing.T) {
	gone := make(chan bool, 1)
	o := startOrigin(t, func(c *peer) {
		c.request()
		c.say("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
		c.SetWriteDeadline(time.Now().Add(patience))
		_, err := c.Write(make([]byte, 100000000))
		gone <- err != nil && !strings.Contains(err.Error(), "timeout")
	})
	l := startLab(t, labOptions{}, pool(o.addr))
	l.impatient(func(t *timesH2) { t.stall = 100 * time.Millisecond })
	r := l.raw()
	r.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	r.head(1, true, request("GET", "/")...)
	r.want("HEADERS 1 :status=200 content-length=100000000", "RST 1 CANCEL")
	if !<-gone {
		t.Error("the backend's connection stays open")
	}
}

// The rest of a response whose exchange is over waits for window, too.
func TestH2AStalledRestIsGivenUp(t *testing.T) {
	o := startOrigin(t, answering(ok))
	l := startLab(t, labOptions{}, pool(o.addr))
	l.impatient(func(t *timesH2) { t.stall = 50 * time.Millisecond })
	r := l.raw()
	r.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1})
	r.head(1, true, request("GET", "/")...)
	r.want("HEADERS 1 :status=200 content-length=2", `DATA 1 "o"`, "RST 1 CANCEL")
}

func TestABackendThatGivesNoWindowFailsTheUpload(t *testing.T) {
	o := startRawOrigin(t, func(r *raw, _ int) {
		for {
			f, err := r.fr.ReadFrame()
			if err != nil {
				return
			}
			if p, ok := f.(*http2.PingFrame); ok {
				r.fr.WritePing(true, p.Data)
			}
		}
	})
	l := startLab(t, labOptions{}, poolH2("http2", o.addr))
	l.impatient(func(t *timesH2) { t.stall = 100 * time.Millisecond })
	res, body := l.do(l.h2c(), "POST", "/", strings.NewReader(strings.Repeat("x", 1<<20)))
	if res.StatusCode != 504 {
		t.Errorf("got %d %q", res.StatusCode, body)
	}
}

func TestASilentBackendIsAskedAndLeft(t *testing.T) {
	pings := make(chan bool, 10)
	o := startRawOrigin(t, func(r *raw, _ int) {
		for {
			f, err := r.fr.ReadFrame()
			if err != nil {
				return
			}
			if _, ok := f.(*http2.PingFrame); ok {
				pings <- true
			}
		}
	})
	l := startLab(t, labOptions{}, poolH2("http2", o.addr))
	l.impatient(func(t *timesH2) { t.unheard = 50 * time.Millisecond })
	res, body := l.do(l.h2c(), "GET", "/", nil)
	if res.StatusCode != 504 || len(pings) != 1 {
		t.Errorf("got %d %q after %d PINGs", res.StatusCode, body, len(pings))
	}
}

// Requests that come all the time keep no connection alive that is never made.
func TestH2AConnectionThatIsNotMadeIsLeft(t *testing.T) {
	o := startOrigin(t, func(p *peer) {
		if p.number == 1 {
			io.Copy(io.Discard, p.Conn) // and says nothing
			return
		}
		if _, err := io.ReadFull(p.Conn, make([]byte, len(http2.ClientPreface))); err != nil {
			return
		}
		r := newRawEnd(t, p.Conn)
		if id := r.awaitRequest(); id > 0 {
			r.head(id, true, ":status", "200")
		}
		io.Copy(io.Discard, p.Conn)
	})
	document := strings.Replace(poolH2("http2", o.addr), "app: {", "app: { connections: { connect_timeout: 500ms },", 1)
	l := startLab(t, labOptions{}, document)
	c := l.h2c()
	served := make(chan bool, 1000)
	for range 100 {
		go func() {
			res, err := c.Get("http://" + l.addr + "/")
			if err != nil {
				return
			}
			res.Body.Close()
			if res.StatusCode == 200 {
				served <- true
			}
		}()
		select {
		case <-served:
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
	t.Errorf("nothing is served; %d connections were made", o.conns.Load())
}
