package h2

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// recorder is a Handler that writes down what it hears, and can act on it.
type recorder struct {
	log     []string
	streams map[uint32]*Stream
	onHead  func(*Stream, *Head, bool)
	onData  func(*Stream, []byte, bool)
	drained func(*Stream)
	data    map[uint32]int
	quiet   bool
}

func newRecorder() *recorder {
	return &recorder{streams: map[uint32]*Stream{}, data: map[uint32]int{}}
}

func (r *recorder) note(format string, a ...any) {
	if !r.quiet {
		r.log = append(r.log, fmt.Sprintf(format, a...))
	}
}

func (r *recorder) Head(s *Stream, h *Head, end bool) {
	r.streams[s.ID()] = s
	r.note("%d %s%s", s.ID(), headText(h), endText(end))
	if r.onHead != nil {
		r.onHead(s, h, end)
	}
}

func (r *recorder) Data(s *Stream, p []byte, end bool) {
	r.data[s.ID()] += len(p)
	r.note("%d data %d%s", s.ID(), len(p), endText(end))
	if r.onData != nil {
		r.onData(s, p, end)
	}
}

func (r *recorder) Trailers(s *Stream, f []Field) { r.note("%d trailers%s", s.ID(), fieldText(f)) }

func (r *recorder) StreamDrained(s *Stream) {
	if r.drained != nil {
		r.drained(s)
	}
}

func (r *recorder) Closed(s *Stream, err error) {
	delete(r.streams, s.ID())
	r.note("%d closed %v", s.ID(), err)
}

func (r *recorder) Refused(id uint32, h *Head, err *StreamError) { r.note("%d refused %v", id, err) }

func (r *recorder) take() string {
	s := strings.Join(r.log, "\n")
	r.log = nil
	return s
}

func headText(h *Head) string {
	var b strings.Builder
	if h.Status != 0 {
		fmt.Fprintf(&b, "%d", h.Status)
	} else {
		fmt.Fprintf(&b, "%s %s://%s%s", h.Method, h.Scheme, h.Authority, h.Path)
	}
	if h.Length >= 0 {
		fmt.Fprintf(&b, " length=%d", h.Length)
	}
	if h.TooLarge {
		return b.String() + " TOO LARGE"
	}
	return b.String() + fieldText(h.Fields)
}

func fieldText(f []Field) string {
	var b strings.Builder
	for _, x := range f {
		fmt.Fprintf(&b, " %s=%q", x.Name, x.Value)
	}
	return b.String()
}

func endText(end bool) string {
	if end {
		return " end"
	}
	return ""
}

// wire builds what a peer sends, with x/net's framer as the second opinion.
type wire struct {
	buf bytes.Buffer
	*http2.Framer
	block bytes.Buffer
	enc   *hpack.Encoder
}

func newWire() *wire {
	w := &wire{}
	w.Framer = http2.NewFramer(&w.buf, nil)
	w.AllowIllegalWrites = true
	w.enc = hpack.NewEncoder(&w.block)
	return w
}

func (w *wire) bytes() []byte {
	p := bytes.Clone(w.buf.Bytes())
	w.buf.Reset()
	return p
}

// fields encodes "name", "value" pairs.
func (w *wire) fields(kv ...string) []byte {
	w.block.Reset()
	for i := 0; i < len(kv); i += 2 {
		_ = w.enc.WriteField(hpack.HeaderField{Name: kv[i], Value: kv[i+1]})
	}
	return bytes.Clone(w.block.Bytes())
}

func (w *wire) head(id uint32, end bool, kv ...string) {
	_ = w.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: w.fields(kv...), EndStream: end, EndHeaders: true})
}

func get(more ...string) []string {
	return append([]string{":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/"}, more...)
}

func post(more ...string) []string {
	return append([]string{":method", "POST", ":scheme", "http", ":authority", "a", ":path", "/"}, more...)
}

// reader turns output into text, one line a frame.
type reader struct {
	dec *hpack.Decoder
}

func newReader() *reader { return &reader{hpack.NewDecoder(4096, nil)} }

func (r *reader) text(t testing.TB, p []byte) string {
	p = bytes.TrimPrefix(p, []byte(Preface))
	fr := http2.NewFramer(nil, bytes.NewReader(p))
	fr.ReadMetaHeaders = r.dec
	var lines []string
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			if err.Error() != "EOF" {
				t.Fatalf("our output is not valid: %v", err)
			}
			return strings.Join(lines, "\n")
		}
		lines = append(lines, frameText(f))
	}
}

func frameText(f http2.Frame) string {
	id := f.Header().StreamID
	switch f := f.(type) {
	case *http2.DataFrame:
		return fmt.Sprintf("DATA %d %d%s", id, len(f.Data()), endText(f.StreamEnded()))
	case *http2.MetaHeadersFrame:
		s := fmt.Sprintf("HEADERS %d", id)
		for _, x := range f.Fields {
			s += fmt.Sprintf(" %s=%s", x.Name, x.Value)
		}
		return s + endText(f.StreamEnded())
	case *http2.RSTStreamFrame:
		return fmt.Sprintf("RST %d %v", id, f.ErrCode)
	case *http2.GoAwayFrame:
		return strings.TrimSpace(fmt.Sprintf("GOAWAY %d %v %s", f.LastStreamID, f.ErrCode, f.DebugData()))
	case *http2.WindowUpdateFrame:
		return fmt.Sprintf("WINDOW %d %d", id, f.Increment)
	case *http2.PingFrame:
		return fmt.Sprintf("PING ack=%v", f.IsAck())
	case *http2.SettingsFrame:
		s := "SETTINGS"
		if f.IsAck() {
			s += " ack"
		}
		_ = f.ForeachSetting(func(x http2.Setting) error { s += " " + x.String(); return nil })
		return s
	}
	return f.Header().String()
}

// output drains c.
func output(c *Conn) []byte {
	var all []byte
	for {
		p := c.Output()
		if len(p) == 0 {
			return all
		}
		all = append(all, p...)
		c.Advance(len(p))
	}
}

// server returns a server that is past the prefaces.
func server(t testing.TB, config Config) (*Conn, *recorder, *wire, *reader) {
	h, w, r := newRecorder(), newWire(), newReader()
	c := New(&config, h)
	w.buf.WriteString(Preface)
	_ = w.WriteSettings()
	_ = w.WriteSettingsAck()
	if err := c.Receive(w.bytes(), 0); err != nil {
		t.Fatal(err)
	}
	r.text(t, output(c))
	return c, h, w, r
}

// client returns a client that is past the prefaces.
func client(t testing.TB, settings ...http2.Setting) (*Conn, *recorder, *wire, *reader) {
	h, w, r := newRecorder(), newWire(), newReader()
	c := New(&Config{Client: true}, h)
	_ = w.WriteSettings(settings...)
	_ = w.WriteSettingsAck()
	if err := c.Receive(w.bytes(), 0); err != nil {
		t.Fatal(err)
	}
	r.text(t, output(c))
	return c, h, w, r
}

func want(t testing.TB, what, got, want string) {
	t.Helper()
	if got = strings.TrimSpace(got); got != strings.TrimSpace(want) {
		t.Errorf("%s:\n got\n\t%s\nwant\n\t%s", what, strings.ReplaceAll(got, "\n", "\n\t"), strings.ReplaceAll(want, "\n", "\n\t"))
	}
}
