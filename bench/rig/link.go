package rig

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Link is a client's HTTP/2 connection, whose frames may be as illegal as its
// user likes. Frames are written through Framer; nothing is sent by itself but
// the preface, SETTINGS and their ACK.
type Link struct {
	net.Conn
	*http2.Framer
	Settings map[http2.SettingID]uint32 // of the proxy, once they came
	Last     []uint32                   // last streams of its GOAWAYs

	Patience time.Duration // for each read and write
	NoAck    bool          // of the proxy's SETTINGS
	Window   bool          // give window back for DATA

	out   sink
	block bytes.Buffer
	enc   *hpack.Encoder
	dec   *hpack.Decoder
	lines map[uint32]*Answer
	gone  string // why no frame comes any more
}

// Answer is what came on a stream.
type Answer struct {
	Infos   []Section
	Head    Section
	Body    string
	Trailer Section
	End     string // END, RST CODE, or what ended the connection; empty: it goes on
	After   string // RST CODE behind END
}

// Section is a header or trailer section.
type Section []hpack.HeaderField

// Get returns a field's values, joined by a bar.
func (s Section) Get(name string) string {
	var v []string
	for _, f := range s {
		if f.Name == name {
			v = append(v, f.Value)
		}
	}
	return strings.Join(v, "|")
}

// Dial makes a link and says hello.
func Dial(addr string, patience time.Duration, settings ...http2.Setting) (*Link, error) {
	c, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return nil, err
	}
	l := &Link{Conn: c, out: sink{c: c}, Patience: patience, Settings: map[http2.SettingID]uint32{}, lines: map[uint32]*Answer{}}
	l.Framer = http2.NewFramer(&l.out, c)
	l.AllowIllegalWrites, l.AllowIllegalReads = true, true
	l.SetReuseFrames()
	l.enc, l.dec = hpack.NewEncoder(&l.block), hpack.NewDecoder(4096, nil)
	c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(&l.out, http2.ClientPreface); err != nil {
		c.Close()
		return nil, err
	}
	return l, l.WriteSettings(settings...)
}

// sink writes to a connection, many frames at once when it has room for them.
type sink struct {
	c    net.Conn
	room int
	b    []byte
	sent atomic.Int64
}

func (s *sink) Write(p []byte) (int, error) {
	s.b = append(s.b, p...)
	if len(s.b) < s.room {
		return len(p), nil
	}
	return len(p), s.flush()
}

func (s *sink) flush() error {
	n, err := s.c.Write(s.b)
	s.sent.Add(int64(n))
	s.b = s.b[:0]
	return err
}

// Gather makes frames wait until there are n bytes of them; 0 sends them now.
func (l *Link) Gather(n int) error {
	l.out.room = n
	return l.out.flush()
}

// Sent is how many bytes were sent.
func (l *Link) Sent() int64 { return l.out.sent.Load() }

// Fields encodes name, value, name, value...
func (l *Link) Fields(fields ...string) []byte {
	l.block.Reset()
	for i := 0; i+1 < len(fields); i += 2 {
		l.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return l.block.Bytes()
}

// Say sends a header section, in as many frames as it takes.
func (l *Link) Say(stream uint32, end bool, fields ...string) error {
	l.SetWriteDeadline(time.Now().Add(l.Patience))
	b := l.Fields(fields...)
	const most = 16384
	first := b[:min(len(b), most)]
	b = b[len(first):]
	err := l.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: first, EndStream: end, EndHeaders: len(b) == 0})
	for err == nil && len(b) > 0 {
		part := b[:min(len(b), most)]
		b = b[len(part):]
		err = l.WriteContinuation(stream, len(b) == 0, part)
	}
	return err
}

// Put sends DATA in frames that are not too long.
func (l *Link) Put(stream uint32, end bool, data string) error {
	l.SetWriteDeadline(time.Now().Add(l.Patience))
	for len(data) > 16384 {
		if err := l.WriteData(stream, false, []byte(data[:16384])); err != nil {
			return err
		}
		data = data[16384:]
	}
	return l.WriteData(stream, end, []byte(data))
}

// Of is the answer on a stream so far.
func (l *Link) Of(stream uint32) *Answer {
	a := l.lines[stream]
	if a == nil {
		a = &Answer{}
		l.lines[stream] = a
	}
	return a
}

// Step reads a frame and notes what it says; false when none comes any more.
func (l *Link) Step() bool {
	if l.gone != "" {
		return false
	}
	l.SetReadDeadline(time.Now().Add(l.Patience))
	f, err := l.ReadFrame()
	var one http2.StreamError
	switch {
	case errors.As(err, &one):
		return true
	case errors.Is(err, os.ErrDeadlineExceeded):
		l.gone = "silence"
		return false
	case err != nil:
		l.gone = "close"
		return false
	}
	l.take(f)
	return true
}

func (l *Link) take(f http2.Frame) {
	switch f := f.(type) {
	case *http2.SettingsFrame:
		if f.IsAck() {
			return
		}
		f.ForeachSetting(func(s http2.Setting) error { l.Settings[s.ID] = s.Val; return nil })
		if !l.NoAck {
			l.WriteSettingsAck()
		}
	case *http2.HeadersFrame:
		l.section(f)
	case *http2.DataFrame:
		a := l.Of(f.StreamID)
		a.Body += string(f.Data())
		if l.Window && f.Length > 0 {
			l.WriteWindowUpdate(0, f.Length)
			l.WriteWindowUpdate(f.StreamID, f.Length)
		}
		if f.StreamEnded() {
			a.End = "END"
		}
	case *http2.RSTStreamFrame:
		if a := l.Of(f.StreamID); a.End == "" {
			a.End = "RST " + f.ErrCode.String()
		} else {
			a.After = "RST " + f.ErrCode.String()
		}
	case *http2.PingFrame:
		if !f.IsAck() && !l.NoAck {
			l.WritePing(true, f.Data)
		}
	case *http2.GoAwayFrame:
		l.Last = append(l.Last, f.LastStreamID)
		if f.ErrCode != http2.ErrCodeNo {
			l.gone = "GOAWAY " + f.ErrCode.String()
		}
	}
}

// section reads a header section with its CONTINUATIONs.
func (l *Link) section(f *http2.HeadersFrame) {
	var got Section
	dec := l.dec
	dec.SetEmitFunc(func(h hpack.HeaderField) { got = append(got, h) })
	id, end := f.StreamID, f.StreamEnded()
	dec.Write(f.HeaderBlockFragment())
	for more := !f.HeadersEnded(); more; {
		g, err := l.ReadFrame()
		c, is := g.(*http2.ContinuationFrame)
		if err != nil || !is {
			break
		}
		dec.Write(c.HeaderBlockFragment())
		more = !c.HeadersEnded()
	}
	a := l.Of(id)
	switch status := got.Get(":status"); {
	case len(status) == 3 && status[0] == '1':
		a.Infos = append(a.Infos, got)
	case status != "":
		a.Head = got
	default:
		a.Trailer = got
	}
	if end {
		a.End = "END"
	}
}

// Await reads until a stream is over.
func (l *Link) Await(stream uint32) *Answer {
	a := l.Of(stream)
	for a.End == "" {
		if !l.Step() {
			a.End = l.gone
		}
	}
	return a
}

// Rest reads until nothing comes any more and says why: "GOAWAY CODE", "close"
// or "silence".
func (l *Link) Rest() string {
	for l.Step() {
	}
	return l.gone
}

// Gone is why no frame comes any more; empty while some may.
func (l *Link) Gone() string { return l.gone }

// Said is an answer in short: "200", "RST CODE", "200 cut RST CODE".
func (a *Answer) Said() string {
	status := a.Head.Get(":status")
	switch {
	case a.End == "END":
		return status
	case status == "":
		return a.End
	}
	return fmt.Sprint(status, " cut ", a.End)
}
