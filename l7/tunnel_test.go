package l7

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// A backend that has said all may still have much to read.
func TestATunnelsLastBytesReachABackendThatHasEnded(t *testing.T) {
	const size = 4 << 20
	got := make(chan int64, 1)
	o := startOrigin(t, func(c *peer) {
		c.request()
		tcp := c.Conn.(*net.TCPConn)
		tcp.SetReadBuffer(256 << 10)
		c.say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		tcp.CloseWrite()
		var n int64
		for b := make([]byte, 32<<10); ; time.Sleep(time.Millisecond) {
			m, err := io.ReadFull(c.r, b)
			n += int64(m)
			if err != nil {
				break
			}
		}
		got <- n
	})
	c := startLab(t, labOptions{}, pool(o.addr)).dial()
	c.say("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").head()
	if rest := c.rest(); rest != "" {
		t.Errorf("got %q", rest)
	}
	c.say(strings.Repeat("x", size))
	c.closeWrite()
	if n := <-got; n != size {
		t.Errorf("the backend got %d bytes of %d", n, size)
	}
}

// A backend that goes on talking in a tunnel that nobody listens to any more
// would have its stream for ever.
func TestATunnelThatIsGivenUpEndsAtAnHTTP2Backend(t *testing.T) {
	ended, reset := make(chan bool, 1), make(chan bool, 1)
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
				r.head(f.StreamID, false, ":status", "200")
			case *http2.DataFrame:
				if f.StreamEnded() {
					ended <- true
				}
			case *http2.RSTStreamFrame:
				reset <- true
			}
		}
	}, http2.Setting{ID: http2.SettingEnableConnectProtocol, Val: 1})
	r := startLab(t, labOptions{}, poolH2("http2", o.addr)).raw()
	r.head(1, false, extended("/chat")...)
	r.want("HEADERS 1 :status=200")
	r.fr.WriteData(1, true, []byte("bye"))
	<-ended
	r.fr.WriteRSTStream(1, http2.ErrCodeCancel)
	select {
	case <-reset:
	case <-time.After(5 * time.Second):
		t.Error("the backend's stream is open still")
	}
}
