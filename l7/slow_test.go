package l7

import (
	"io"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// bounded is pool with limits, a flow mapping's inside, and more in the route.
func bounded(limits, route string, backends ...string) string {
	return "limits: { " + limits + " }\n" + routed(route, backends...)
}

// dribble writes a part every 10 ms until somebody has had enough.
func dribble(c *peer, part string, times int) {
	go func() { // ends with the connection
		for range times {
			if _, err := io.WriteString(c, part); err != nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
}

func TestABodyThatComesTooSlowlyIsA408(t *testing.T) {
	for name, head := range map[string]string{"with a length": "Content-Length: 100000\r\n\r\n", "in chunks": "Transfer-Encoding: chunked\r\n\r\n"} {
		t.Run(name, func(t *testing.T) {
			o := startOrigin(t, func(c *peer) { c.request(); c.rest() })
			l := startLab(t, labOptions{}, bounded("body_rate: 1MiB", "timeout: { idle: 200ms }", o.addr))
			c := l.dial().say("POST / HTTP/1.1\r\nHost: a\r\n" + head)
			dribble(c, "1\r\nx\r\n", 1000)
			c.response().want(t, "408", "408 Request Timeout: slow_client\n")
		})
	}
}

func TestABodyMayTakeLongIfItComesFastEnough(t *testing.T) {
	for name, limits := range map[string]string{"over the rate": "body_rate: 256B", "without a rate": "body_rate: off"} {
		t.Run(name, func(t *testing.T) {
			o := startOrigin(t, func(c *peer) { c.request(); c.body(100 * 100); c.say(ok) })
			l := startLab(t, labOptions{}, bounded(limits, "timeout: { idle: 500ms }", o.addr))
			c := l.dial().say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000\r\n\r\n")
			dribble(c, strings.Repeat("x", 100), 100)
			c.response().want(t, "200", "ok")
		})
	}
}

func TestH2ABodyThatComesTooSlowlyIsA408(t *testing.T) {
	o := startOrigin(t, func(c *peer) { c.request(); c.rest() })
	l := startLab(t, labOptions{}, bounded("body_rate: 1MiB", "timeout: { idle: 200ms }", o.addr))
	from, to := io.Pipe()
	go func() { // ends when nobody reads any more
		for {
			if _, err := io.WriteString(to, "x"); err != nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	res, body := l.do(l.h2c(), "POST", "/", from)
	if from.Close(); res.StatusCode != 408 || body != "408 Request Timeout: slow_client\n" {
		t.Errorf("got %d %q", res.StatusCode, body)
	}
}

// A window that opens by a byte now and then is progress, but too little.
func TestH2AWindowThatOpensTooSlowlyEndsTheStream(t *testing.T) {
	o := startOrigin(t, answering("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"+strings.Repeat("x", 100)))
	l := startLab(t, labOptions{}, bounded("body_rate: 1MiB", "", o.addr))
	l.impatient(func(t *timesH2) { t.stall = 200 * time.Millisecond })
	r := l.raw()
	r.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1})
	r.head(1, true, request("GET", "/")...)
	r.want("HEADERS 1 :status=200 content-length=100", `DATA 1 "x"`)
	for range 90 {
		r.fr.WriteWindowUpdate(1, 1)
		f, err := r.fr.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if f.Header().Type == http2.FrameRSTStream {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("the stream goes on")
}

// What a client does not take stays with the backend, and some in the kernel.
func TestASlowReaderCostsLittle(t *testing.T) {
	const size = 100 << 20
	blocked := make(chan bool)
	o := startOrigin(t, func(c *peer) {
		c.request()
		c.say("HTTP/1.1 200 OK\r\nContent-Length: 104857600\r\n\r\n")
		block := make([]byte, 64<<10)
		for sent := 0; sent < size; sent += len(block) {
			c.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
			if n, err := c.Write(block); err != nil {
				blocked <- true
				c.SetWriteDeadline(time.Now().Add(patience))
				if _, err := c.Write(block[n:]); err == nil {
					blocked <- false
				}
				return
			}
		}
	})
	l := startLab(t, labOptions{}, pool(o.addr))
	c := l.dial().say("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	<-blocked
	th := l.proxy.threads[0]
	kept := make(chan int, 1)
	th.loop.Post(func() {
		n := 0
		th.clients.each(func(c clientConn) { n += c.(*serverH1).t.Buffered() })
		kept <- n
	})
	if n := <-kept; n > 64<<10 {
		t.Errorf("%d bytes are kept for a client that does not read, want at most 64 KiB", n)
	}
	go io.Copy(io.Discard, c) // ends with the connection
	if wait, ok := <-blocked; wait || !ok {
		t.Error("the backend stays blocked when the client reads on")
	}
}
