package h2

import (
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

func TestWindowsBoundWhatIsSent(t *testing.T) {
	c, h, w, r := server(t, Config{})
	_ = w.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10})
	w.head(1, true, get()...)
	w.head(3, true, get()...)
	_ = c.Receive(w.bytes(), 0)
	r.text(t, output(c))
	s, q := h.streams[1], h.streams[3]
	c.Write(s, make([]byte, 25), true)
	c.Write(q, nil, true)
	want(t, "a window of 10", r.text(t, output(c)), "DATA 1 10\nDATA 3 0 end")
	_ = w.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 5})
	_ = w.WriteWindowUpdate(1, 6)
	_ = c.Receive(w.bytes(), 0)
	want(t, "made smaller, then opened", r.text(t, output(c)), "SETTINGS ack\nDATA 1 1")
	_ = w.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 100})
	_ = c.Receive(w.bytes(), 0)
	want(t, "made larger", r.text(t, output(c)), "SETTINGS ack\nDATA 1 14 end")
}

func TestAnEndWithoutBytesPassesANegativeWindow(t *testing.T) {
	c, h, w, r := server(t, Config{})
	w.head(1, true, get()...)
	if err := c.Receive(w.bytes(), 0); err != nil {
		t.Fatal(err)
	}
	s := h.streams[1]
	sendHead(c, s, false, ":status", "200")
	c.Write(s, make([]byte, 1000), false)
	r.text(t, output(c))
	_ = w.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize}) // the window is -1000 now
	if err := c.Receive(w.bytes(), 0); err != nil {
		t.Fatal(err)
	}
	c.Write(s, nil, true)
	want(t, "output", r.text(t, output(c)), "SETTINGS ack\nDATA 1 0 end")
}

func TestTheConnectionWindowBoundsAll(t *testing.T) {
	c, h, w, r := server(t, Config{})
	_ = w.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
	w.head(1, true, get()...)
	w.head(3, true, get()...)
	_ = c.Receive(w.bytes(), 0)
	r.text(t, output(c))
	c.Write(h.streams[1], make([]byte, 65535+100), true)
	if n := len(output(c)); n != 65535+4*headerLen {
		t.Errorf("%d bytes", n)
	}
	sendHead(c, h.streams[3], true, ":status", "204") // heads need no window
	want(t, "output", r.text(t, output(c)), "HEADERS 3 :status=204 end")
	_ = w.WriteWindowUpdate(0, 1000)
	_ = c.Receive(w.bytes(), 0)
	want(t, "output", r.text(t, output(c)), "DATA 1 100 end")
}

func TestAPausedStreamGivesNoWindow(t *testing.T) {
	p := newPair(t, whole)
	p.run()
	p.sh.onHead = func(s *Stream, _ *Head, _ bool) { p.server.Pause(s) }
	s := p.request(post()...)
	p.client.Write(s, make([]byte, 3<<20), true)
	p.run()
	if n := p.sh.data[1]; n != 65535 {
		t.Errorf("a paused stream got %d bytes", n)
	}
	q := p.sh.streams[1]
	p.server.Resume(q)
	p.run()
	if n := p.sh.data[1]; n != 3<<20 {
		t.Errorf("after resume %d bytes", n)
	}
	if c := p.server; c.recvWindow+c.recvOwed != 1<<20 {
		t.Errorf("the connection's window leaks: %d", c.recvWindow+c.recvOwed)
	}
}

func TestResetStreamsGiveTheirWindowBack(t *testing.T) {
	p := newPair(t, whole)
	p.run()
	p.sh.onHead = func(s *Stream, _ *Head, _ bool) { p.server.Pause(s) }
	for range 40 {
		s := p.request(post()...)
		p.client.Write(s, make([]byte, 100000), true)
		p.run()
		p.server.Reset(p.sh.streams[s.ID()], Cancel)
		p.run()
	}
	if c := p.server; c.recvWindow+c.recvOwed != 1<<20 {
		t.Errorf("the connection's window leaks: %d", c.recvWindow+c.recvOwed)
	}
	if !strings.Contains(p.ch.take(), "79 closed stream reset by peer: CANCEL") {
		t.Error("the client heard of no reset")
	}
}
