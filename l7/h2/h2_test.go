package h2

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

func TestAServerSaysHello(t *testing.T) {
	h := newRecorder()
	c := New(&Config{}, h)
	want(t, "output", newReader().text(t, output(c)),
		"SETTINGS [MAX_CONCURRENT_STREAMS = 100] [MAX_HEADER_LIST_SIZE = 65536]\nWINDOW 0 983041")
}

func TestMalformedRequestsAreReset(t *testing.T) {
	for _, x := range []struct {
		name string
		kv   []string
		why  string
	}{
		{"upper-case name", get("X-A", "1"), "invalid field name"},
		{"space in a name", get("x a", "1"), "invalid field name"},
		{"colon in a name", get("x:a", "1"), "invalid field name"},
		{"empty name", get("", "1"), "invalid field name"},
		{"path twice", get(":path", "/b"), "pseudo-field twice"},
		{"no scheme", []string{":method", "GET", ":authority", "a", ":path", "/"}, "no :scheme or no :path"},
		{"no method", []string{":scheme", "http", ":authority", "a", ":path", "/"}, "no valid :method"},
		{"no path", []string{":method", "GET", ":scheme", "http", ":authority", "a"}, "no :scheme or no :path"},
		{"empty path", []string{":method", "GET", ":scheme", "http", ":path", ""}, "no :scheme or no :path"},
		{"relative path", []string{":method", "GET", ":scheme", "http", ":path", "x"}, ":path is not absolute"},
		{"pseudo after regular", append([]string{"x", "1"}, get()...), "pseudo-field after a regular field"},
		{"unknown pseudo", get(":x", "1"), "unknown pseudo-field"},
		{"status in a request", get(":status", "200"), "unknown pseudo-field"},
		{"connection", get("connection", "close"), "connection-specific field"},
		{"upgrade", get("upgrade", "h2c"), "connection-specific field"},
		{"transfer-encoding", get("transfer-encoding", "chunked"), "connection-specific field"},
		{"te: gzip", get("te", "gzip"), "te other than trailers"},
		{"CR in a value", get("x", "a\rb"), "control character or outer space in a field value"},
		{"LF in a value", get("x", "a\nb"), "control character or outer space in a field value"},
		{"NUL in a value", get("x", "a\x00b"), "control character or outer space in a field value"},
		{"outer space", get("x", " a"), "control character or outer space in a field value"},
		{"CRLF in :path", []string{":method", "GET", ":scheme", "http", ":path", "/\r\nx: y"}, "control character or outer space in a pseudo-field"},
		{"LF in :method", []string{":method", "GET\n", ":scheme", "http", ":path", "/"}, "control character or outer space in a pseudo-field"},
		{"space in :method", []string{":method", "GET x", ":scheme", "http", ":path", "/"}, "no valid :method"},
		{"content-length without content", get("content-length", "5"), "content-length without content"},
		{"content-length twice", get("content-length", "0", "content-length", "0"), "invalid content-length"},
		{"content-length +2", get("content-length", "+2"), "invalid content-length"},
		{"content-length of 19 digits", get("content-length", "1000000000000000000"), "invalid content-length"},
		{"CONNECT with :path", []string{":method", "CONNECT", ":authority", "a:1", ":path", "/"}, "CONNECT takes :authority only"},
		{"extended CONNECT unasked", []string{":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":authority", "a", ":path", "/"}, "unexpected :protocol"},
	} {
		t.Run(x.name, func(t *testing.T) {
			c, h, w, r := server(t, Config{})
			w.head(1, true, x.kv...)
			if err := c.Receive(w.bytes(), 0); err != nil {
				t.Fatal(err)
			}
			want(t, "events", h.take(), "1 refused reset stream: PROTOCOL_ERROR: "+x.why)
			want(t, "output", r.text(t, output(c)), "RST 1 PROTOCOL_ERROR")
			w.head(3, true, get()...)
			_ = c.Receive(w.bytes(), 0)
			want(t, "the next request", h.take(), "3 GET http://a/ end")
		})
	}
}

func TestRequestsArrive(t *testing.T) {
	for _, x := range []struct {
		name string
		send func(w *wire)
		want string
	}{
		{"a GET", func(w *wire) { w.head(1, true, get("x", "1", "te", "trailers")...) },
			`1 GET http://a/ x="1" te="trailers" end`},
		{"cookie crumbs are joined", func(w *wire) { w.head(1, true, get("cookie", "a=1", "x", "y", "cookie", "b=2")...) },
			`1 GET http://a/ cookie="a=1; b=2" x="y" end`},
		{"empty crumbs leave no trace", func(w *wire) { w.head(1, true, get("cookie", "", "cookie", "a=1", "cookie", "", "cookie", "b=2")...) },
			`1 GET http://a/ cookie="a=1; b=2" end`},
		{"an empty cookie is none", func(w *wire) { w.head(1, true, get("cookie", "", "cookie", "")...) }, `1 GET http://a/ end`},
		{"a body with its length", func(w *wire) {
			w.head(1, false, post("content-length", "5")...)
			_ = w.WriteData(1, false, []byte("abc"))
			_ = w.WriteData(1, true, []byte("de"))
		}, "1 POST http://a/ length=5 content-length=\"5\"\n1 data 3\n1 data 2 end"},
		{"padding", func(w *wire) {
			_ = w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: w.fields(post()...), EndHeaders: true, PadLength: 9})
			_ = w.WriteDataPadded(1, true, []byte("abc"), make([]byte, 200))
		}, "1 POST http://a/\n1 data 3 end"},
		{"trailers", func(w *wire) {
			w.head(1, false, post()...)
			_ = w.WriteData(1, false, []byte("abc"))
			w.head(1, true, "x-t", "1")
		}, "1 POST http://a/\n1 data 3\n1 trailers x-t=\"1\""},
		{"CONTINUATION", func(w *wire) {
			p := w.fields(get("x", "1")...)
			_ = w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p[:3], EndStream: true})
			_ = w.WriteContinuation(1, false, p[3:5])
			_ = w.WriteContinuation(1, true, p[5:])
		}, `1 GET http://a/ x="1" end`},
		{"no authority", func(w *wire) { w.head(1, true, ":method", "GET", ":scheme", "http", ":path", "/", "host", "b") },
			`1 GET http:/// host="b" end`},
		{"OPTIONS *", func(w *wire) { w.head(1, true, ":method", "OPTIONS", ":scheme", "http", ":path", "*") },
			`1 OPTIONS http://* end`},
	} {
		t.Run(x.name, func(t *testing.T) {
			c, h, w, _ := server(t, Config{})
			x.send(w)
			if err := c.Receive(w.bytes(), 0); err != nil {
				t.Fatal(err)
			}
			want(t, "events", h.take(), x.want)
		})
	}
}

func TestStreamErrorsResetTheStream(t *testing.T) {
	for _, x := range []struct {
		name string
		send func(w *wire)
		code string
	}{
		{"less than content-length", func(w *wire) {
			w.head(1, false, post("content-length", "5")...)
			_ = w.WriteData(1, true, []byte("ab"))
		}, "PROTOCOL_ERROR"},
		{"more than content-length", func(w *wire) {
			w.head(1, false, post("content-length", "2")...)
			_ = w.WriteData(1, false, []byte("abcde"))
		}, "PROTOCOL_ERROR"},
		{"trailers before the length is reached", func(w *wire) {
			w.head(1, false, post("content-length", "2")...)
			w.head(1, true, "x", "y")
		}, "PROTOCOL_ERROR"},
		{"trailers without END_STREAM", func(w *wire) {
			w.head(1, false, post()...)
			w.head(1, false, "x", "y")
		}, "PROTOCOL_ERROR"},
		{"pseudo-field in trailers", func(w *wire) {
			w.head(1, false, post()...)
			w.head(1, true, ":path", "/y")
		}, "PROTOCOL_ERROR"},
		{"DATA after END_STREAM", func(w *wire) {
			w.head(1, true, post()...)
			_ = w.WriteData(1, false, []byte("abcde"))
		}, "STREAM_CLOSED"},
		{"HEADERS after END_STREAM", func(w *wire) {
			w.head(1, true, post()...)
			w.head(1, true, "x", "y")
		}, "STREAM_CLOSED"},
		{"WINDOW_UPDATE of 0", func(w *wire) {
			w.head(1, false, post()...)
			_ = w.WriteWindowUpdate(1, 0)
		}, "PROTOCOL_ERROR"},
		{"WINDOW_UPDATE overflow", func(w *wire) {
			w.head(1, false, post()...)
			_ = w.WriteWindowUpdate(1, 1<<31-1)
		}, "FLOW_CONTROL_ERROR"},
		{"DATA over the window", func(w *wire) {
			w.head(1, false, post()...)
			for range 5 {
				_ = w.WriteData(1, false, make([]byte, 16384))
			}
		}, "FLOW_CONTROL_ERROR"},
		{"a stream that depends on itself", func(w *wire) {
			w.head(1, false, post()...)
			_ = w.WritePriority(1, http2.PriorityParam{StreamDep: 1})
		}, "PROTOCOL_ERROR"},
	} {
		t.Run(x.name, func(t *testing.T) {
			c, h, w, r := server(t, Config{})
			h.onHead = func(s *Stream, _ *Head, _ bool) { c.Pause(s) }
			x.send(w)
			if err := c.Receive(w.bytes(), 0); err != nil {
				t.Fatal(err)
			}
			if log := h.take(); !strings.Contains(log, "1 closed reset stream: "+x.code) {
				t.Errorf("no %s in %s", x.code, log)
			}
			if out := r.text(t, output(c)); !strings.Contains(out, "RST 1 "+x.code) {
				t.Errorf("output: %s", out)
			}
			if c.Streams() != 0 || c.recvWindow+c.recvOwed != 1<<20 {
				t.Errorf("streams %d, window %d", c.Streams(), c.recvWindow+c.recvOwed)
			}
			_ = w.WriteData(1, true, []byte("late"))
			w.head(3, true, get()...)
			_ = c.Receive(w.bytes(), 0)
			want(t, "afterwards", h.take(), "3 GET http://a/ end")
			want(t, "late DATA", r.text(t, output(c)), "")
		})
	}
}

func TestConnectionErrors(t *testing.T) {
	for _, x := range []struct {
		name string
		send func(w *wire)
		code string
	}{
		{"DATA on stream 0", func(w *wire) { _ = w.WriteData(0, true, []byte("a")) }, "PROTOCOL_ERROR"},
		{"DATA on an idle stream", func(w *wire) { _ = w.WriteData(1, true, []byte("a")) }, "PROTOCOL_ERROR"},
		{"HEADERS on stream 0", func(w *wire) { w.head(0, true, get()...) }, "PROTOCOL_ERROR"},
		{"HEADERS on an even stream", func(w *wire) { w.head(2, true, get()...) }, "PROTOCOL_ERROR"},
		{"a lower stream", func(w *wire) { w.head(3, true, get()...); w.head(1, true, get()...) }, "STREAM_CLOSED"},
		{"RST on an idle stream", func(w *wire) { _ = w.WriteRSTStream(1, 0) }, "PROTOCOL_ERROR"},
		{"WINDOW_UPDATE on an idle stream", func(w *wire) { _ = w.WriteWindowUpdate(1, 1) }, "PROTOCOL_ERROR"},
		{"WINDOW_UPDATE of 0", func(w *wire) { _ = w.WriteWindowUpdate(0, 0) }, "PROTOCOL_ERROR"},
		{"WINDOW_UPDATE overflow", func(w *wire) { _ = w.WriteWindowUpdate(0, 1<<31-1) }, "FLOW_CONTROL_ERROR"},
		{"SETTINGS on a stream", func(w *wire) { _ = w.WriteRawFrame(http2.FrameSettings, 0, 1, nil) }, "PROTOCOL_ERROR"},
		{"SETTINGS of 5 bytes", func(w *wire) { _ = w.WriteRawFrame(http2.FrameSettings, 0, 0, make([]byte, 5)) }, "FRAME_SIZE_ERROR"},
		{"SETTINGS ACK with payload", func(w *wire) { _ = w.WriteRawFrame(http2.FrameSettings, 1, 0, make([]byte, 6)) }, "FRAME_SIZE_ERROR"},
		{"initial window over 2^31-1", func(w *wire) { _ = w.WriteSettings(http2.Setting{ID: 4, Val: 1 << 31}) }, "FLOW_CONTROL_ERROR"},
		{"frame size under 2^14", func(w *wire) { _ = w.WriteSettings(http2.Setting{ID: 5, Val: 1000}) }, "PROTOCOL_ERROR"},
		{"push 2", func(w *wire) { _ = w.WriteSettings(http2.Setting{ID: 2, Val: 2}) }, "PROTOCOL_ERROR"},
		{"PING of 7 bytes", func(w *wire) { _ = w.WriteRawFrame(http2.FramePing, 0, 0, make([]byte, 7)) }, "FRAME_SIZE_ERROR"},
		{"PING on a stream", func(w *wire) { _ = w.WriteRawFrame(http2.FramePing, 0, 1, make([]byte, 8)) }, "PROTOCOL_ERROR"},
		{"PUSH_PROMISE", func(w *wire) { _ = w.WriteRawFrame(http2.FramePushPromise, 4, 1, make([]byte, 8)) }, "PROTOCOL_ERROR"},
		{"a frame inside a header section", func(w *wire) {
			_ = w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: w.fields(get()...)})
			_ = w.WritePing(false, [8]byte{})
		}, "PROTOCOL_ERROR"},
		{"CONTINUATION of nothing", func(w *wire) { _ = w.WriteContinuation(1, true, nil) }, "PROTOCOL_ERROR"},
		{"CONTINUATION of another stream", func(w *wire) {
			_ = w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: w.fields(get()...)})
			_ = w.WriteContinuation(3, true, nil)
		}, "PROTOCOL_ERROR"},
		{"a frame over the limit", func(w *wire) { _ = w.WriteRawFrame(0x77, 0, 0, make([]byte, 16385)) }, "FRAME_SIZE_ERROR"},
		{"padding over the frame", func(w *wire) {
			w.head(1, false, post()...)
			_ = w.WriteRawFrame(http2.FrameData, http2.FlagDataPadded, 1, []byte{5, 'a'})
		}, "PROTOCOL_ERROR"},
		{"broken HPACK", func(w *wire) {
			_ = w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0xff, 0xff, 0xff, 0xff, 0x7f}, EndHeaders: true})
		}, "COMPRESSION_ERROR"},
		{"a header section that ends in a field", func(w *wire) {
			_ = w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x40, 5, 'a'}, EndHeaders: true})
		}, "COMPRESSION_ERROR"},
	} {
		t.Run(x.name, func(t *testing.T) {
			c, h, w, r := server(t, Config{})
			x.send(w)
			err := c.Receive(w.bytes(), 0)
			if err == nil {
				t.Fatal("no error")
			}
			out := r.text(t, output(c))
			if !strings.Contains(out, "GOAWAY") || !strings.Contains(out, x.code) {
				t.Errorf("output %s, want GOAWAY with %s", out, x.code)
			}
			if !c.Done() || len(h.streams) != 0 {
				t.Errorf("done %v, %d streams not closed", c.Done(), len(h.streams))
			}
		})
	}
}

func TestTheFirstFrameIsSettings(t *testing.T) {
	h, w := newRecorder(), newWire()
	c := New(&Config{}, h)
	w.buf.WriteString(Preface)
	_ = w.WritePing(false, [8]byte{})
	if err := c.Receive(w.bytes(), 0); err == nil {
		t.Error("a PING was taken for SETTINGS")
	}
	c = New(&Config{}, h)
	if err := c.Receive([]byte("GET / HTTP/1.1\r\n"), 0); err == nil {
		t.Error("HTTP/1 was taken for a preface")
	}
}

func TestHeaderListLimits(t *testing.T) {
	big := strings.Repeat("x", 7000)
	many := get()
	for i := range 10 {
		many = append(many, fmt.Sprintf("x-%d", i), big)
	}
	short := get()
	for i := range 120 {
		short = append(short, fmt.Sprintf("x-%d", i), "y")
	}
	for name, kv := range map[string][]string{"70 KB": many, "one field of 70 KB": get("x", strings.Repeat("y", 70<<10)), "120 fields": short} {
		t.Run(name, func(t *testing.T) {
			c, h, w, r := server(t, Config{})
			p := w.fields(kv...)
			first := p[:min(len(p), 16000)]
			_ = w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: first, EndStream: true, EndHeaders: len(first) == len(p)})
			for p = p[len(first):]; len(p) > 0; {
				n := min(len(p), 16000)
				_ = w.WriteContinuation(1, n == len(p), p[:n])
				p = p[n:]
			}
			h.onHead = func(s *Stream, h *Head, end bool) {
				c.BeginHead(s)
				c.Field(":status", "431")
				c.EndHead(true)
			}
			if err := c.Receive(w.bytes(), 0); err != nil {
				t.Fatal(err)
			}
			want(t, "events", h.take(), "1 GET http://a/ TOO LARGE end\n1 closed <nil>")
			want(t, "output", r.text(t, output(c)), "HEADERS 1 :status=431 end")
		})
	}
}

func TestABombIsNotUnpacked(t *testing.T) {
	c, h, w, _ := server(t, Config{})
	w.head(1, true, get("x", strings.Repeat("y", 3900))...)
	bomb := w.fields(get()...)
	for range 3000 {
		bomb = append(bomb, 0x80|62)
	}
	_ = w.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: bomb, EndStream: true, EndHeaders: true})
	if err := c.Receive(w.bytes(), 0); err != nil {
		t.Fatal(err)
	}
	h.log = h.log[1:]
	want(t, "events", h.take(), "3 GET http://a/ TOO LARGE end")
}

func answer(c *Conn) func(*Stream, *Head, bool) {
	return func(s *Stream, _ *Head, _ bool) {
		c.BeginHead(s)
		c.Field(":status", "200")
		c.EndHead(true)
	}
}
