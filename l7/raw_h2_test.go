package l7

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"golang.org/x/sys/unix"
)

// raw is an HTTP/2 client frame by frame.
type raw struct {
	t  testing.TB
	c  net.Conn
	fr *http2.Framer

	block bytes.Buffer
	enc   *hpack.Encoder

	resets atomic.Int64 // RST_STREAM that awaitRequest saw
}

func (l *lab) raw() *raw {
	l.t.Helper()
	c, err := net.Dial("tcp", l.addr)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { c.Close() })
	return newRaw(l.t, c)
}

// rawSlow is raw with a small receive buffer from the beginning: one that shrinks
// later would make the kernel drop what it had room for.
func (l *lab) rawSlow() *raw {
	l.t.Helper()
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 32<<10) })
	}}
	c, err := d.Dial("tcp", l.addr)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { c.Close() })
	return newRaw(l.t, c)
}

func newRaw(t testing.TB, c net.Conn) *raw {
	io.WriteString(c, http2.ClientPreface)
	return newRawEnd(t, c)
}

func newRawEnd(t testing.TB, c net.Conn, settings ...http2.Setting) *raw {
	r := &raw{t: t, c: c, fr: http2.NewFramer(c, c)}
	r.fr.AllowIllegalWrites = true
	r.fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	r.enc = hpack.NewEncoder(&r.block)
	c.SetDeadline(time.Now().Add(patience))
	r.fr.WriteSettings(settings...)
	return r
}

func (r *raw) head(id uint32, end bool, kv ...string) {
	r.block.Reset()
	for i := 0; i < len(kv); i += 2 {
		r.enc.WriteField(hpack.HeaderField{Name: kv[i], Value: kv[i+1]})
	}
	p := r.block.Bytes()
	n := min(len(p), 16000)
	r.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: p[:n], EndStream: end, EndHeaders: n == len(p)})
	for p = p[n:]; len(p) > 0; p = p[n:] {
		n = min(len(p), 16000)
		r.fr.WriteContinuation(id, n == len(p), p[:n])
	}
}

func request(method, path string, more ...string) []string {
	return append([]string{":method", method, ":scheme", "http", ":authority", "a.example", ":path", path}, more...)
}

// next returns the next frame that says something, as text; "EOF" at the end.
func (r *raw) next() string {
	for {
		f, err := r.fr.ReadFrame()
		if err != nil {
			return "EOF"
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				r.fr.WriteSettingsAck()
			}
		case *http2.WindowUpdateFrame:
		case *http2.MetaHeadersFrame:
			s := fmt.Sprintf("HEADERS %d", f.StreamID)
			for _, x := range f.Fields {
				if x.Name != "date" {
					s += " " + x.Name + "=" + x.Value
				}
			}
			return s + ending(f.StreamEnded())
		case *http2.DataFrame:
			return fmt.Sprintf("DATA %d %q%s", f.StreamID, shorten(string(f.Data())), ending(f.StreamEnded()))
		case *http2.RSTStreamFrame:
			return fmt.Sprintf("RST %d %v", f.StreamID, f.ErrCode)
		case *http2.GoAwayFrame:
			return fmt.Sprintf("GOAWAY %d %v", f.LastStreamID, f.ErrCode)
		case *http2.PingFrame:
			if f.IsAck() {
				return "PONG"
			}
			r.fr.WritePing(true, f.Data)
		}
	}
}

func ending(end bool) string {
	if end {
		return " end"
	}
	return ""
}

func (r *raw) want(frames ...string) {
	r.t.Helper()
	for _, want := range frames {
		if got := r.next(); got != want {
			r.t.Fatalf("got %s, want %s", got, want)
		}
	}
}

// body reads a response's body.
func (r *raw) body(id uint32) string {
	var b strings.Builder
	for {
		f, err := r.fr.ReadFrame()
		if err != nil {
			return b.String() + "<" + err.Error() + ">"
		}
		switch f := f.(type) {
		case *http2.DataFrame:
			if b.Write(f.Data()); f.StreamID == id && f.StreamEnded() {
				return b.String()
			}
		case *http2.RSTStreamFrame:
			return b.String() + "<" + f.ErrCode.String() + ">"
		}
	}
}

// awaitRequest reads frames until a request has ended; 0 at the connection's end.
func (r *raw) awaitRequest() uint32 {
	for {
		f, err := r.fr.ReadFrame()
		if err != nil {
			return 0
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				r.fr.WriteSettingsAck()
			}
		case *http2.MetaHeadersFrame:
			if f.StreamEnded() {
				return f.StreamID
			}
		case *http2.DataFrame:
			if f.StreamEnded() {
				return f.StreamID
			}
		case *http2.RSTStreamFrame:
			r.resets.Add(1)
		}
	}
}
