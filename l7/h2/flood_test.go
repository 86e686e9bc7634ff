package h2

import (
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

func TestFloodsAreStopped(t *testing.T) {
	for _, x := range []struct {
		name  string
		most  int // frames
		start func(w *wire)
		frame func(w *wire, i int)
	}{
		{"PING", 1100, nil, func(w *wire, i int) { _ = w.WritePing(false, [8]byte{}) }},
		{"PING ACK", 1100, nil, func(w *wire, i int) { _ = w.WritePing(true, [8]byte{}) }},
		{"SETTINGS", 1100, nil, func(w *wire, i int) { _ = w.WriteSettings() }},
		{"unknown frames", 1100, nil, func(w *wire, i int) { _ = w.WriteRawFrame(0xbe, 0, 0, []byte("x")) }},
		{"PRIORITY", 1100, nil, func(w *wire, i int) { _ = w.WritePriority(7, http2.PriorityParam{StreamDep: 3}) }},
		{"RST on closed streams", 1100, func(w *wire) { w.head(9, true, "x", "y") }, func(w *wire, i int) { _ = w.WriteRSTStream(1, 0) }},
		{"empty DATA", 1100, func(w *wire) { w.head(1, false, post()...) }, func(w *wire, i int) { _ = w.WriteData(1, false, nil) }},
		{"windows of one byte", 1100, func(w *wire) { w.head(1, false, post()...) }, func(w *wire, i int) { _ = w.WriteWindowUpdate(1, 1) }},
		{"CONTINUATION", 20, func(w *wire) {
			_ = w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: w.fields(get()...)})
		}, func(w *wire, i int) { _ = w.WriteContinuation(1, false, w.fields("x", strings.Repeat("y", 10000))) }},
		{"empty CONTINUATION", 20, func(w *wire) {
			_ = w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: w.fields(get()...)})
		}, func(w *wire, i int) { _ = w.WriteContinuation(1, false, nil) }},
		{"rapid reset", 210, nil, func(w *wire, i int) {
			w.head(uint32(2*i+1), true, get()...)
			_ = w.WriteRSTStream(uint32(2*i+1), http2.ErrCodeCancel)
		}},
		{"rapid reset with NO_ERROR", 210, nil, func(w *wire, i int) {
			w.head(uint32(2*i+1), true, get()...)
			_ = w.WriteRSTStream(uint32(2*i+1), http2.ErrCodeNo)
		}},
		{"malformed requests", 110, nil, func(w *wire, i int) { w.head(uint32(2*i+1), true, get("X", "y")...) }},
		{"made you reset: window overflow", 210, nil, func(w *wire, i int) {
			w.head(uint32(2*i+1), true, get()...)
			_ = w.WriteWindowUpdate(uint32(2*i+1), 1<<31-1)
		}},
		{"made you reset: window of 0", 210, nil, func(w *wire, i int) {
			w.head(uint32(2*i+1), true, get()...)
			_ = w.WriteWindowUpdate(uint32(2*i+1), 0)
		}},
		{"made you reset: DATA after the end", 210, nil, func(w *wire, i int) {
			w.head(uint32(2*i+1), true, get()...)
			_ = w.WriteData(uint32(2*i+1), true, []byte("x"))
		}},
		{"made you reset: HEADERS after the end", 210, nil, func(w *wire, i int) {
			w.head(uint32(2*i+1), true, get()...)
			w.head(uint32(2*i+1), true, "x", "y")
		}},
		{"made you reset: self-dependency", 210, nil, func(w *wire, i int) {
			w.head(uint32(2*i+1), true, get()...)
			_ = w.WritePriority(uint32(2*i+1), http2.PriorityParam{StreamDep: uint32(2*i + 1)})
		}},
		{"header lists over the limit", 110, nil, func(w *wire, i int) {
			w.head(uint32(2*i+1), true, get(slices.Repeat([]string{"x", strings.Repeat("a", 1000)}, 70)...)...)
		}},
		{"HPACK bombs", 12, nil, func(w *wire, i int) {
			p := w.fields(get("x", strings.Repeat("a", 3900))...)
			for range 3000 {
				p = append(p, 0x80|62) // the newest entry of the table
			}
			_ = w.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: p, EndStream: true, EndHeaders: true})
		}},
		{"streams over the limit", 320, nil, func(w *wire, i int) { w.head(uint32(2*i+1), true, get()...) }},
	} {
		t.Run(x.name, func(t *testing.T) {
			c, h, w, r := server(t, Config{})
			h.quiet = true
			if x.start != nil {
				x.start(w)
			}
			sent, last := 0, ""
			for i := range 3000 {
				x.frame(w, i)
				sent++
				err := c.Receive(w.bytes(), Now(i)*time.Microsecond)
				last = r.text(t, output(c))
				if err == nil {
					continue
				}
				if sent > x.most || !strings.Contains(last, "ENHANCE_YOUR_CALM") {
					t.Errorf("%d frames, %s", sent, last)
				}
				return
			}
			t.Errorf("no end after %d", sent)
		})
	}
}

func TestHonestPeersHaveBudget(t *testing.T) {
	t.Run("resets that are few among many requests", func(t *testing.T) {
		c, h, w, _ := server(t, Config{})
		h.onHead = answer(c)
		for i := range 3000 {
			w.head(uint32(2*i+1), i%3 != 0, get()...)
			if i%3 == 0 {
				_ = w.WriteRSTStream(uint32(2*i+1), http2.ErrCodeCancel)
			}
			if err := c.Receive(w.bytes(), Now(i)*time.Millisecond); err != nil {
				t.Fatalf("request %d: %v", i, err)
			}
			output(c)
		}
	})
	t.Run("bodies that are under way when their requests are answered", func(t *testing.T) {
		c, h, w, _ := server(t, Config{})
		h.onHead, h.quiet = answer(c), true
		for wave := range 5 {
			for i := range 100 {
				w.head(uint32(200*wave+2*i+1), false, post()...)
			}
			if err := c.Receive(w.bytes(), Now(wave)*time.Millisecond); err != nil {
				t.Fatal(err)
			}
			output(c) // a hundred answers, each with RST_STREAM NO_ERROR
			for range 2 {
				for i := range 100 {
					_ = w.WriteData(uint32(200*wave+2*i+1), false, []byte("x"))
				}
			}
			if err := c.Receive(w.bytes(), Now(wave)*time.Millisecond); err != nil {
				t.Fatalf("wave %d: %v", wave, err)
			}
			output(c)
		}
	})
	t.Run("a PING a second", func(t *testing.T) {
		c, _, w, _ := server(t, Config{})
		for i := range 5000 {
			_ = w.WritePing(false, [8]byte{})
			if err := c.Receive(w.bytes(), Now(i)*time.Second); err != nil {
				t.Fatal(err)
			}
			output(c)
		}
	})
	t.Run("a download with two window updates per frame", func(t *testing.T) {
		c, h, w, _ := server(t, Config{})
		w.head(1, true, get()...)
		_ = c.Receive(w.bytes(), 0)
		for range 5000 {
			c.Write(h.streams[1], make([]byte, 8192), false)
			output(c)
			_ = w.WriteWindowUpdate(0, 8192)
			_ = w.WriteWindowUpdate(1, 8192)
			if err := c.Receive(w.bytes(), 0); err != nil {
				t.Fatal(err)
			}
		}
	})
	t.Run("300 streams at once, before our SETTINGS are seen", func(t *testing.T) {
		h, w := newRecorder(), newWire()
		c := New(&Config{}, h)
		w.buf.WriteString(Preface)
		_ = w.WriteSettings()
		for i := range 300 {
			w.head(uint32(2*i+1), true, get()...)
		}
		if err := c.Receive(w.bytes(), 0); err != nil {
			t.Fatal(err)
		}
		refused := strings.Count(newReader().text(t, output(c)), "REFUSED_STREAM")
		if c.Streams() != 100 || refused != 200 {
			t.Errorf("%d streams, %d refused", c.Streams(), refused)
		}
	})
}
