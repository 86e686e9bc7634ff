package h2

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

func seeds() [][]byte {
	var all [][]byte
	for _, f := range []func(w *wire){
		func(w *wire) { w.head(1, true, get("x", "1")...) },
		func(w *wire) {
			w.head(1, false, post("content-length", "5")...)
			_ = w.WriteDataPadded(1, false, []byte("abc"), make([]byte, 9))
			_ = w.WriteData(1, true, []byte("de"))
		},
		func(w *wire) {
			w.head(1, false, post()...)
			_ = w.WriteData(1, false, []byte("abc"))
			w.head(1, true, "x-t", "1")
			_ = w.WriteRSTStream(1, 8)
		},
		func(w *wire) {
			p := w.fields(get("cookie", "a", "cookie", "b")...)
			_ = w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p[:3], EndStream: true, PadLength: 3, Priority: http2.PriorityParam{StreamDep: 5}})
			_ = w.WriteContinuation(1, true, p[3:])
			_ = w.WriteWindowUpdate(1, 100)
			_ = w.WritePing(false, [8]byte{1})
			_ = w.WriteGoAway(0, 0, []byte("bye"))
		},
		func(w *wire) {
			_ = w.WriteSettings(http2.Setting{ID: 4, Val: 7}, http2.Setting{ID: 1, Val: 0})
			w.head(1, false, get()...)
			w.head(3, true, get("Bad", "x")...)
		},
	} {
		w := newWire()
		w.buf.WriteString(Preface)
		_ = w.WriteSettings()
		f(w)
		all = append(all, w.bytes())
	}
	return all
}

// outcome is what a server makes of input that comes in pieces.
func outcome(t testing.TB, in []byte, piece int) (events string, out []byte) {
	h := newRecorder()
	bodies := h.bodies()
	c := New(&Config{Connect: true}, h)
	h.onHead = func(s *Stream, head *Head, end bool) {
		for _, f := range head.Fields {
			if strings.ContainsAny(f.Name+f.Value, "\r\n\x00") || f.Name != strings.ToLower(f.Name) {
				t.Fatalf("field %q", f)
			}
		}
		if end {
			sendHead(c, s, false, ":status", "200", "x-path", head.Path)
			c.Write(s, []byte("hello"), true)
		}
	}
	for len(in) > 0 {
		n := min(len(in), piece)
		if c.Receive(in[:n], 0) != nil {
			break
		}
		in = in[n:]
	}
	out = output(c)
	c.Fail(nil)
	if len(h.streams) > 0 || c.Streams() > 0 {
		t.Fatalf("%d streams were never closed", len(h.streams))
	}
	return joined(h.log) + *bodies, out
}

// bodies gathers what data there was, and of which streams.
func (r *recorder) bodies() *string {
	all, last := "", uint32(0)
	r.onData = func(s *Stream, p []byte, _ bool) {
		if s.ID() != last {
			last = s.ID()
			all += fmt.Sprintf("\nbody %d: ", last)
		}
		all += string(p)
	}
	return &all
}

// joined makes one event of data that comes one behind the other on a stream.
func joined(log []string) string {
	var lines []string
	last, sum := 0, 0
	for _, l := range log {
		var id, n int
		if k, _ := fmt.Sscanf(l, "%d data %d", &id, &n); k < 2 {
			last = 0
			lines = append(lines, l)
			continue
		}
		if id == last {
			lines = lines[:len(lines)-1]
			n += sum
		}
		last, sum = id, n
		end := ""
		if strings.HasSuffix(l, " end") {
			end = " end"
		}
		lines = append(lines, fmt.Sprintf("%d data %d%s", id, n, end))
	}
	return strings.Join(lines, "\n")
}

// Whatever comes, however it is cut: no panic, the same events, and output
// that x/net can read.
func FuzzServer(f *testing.F) {
	for _, s := range seeds() {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		in = append([]byte(Preface+"\x00\x00\x00\x04\x00\x00\x00\x00\x00"), bytes.TrimPrefix(in, []byte(Preface))...)
		events, out := outcome(t, in, len(in)+1)
		newReader().text(t, out)
		for _, piece := range []int{1, 3, 10, 100} {
			e, o := outcome(t, in, piece)
			if strings.Contains(e, " data ") {
				o = out // window is given back as bodies come
			}
			if e != events || !bytes.Equal(o, out) {
				t.Fatalf("in pieces of %d:\n%s\n%x\nwhole:\n%s\n%x", piece, e, o, events, out)
			}
		}
	})
}

// Whatever a server says, however it is cut: no panic, the same events, and no
// stream is forgotten.
func FuzzClient(f *testing.F) {
	w := newWire()
	w.head(1, false, ":status", "200", "content-length", "3")
	_ = w.WriteData(1, true, []byte("abc"))
	f.Add(w.bytes())
	f.Fuzz(func(t *testing.T, in []byte) {
		events := answers(t, in, len(in)+1)
		for _, piece := range []int{1, 3, 10, 100} {
			if e := answers(t, in, piece); e != events {
				t.Fatalf("in pieces of %d:\n%s\nwhole:\n%s", piece, e, events)
			}
		}
	})
}

// answers is what a client with three requests makes of input in pieces.
func answers(t testing.TB, in []byte, piece int) (events string) {
	c, h, _, _ := client(t)
	bodies := h.bodies()
	for range 3 {
		s, _ := c.Open(nil, false)
		sendHead(c, s, true, get()...)
	}
	for len(in) > 0 {
		n := min(len(in), piece)
		if c.Receive(in[:n], 0) != nil {
			break
		}
		in = in[n:]
	}
	newReader().text(t, output(c))
	c.Fail(nil)
	if len(h.streams) > 0 || c.Streams() > 0 {
		t.Fatal("streams were never closed")
	}
	lines := strings.Split(joined(h.log), "\n")
	slices.Sort(lines) // a connection's end is told to its streams in any order
	return strings.Join(lines, "\n") + *bodies
}

// FuzzHeaders sends what lists of fields make: x/net must read the same fields,
// and a server passes on only what HTTP can say, the same however the section is
// cut into frames and the frames into pieces.
func FuzzHeaders(f *testing.F) {
	f.Add("Content-Type\x00text/plain\x00x-a\x00b\x00Content-Type\x00text/plain", uint32(4096))
	f.Add(":path\x00/\x00:path\x00/a\x00cookie\x00a=1\x00cookie\x00b=2", uint32(100))
	f.Add("X-A\x00"+strings.Repeat("z", 3000), uint32(0))
	f.Fuzz(func(t *testing.T, list string, table uint32) {
		var fields []Field
		for parts := strings.Split(list, "\x00"); len(parts) > 1; parts = parts[2:] {
			fields = append(fields, Field{parts[0], parts[1]})
		}
		var e encoder
		dec := hpack.NewDecoder(4096, nil)
		for i := range 4 { // the second and third time by the table
			if i == 2 {
				e.limit(table % 5000)
				dec.SetAllowedMaxDynamicTableSize(min(table%5000, 4096))
			}
			b := e.begin(nil)
			for _, x := range fields {
				b = e.field(b, x.Name, x.Value)
			}
			got, err := dec.DecodeFull(b)
			if err != nil || len(got) != len(fields) {
				t.Fatalf("round %d: %v, %d fields of %d", i, err, len(got), len(fields))
			}
			for j, x := range fields {
				if got[j].Name != strings.ToLower(x.Name) && got[j].Name != lower(x.Name) || got[j].Value != x.Value {
					t.Fatalf("round %d: got %q, want %q", i, got[j], x)
				}
			}
		}
		passOn(t, fields)
	})
}

func passOn(t *testing.T, fields []Field) {
	c, h, w, _ := server(t, Config{})
	h.onHead = func(_ *Stream, head *Head, _ bool) {
		for _, x := range head.Fields {
			if !validName(x.Name) || !validValue(x.Value) || x.Name == "connection" || x.Name == "transfer-encoding" {
				t.Fatalf("passed %q", x)
			}
		}
		if !validToken(head.Method) || head.Path == "" || head.Scheme == "" || !validValue(head.Path+head.Authority) {
			t.Fatalf("passed %+v", head)
		}
	}
	kv := get()
	for _, x := range fields {
		kv = append(kv, x.Name, x.Value)
	}
	p := w.fields(kv...)
	if len(p) > frameSize {
		return
	}
	_ = w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p, EndStream: true, EndHeaders: true})
	_ = c.Receive(w.bytes(), 0)
	events := h.take()
	for _, n := range []int{1 + len(p)/13, 1 + len(p)/3, 1 + len(p)/2} {
		c, h, w, _ := server(t, Config{})
		_ = w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p[:min(n, len(p))], EndStream: true, EndHeaders: n >= len(p), PadLength: uint8(n)})
		for rest := p[min(n, len(p)):]; len(rest) > 0; rest = rest[min(n, len(rest)):] {
			_ = w.WriteContinuation(1, len(rest) <= n, rest[:min(n, len(rest))])
		}
		for b := w.bytes(); len(b) > 0; b = b[min(n, len(b)):] {
			_ = c.Receive(b[:min(n, len(b))], 0)
		}
		if e := h.take(); e != events {
			t.Fatalf("in frames of %d bytes:\n%s\nin one:\n%s", n, e, events)
		}
	}
}

func TestValuesAreLookedAtByteByByte(t *testing.T) {
	for at := range 20 {
		for c := range 256 {
			for _, neighbour := range []byte{'a', 0x80, 0xff, 0x7e, '\t'} {
				b := bytes.Repeat([]byte{neighbour}, 20)
				b[0], b[19], b[at] = 'a', 'a', byte(c)
				want := allValue(string(b)) && !(at%19 == 0 && (c == ' ' || c == '\t'))
				if got := validValue(string(b)); got != want {
					t.Fatalf("%q: got %v", b, got)
				}
			}
		}
	}
}
