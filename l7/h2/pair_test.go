package h2

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

// pair is a client and a server that talk to each other in pieces.
type pair struct {
	t              testing.TB
	client, server *Conn
	ch, sh         *recorder
	cut            func(n int) int // how much of n bytes goes through at once
}

func newPair(t testing.TB, cut func(int) int) *pair {
	p := &pair{t: t, ch: newRecorder(), sh: newRecorder(), cut: cut}
	p.client = New(&Config{Client: true}, p.ch)
	p.server = New(&Config{}, p.sh)
	return p
}

// run moves bytes until both are silent.
func (p *pair) run() {
	p.t.Helper()
	for {
		n := p.move(p.client, p.server) + p.move(p.server, p.client)
		if n == 0 {
			return
		}
	}
}

func (p *pair) move(from, to *Conn) int {
	p.t.Helper()
	out := from.Output()
	if len(out) == 0 {
		return 0
	}
	n := max(1, min(len(out), p.cut(len(out))))
	if err := to.Receive(bytes.Clone(out[:n]), 0); err != nil {
		p.t.Fatal(err)
	}
	from.Advance(n)
	return n
}

func (p *pair) request(kv ...string) *Stream {
	p.t.Helper()
	s, err := p.client.Open(nil, false)
	if err != nil {
		p.t.Fatal(err)
	}
	sendHead(p.client, s, false, kv...)
	return s
}

func sendHead(c *Conn, s *Stream, end bool, kv ...string) {
	c.BeginHead(s)
	for i := 0; i < len(kv); i += 2 {
		c.Field(kv[i], kv[i+1])
	}
	c.EndHead(end)
}

func whole(n int) int { return n }

func TestAConversation(t *testing.T) {
	for name, cut := range map[string]func(int) int{
		"whole":        whole,
		"byte by byte": func(int) int { return 1 },
		"seven bytes":  func(int) int { return 7 },
		"random":       func(n int) int { return 1 + rand.IntN(n) },
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, cut)
			p.run()
			s := p.request(":method", "POST", ":scheme", "http", ":authority", "a", ":path", "/x", "X-A", "1", "te", "trailers")
			p.client.Write(s, []byte("hello"), false)
			sendHead(p.client, s, true, "x-sum", "5")
			p.run()
			want(t, "server", whole1(p.sh), "1 POST http://a/x x-a=\"1\" te=\"trailers\"\n1 data 5\n1 trailers x-sum=\"5\"")
			q := p.sh.streams[1]
			sendHead(p.server, q, false, ":status", "103", "link", "</a>")
			sendHead(p.server, q, false, ":status", "200", "Content-Type", "text/plain", "X-Custom", "v")
			p.server.Write(q, bytes.Repeat([]byte("x"), 200000), false)
			sendHead(p.server, q, true, "grpc-status", "0")
			p.run()
			want(t, "client", whole1(p.ch), "1 103 link=\"</a>\"\n1 200 content-type=\"text/plain\" x-custom=\"v\"\n1 data 200000\n1 trailers grpc-status=\"0\"\n1 closed <nil>")
			want(t, "server", whole1(p.sh), "1 closed <nil>")
			if p.client.Streams()+p.server.Streams() != 0 {
				t.Error("streams are left")
			}
		})
	}
}

// whole1 joins the data events of one stream, however they were cut.
func whole1(r *recorder) string {
	var lines []string
	sum, at := 0, -1
	for _, l := range r.log {
		var id, n int
		if k, _ := fmt.Sscanf(l, "%d data %d", &id, &n); k == 2 {
			if at < 0 {
				at = len(lines)
				lines = append(lines, "")
			}
			sum += n
			end := ""
			if strings.HasSuffix(l, " end") {
				end = " end"
			}
			lines[at] = fmt.Sprintf("%d data %d%s", id, sum, end)
			continue
		}
		lines = append(lines, l)
	}
	r.log = nil
	return strings.Join(lines, "\n")
}

func TestHeadersSurviveRepetition(t *testing.T) {
	p := newPair(t, whole)
	p.sh.onHead = func(s *Stream, h *Head, end bool) {
		sendHead(p.server, s, true, ":status", "200", "Server", "cirque", "date", "Mon, 01 Jan 2024 00:00:00 GMT",
			"Content-Length", "0", "x-n", h.Path[1:], "X-Long", strings.Repeat(h.Path, 300), "set-cookie", "a=b")
	}
	for i := range 400 {
		s, err := p.client.Open(nil, false)
		if err != nil {
			t.Fatal(err)
		}
		id := s.ID()
		path := fmt.Sprintf("/%d", i/3)
		sendHead(p.client, s, true, ":method", "GET", ":scheme", "http", ":authority", "a", ":path", path,
			"user-agent", "test/1", "Cookie", "secret", "x-random", fmt.Sprint(i%5), "x-trace", fmt.Sprint(i))
		p.run()
		want(t, "server", p.sh.take(), fmt.Sprintf("%d GET http://a%s user-agent=\"test/1\" cookie=\"secret\" x-random=\"%d\" x-trace=\"%d\" end\n%d closed <nil>", id, path, i%5, i, id))
		want(t, "client", p.ch.take(), fmt.Sprintf(`%d 200 length=0 server="cirque" date="Mon, 01 Jan 2024 00:00:00 GMT" content-length="0" x-n=%q x-long=%q set-cookie="a=b" end`+"\n%d closed <nil>",
			id, path[1:], strings.Repeat(path, 300), id))
	}
}

// A table that shrinks and grows between sections must stay the peer's.
func TestTheTableFollowsSettings(t *testing.T) {
	c, h, w, r := server(t, Config{})
	h.onHead = func(s *Stream, _ *Head, _ bool) {
		sendHead(c, s, true, ":status", "200", "x-a", strings.Repeat("a", 50), "x-b", strings.Repeat("b", 60), "x-c", fmt.Sprint(s.ID()%4))
	}
	for i := range 200 {
		if i%7 == 3 {
			_ = w.WriteSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: uint32(i % 5 * 100)},
				http2.Setting{ID: http2.SettingHeaderTableSize, Val: uint32(i % 3 * 2000)})
			r.dec.SetAllowedMaxDynamicTableSize(uint32(i % 3 * 2000))
		}
		id := uint32(2*i + 1)
		w.head(id, true, get()...)
		if err := c.Receive(w.bytes(), 0); err != nil {
			t.Fatal(err)
		}
		out := r.text(t, output(c))
		line := out[strings.LastIndex(out, "\n")+1:]
		want(t, "output", line, fmt.Sprintf("HEADERS %d :status=200 x-a=%s x-b=%s x-c=%d end", id, strings.Repeat("a", 50), strings.Repeat("b", 60), id%4))
	}
}

func TestALongHeadIsCutIntoContinuations(t *testing.T) {
	p := newPair(t, whole)
	p.run()
	long := strings.Repeat("v", 40000)
	s := p.request(append(get(), "x-long", long)...)
	p.run()
	want(t, "server", p.sh.take(), fmt.Sprintf("%d GET http://a/ x-long=%q", s.ID(), long))
}

func TestStreamsShareTheConnection(t *testing.T) {
	c, h, w, r := server(t, Config{})
	_ = w.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
	_ = w.WriteWindowUpdate(0, 1<<24)
	for i := range 4 {
		w.head(uint32(2*i+1), true, get()...)
	}
	_ = c.Receive(w.bytes(), 0)
	for i := range 4 {
		c.Write(h.streams[uint32(2*i+1)], make([]byte, 300000), true)
	}
	lines := strings.Split(r.text(t, output(c)), "\n")
	sent := map[int]int{}
	for _, l := range lines[len(lines)-60:] {
		var id, n int
		if k, _ := fmt.Sscanf(l, "DATA %d %d", &id, &n); k == 2 {
			sent[id] += n
		}
	}
	for id := 1; id < 8; id += 2 {
		if sent[id] < 180000 {
			t.Errorf("stream %d got %d of the last 60 frames' bytes", id, sent[id])
		}
	}
}

func TestDrainedTellsWhenToGoOn(t *testing.T) {
	c, h, w, _ := server(t, Config{})
	told := 0
	h.drained = func(s *Stream) {
		told++
		if s.Buffered() > lowMark {
			t.Errorf("told with %d waiting", s.Buffered())
		}
	}
	w.head(1, true, get()...)
	_ = c.Receive(w.bytes(), 0)
	c.Write(h.streams[1], make([]byte, 200000), false)
	output(c)
	if told != 0 {
		t.Error("told too early")
	}
	_ = w.WriteWindowUpdate(0, 200000)
	_ = w.WriteWindowUpdate(1, 110000)
	_ = c.Receive(w.bytes(), 0)
	output(c)
	if told == 0 {
		t.Error("not told")
	}
}

func TestAnEarlyAnswerStopsTheUpload(t *testing.T) {
	c, h, w, r := server(t, Config{})
	w.head(1, false, post()...)
	_ = w.WriteData(1, false, []byte("abc"))
	_ = c.Receive(w.bytes(), 0)
	sendHead(c, h.streams[1], false, ":status", "413")
	c.Write(h.streams[1], []byte("too much"), true)
	_ = w.WriteData(1, false, []byte("crossing"))
	_ = c.Receive(w.bytes(), 0) // before anything was written
	want(t, "output", r.text(t, output(c)), "HEADERS 1 :status=413\nDATA 1 8 end\nRST 1 NO_ERROR")
	h.take()
	for range 10 { // what was under way
		_ = w.WriteData(1, false, make([]byte, 10000))
	}
	_ = w.WriteData(1, true, nil)
	if err := c.Receive(w.bytes(), 0); err != nil {
		t.Fatal(err)
	}
	want(t, "events", h.take(), "")
	want(t, "output", r.text(t, output(c)), "")
}

func TestDrainIsInTwoSteps(t *testing.T) {
	c, h, w, r := server(t, Config{})
	w.head(1, true, get()...)
	_ = c.Receive(w.bytes(), 0)
	c.Drain()
	want(t, "first step", r.text(t, output(c)), "GOAWAY 2147483647 NO_ERROR\nPING ack=false")
	w.head(3, true, get()...) // crossed our GOAWAY
	_ = c.Receive(w.bytes(), 0)
	_ = w.WritePing(true, [8]byte([]byte("cirque-1")))
	w.head(5, true, get()...) // too late
	_ = w.WriteData(5, true, []byte("late"))
	if err := c.Receive(w.bytes(), 0); err != nil {
		t.Fatal(err)
	}
	want(t, "events", h.take(), "1 GET http://a/ end\n3 GET http://a/ end")
	sendHead(c, h.streams[1], true, ":status", "200")
	if c.Done() {
		t.Error("done with streams open")
	}
	sendHead(c, h.streams[3], true, ":status", "200")
	want(t, "the rest", r.text(t, output(c)), "GOAWAY 3 NO_ERROR\nHEADERS 1 :status=200 end\nHEADERS 3 :status=200 end")
	if !c.Done() {
		t.Error("not done")
	}
}

func TestAClientHonoursThePeer(t *testing.T) {
	t.Run("stream limit", func(t *testing.T) {
		c, h, w, r := client(t, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 2})
		for range 2 {
			if s, err := c.Open(nil, false); err == nil {
				sendHead(c, s, true, get()...)
			}
		}
		if _, err := c.Open(nil, false); err != ErrNoStream {
			t.Errorf("a third stream: %v", err)
		}
		r.text(t, output(c))
		w.head(1, true, ":status", "200")
		_ = c.Receive(w.bytes(), 0)
		if c.Available() != 1 {
			t.Errorf("%d available", c.Available())
		}
		want(t, "events", h.take(), "1 200 end\n1 closed <nil>")
	})
	t.Run("GOAWAY", func(t *testing.T) {
		c, h, w, _ := client(t)
		for range 3 {
			s, _ := c.Open(nil, false)
			sendHead(c, s, true, get()...)
		}
		output(c)
		_ = w.WriteGoAway(1, 0, nil)
		w.head(1, true, ":status", "200")
		_ = c.Receive(w.bytes(), 0)
		log := h.take()
		for _, id := range []int{3, 5} {
			if !strings.Contains(log, fmt.Sprintf("%d closed stream reset by peer: REFUSED_STREAM", id)) {
				t.Errorf("stream %d: %s", id, log)
			}
		}
		if c.Available() != 0 || !c.Done() {
			t.Errorf("available %d, done %v", c.Available(), c.Done())
		}
	})
	t.Run("REFUSED_STREAM is unprocessed", func(t *testing.T) {
		c, h, w, _ := client(t)
		s, _ := c.Open(nil, false)
		sendHead(c, s, true, get()...)
		output(c)
		_ = w.WriteRSTStream(1, http2.ErrCodeRefusedStream)
		_ = c.Receive(w.bytes(), 0)
		want(t, "events", h.take(), "1 closed stream reset by peer: REFUSED_STREAM")
	})
}

func TestMalformedResponses(t *testing.T) {
	for _, x := range []struct {
		name string
		send func(w *wire)
		want string
	}{
		{"no status", func(w *wire) { w.head(1, true, "x", "y") }, "PROTOCOL_ERROR: no :status"},
		{"status of two digits", func(w *wire) { w.head(1, true, ":status", "20") }, "PROTOCOL_ERROR: status is not three digits"},
		{"101", func(w *wire) { w.head(1, false, ":status", "101") }, "PROTOCOL_ERROR: status 101"},
		{"103 with END_STREAM", func(w *wire) { w.head(1, true, ":status", "103") }, "PROTOCOL_ERROR: END_STREAM on an informational response"},
		{"a request's field", func(w *wire) { w.head(1, true, ":status", "200", ":path", "/") }, "PROTOCOL_ERROR: unknown pseudo-field"},
		{"DATA before the head", func(w *wire) { _ = w.WriteData(1, true, []byte("x")) }, "PROTOCOL_ERROR: DATA before the head"},
		{"DATA after 103", func(w *wire) { w.head(1, false, ":status", "103"); _ = w.WriteData(1, true, []byte("x")) }, "PROTOCOL_ERROR: DATA before the head"},
		{"a body in a 204", func(w *wire) { w.head(1, false, ":status", "204"); _ = w.WriteData(1, true, []byte("x")) }, "PROTOCOL_ERROR: content does not have its announced length"},
		{"short", func(w *wire) {
			w.head(1, false, ":status", "200", "content-length", "3")
			_ = w.WriteData(1, true, []byte("x"))
		}, "PROTOCOL_ERROR: content does not have its announced length"},
		{"length without content", func(w *wire) { w.head(1, true, ":status", "200", "content-length", "3") }, "PROTOCOL_ERROR: content-length without content"},
		{"connection", func(w *wire) { w.head(1, true, ":status", "200", "connection", "close") }, "PROTOCOL_ERROR: connection-specific field"},
	} {
		t.Run(x.name, func(t *testing.T) {
			c, h, w, r := client(t)
			s, _ := c.Open(nil, false)
			sendHead(c, s, true, get()...)
			output(c)
			x.send(w)
			if err := c.Receive(w.bytes(), 0); err != nil {
				t.Fatal(err)
			}
			if log := h.take(); !strings.HasSuffix(log, "1 closed reset stream: "+x.want) {
				t.Errorf("events: %s", log)
			}
			want(t, "output", r.text(t, output(c)), "RST 1 PROTOCOL_ERROR")
		})
	}
	t.Run("304 and HEAD keep their length", func(t *testing.T) {
		c, h, w, _ := client(t)
		s, _ := c.Open(nil, true)
		sendHead(c, s, true, get()...)
		s, _ = c.Open(nil, false)
		sendHead(c, s, true, get()...)
		output(c)
		w.head(1, true, ":status", "200", "content-length", "3")
		w.head(3, true, ":status", "304", "content-length", "3")
		_ = c.Receive(w.bytes(), 0)
		want(t, "events", h.take(), "1 200 length=3 content-length=\"3\" end\n1 closed <nil>\n3 304 length=3 content-length=\"3\" end\n3 closed <nil>")
	})
}

func TestACongestedConnectionSaysSo(t *testing.T) {
	c, h, w, _ := server(t, Config{})
	h.quiet = true
	h.onHead = func(s *Stream, _ *Head, _ bool) {
		sendHead(c, s, true, ":status", "200", "x", strings.Repeat(fmt.Sprint(s.ID()), 500))
	}
	for i := 0; !c.Congested(); i++ {
		if i == 1000 {
			t.Fatal("never congested")
		}
		w.head(uint32(2*i+1), true, get()...)
		_ = c.Receive(w.bytes(), 0)
	}
	output(c)
	if c.Congested() {
		t.Error("still congested")
	}
}

func TestFailTellsEveryStream(t *testing.T) {
	c, h, w, _ := server(t, Config{})
	w.head(1, true, get()...)
	w.head(3, false, post()...)
	_ = c.Receive(w.bytes(), 0)
	c.Fail(fmt.Errorf("reset by peer"))
	if log := h.take(); !strings.Contains(log, "1 closed reset by peer") || !strings.Contains(log, "3 closed reset by peer") {
		t.Error(log)
	}
	if !c.Done() || len(output(c)) != 0 {
		t.Error("not done, or something to write")
	}
}
