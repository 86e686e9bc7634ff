package main

import (
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"

	"github.com/cirque-lb/lb/bench/rig"
)

// link dials the proxy's HTTP/2 address and closes when the case is over.
func (w *world) link(use func(*rig.Link) string, settings ...http2.Setting) string {
	l, err := rig.Dial(w.h2, patience, settings...)
	if err != nil {
		return "cannot connect: " + err.Error()
	}
	defer l.Close()
	return use(l)
}

// refuses sends a request, a body if there is one, and says what came of it
// and how many requests the origin got.
func refuses(head []string, body ...string) func(*world) string {
	return func(w *world) string {
		return w.link(func(l *rig.Link) string {
			l.Say(1, len(body) == 0, head...)
			for i, data := range body {
				l.Put(1, i == len(body)-1, data)
			}
			return fmt.Sprintf("%s, up %d", l.Await(1).Said(), len(w.requests()))
		})
	}
}

// upH2 is up by HTTP/2, downH2 down.
func upH2(head []string, show func(request) string) func(*world) string {
	return func(w *world) string {
		return w.link(func(l *rig.Link) string {
			l.Say(1, true, head...)
			a := l.Await(1)
			if got := w.requests(); len(got) == 1 {
				return a.Said() + " " + show(got[0])
			}
			return fmt.Sprintf("%s, up %d", a.Said(), len(w.requests()))
		})
	}
}

func downH2(head []string, show func(*rig.Answer) string) func(*world) string {
	return func(w *world) string {
		return w.link(func(l *rig.Link) string {
			l.Say(1, true, head...)
			a := l.Await(1)
			return a.Said() + " " + show(a)
		})
	}
}

// shortH2 announces five bytes and ends after two, when the origin has the head.
func shortH2(w *world) string {
	return w.link(func(l *rig.Link) string {
		l.Say(1, false, askAs("POST", "content-length", "5")...)
		streamed := w.waitFor(300*time.Millisecond, func() bool { return len(w.requests()) > 0 }) // no: it buffers requests
		l.Put(1, true, "ab")
		a := l.Await(1)
		if !streamed {
			return fmt.Sprintf("%s, up %d", a.Said(), len(w.requests()))
		}
		w.wait(func() bool { return len(w.requests()) > 1 })
		if got := w.requests(); len(got) == 2 {
			return fmt.Sprintf("%s, up 1 %s", a.Said(), got[1].line)
		}
		return fmt.Sprintf("%s, up %d", a.Said(), len(w.requests()))
	})
}

func announces(id http2.SettingID) func(*world) string {
	return func(w *world) string {
		return w.link(func(l *rig.Link) string {
			l.Say(1, true, ask()...)
			l.Await(1)
			if _, ok := l.Settings[id]; ok {
				return "announced"
			}
			return "no"
		})
	}
}

// bomb sets one large field and refers to it until the list is 12 MB.
func bomb(w *world) string {
	return w.link(func(l *rig.Link) string {
		block := append([]byte(nil), l.Fields(ask("x", strings.Repeat("a", 3900))...)...)
		for range 3000 {
			block = append(block, 0x80|62) // the newest entry of the dynamic table
		}
		l.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block, EndStream: true, EndHeaders: true})
		return fmt.Sprintf("%s, up %d", l.Await(1).Said(), len(w.requests()))
	})
}

// flood sends frames until the connection ends, and says how it did.
func flood(n int, frame func(l *rig.Link, i int) error) func(*world) string {
	return func(w *world) string {
		return w.link(func(l *rig.Link) string {
			l.NoAck = true // it would meet the frames of the flood
			sent := make(chan bool)
			go func() {
				defer close(sent)
				l.SetWriteDeadline(time.Now().Add(patience))
				for i := 0; i < n && frame(l, i) == nil; i++ {
				}
			}()
			how := l.Rest()
			l.Close()
			<-sent
			return how
		})
	}
}

func continuations(size int) func(*rig.Link, int) error {
	part := []byte(strings.Repeat("\x00\x01x\x7f\x00", size/5+1))[:size]
	copy(part, literal(size))
	return func(l *rig.Link, i int) error {
		if i == 0 {
			return l.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x82}})
		}
		return l.WriteContinuation(1, false, part)
	}
}

// literal is a field of exactly size bytes that enters no table.
func literal(size int) []byte {
	if size < 300 {
		return nil
	}
	b := []byte{0x00, 0x01, 'x', 0x7f}
	n := size - 7 - 127
	b = append(b, byte(n&0x7f|0x80), byte(n>>7&0x7f|0x80), byte(n>>14))
	return append(b, strings.Repeat("y", size-7)...)[:size]
}

func rapidReset(l *rig.Link, i int) error {
	if err := l.Say(uint32(2*i+1), true, ask()...); err != nil {
		return err
	}
	return l.WriteRSTStream(uint32(2*i+1), http2.ErrCodeCancel)
}

func makeReset(window uint32) func(*rig.Link, int) error {
	return func(l *rig.Link, i int) error {
		if err := l.Say(uint32(2*i+1), false, askAs("POST")...); err != nil {
			return err
		}
		return l.WriteWindowUpdate(uint32(2*i+1), window)
	}
}

// manyStreams opens 300, none of which is answered.
func manyStreams(w *world) string {
	return w.link(func(l *rig.Link) string {
		for i := range 300 {
			l.Say(uint32(2*i+1), true, ask()...)
		}
		refused, other := 0, ""
		l.Patience = 700 * time.Millisecond
		l.Rest()
		for i := range 300 {
			switch a := l.Of(uint32(2*i + 1)); a.End {
			case "":
			case "RST REFUSED_STREAM":
				refused++
			default:
				other = ", " + a.Said()
			}
		}
		if l.Gone() != "silence" {
			other += ", " + l.Gone()
		}
		return fmt.Sprintf("%d taken, others REFUSED_STREAM%s", 300-refused, other)
	})
}

func requestTrailers(w *world) string {
	return w.link(func(l *rig.Link) string {
		l.Say(1, false, askAs("POST", "trailer", "x-t")...)
		l.Put(1, false, "ab")
		l.Say(1, true, "x-t", "1")
		a := l.Await(1)
		if got := w.requests(); len(got) == 1 {
			return fmt.Sprintf("%s %s, trailer %s", a.Said(), got[0].body, got[0].trailer.get("x-t"))
		}
		return fmt.Sprintf("%s, up %d", a.Said(), len(w.requests()))
	})
}

func early413H2(w *world) string {
	return w.link(func(l *rig.Link) string {
		l.Say(1, false, askAs("POST", "content-length", "100000")...)
		l.Put(1, false, "some")
		a := l.Await(1)
		l.Patience = 500 * time.Millisecond
		for a.After == "" && l.Step() {
		}
		after := a.After
		if after == "" {
			after = "nothing"
		}
		return a.Said() + " END, then " + after
	})
}

func cancelH2(w *world) string {
	return w.link(func(l *rig.Link) string {
		l.Say(1, true, ask()...)
		w.wait(func() bool { return len(w.requests()) > 0 })
		l.WriteRSTStream(1, http2.ErrCodeCancel)
		if !w.wait(func() bool { return len(w.requests()) > 1 }) || w.requests()[1].line == "silence" {
			return "origin's connection stays open"
		}
		return "origin's connection closed soon"
	})
}

func tunnelH2(w *world) string {
	return w.link(func(l *rig.Link) string {
		const connect = http2.SettingEnableConnectProtocol
		for l.Settings[connect] == 0 && len(l.Settings) == 0 && l.Step() {
		}
		if l.Settings[connect] != 1 {
			return "not announced"
		}
		l.Say(1, false, ":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":path", "/x", ":authority", "a", "sec-websocket-version", "13")
		a := l.Of(1)
		for len(a.Body) < 5 && a.End == "" && l.Step() {
		}
		hello := a.Body
		l.Put(1, false, "ping")
		for len(a.Body) < 9 && a.End == "" && l.Step() {
		}
		return fmt.Sprintf("%s %s, ping: %s", a.Head.Get(":status"), hello, strings.TrimPrefix(a.Body, hello))
	})
}

// thinksThenAnswers answers when the proxy has begun to drain.
func thinksThenAnswers(c *conn) {
	if probe(c) {
		return
	}
	c.request()
	time.Sleep(1500 * time.Millisecond) // longer than the step between two GOAWAYs
	c.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
}

// drains asks the proxy to leave while a request runs.
func drains(w *world) string {
	if w.drain == nil {
		return "skipped: nobody to ask"
	}
	return w.link(func(l *rig.Link) string {
		l.Say(1, true, ask()...)
		w.wait(func() bool { return len(w.requests()) > 0 })
		if err := w.drain(); err != nil {
			return err.Error()
		}
		a := l.Await(1)
		var said strings.Builder
		for _, last := range l.Last {
			if last == 1 {
				said.WriteString("GOAWAY last, ")
			} else {
				fmt.Fprintf(&said, "GOAWAY %d, ", last)
			}
		}
		return said.String() + a.Said()
	})
}

// originH2 is a backend that speaks HTTP/2, frame by frame.
type originH2 struct {
	ln       net.Listener
	attempts atomic.Int32
	do       atomic.Pointer[func(*http2.Framer, uint32) bool] // what becomes of the first attempt; true: no more frames
}

func startOriginH2() (*originH2, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	o := &originH2{ln: ln}
	go o.runAccept()
	return o, nil
}

// runAccept ends when the listener is closed.
func (o *originH2) runAccept() {
	for {
		c, err := o.ln.Accept()
		if err != nil {
			return
		}
		go o.serve(c)
	}
}

// serve answers every request but the first of a case.
func (o *originH2) serve(c net.Conn) {
	defer c.Close()
	fr := http2.NewFramer(c, c)
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := c.Read(preface); err != nil {
		return
	}
	fr.WriteSettings()
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			return
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				fr.WriteSettingsAck()
			}
		case *http2.HeadersFrame:
			if o.attempts.Add(1) == 1 {
				if (*o.do.Load())(fr, f.StreamID) {
					return
				}
				continue
			}
			fr.WriteHeaders(http2.HeadersFrameParam{StreamID: f.StreamID, BlockFragment: []byte{0x88}, EndHeaders: true, EndStream: true})
		}
	}
}

func goawayOnce(fr *http2.Framer, id uint32) bool {
	fr.WriteGoAway(id-1, http2.ErrCodeNo, nil)
	return true
}

func refuseOnce(fr *http2.Framer, id uint32) bool {
	fr.WriteRSTStream(id, http2.ErrCodeRefusedStream)
	return false
}

// viaH2 sends a POST to the route whose backend speaks HTTP/2.
func viaH2(first func(*http2.Framer, uint32) bool) func(*world) string {
	return func(w *world) string {
		if w.backendH2 == nil {
			return "skipped: no HTTP/2 backend"
		}
		w.backendH2.attempts.Store(0)
		w.backendH2.do.Store(&first)
		return w.link(func(l *rig.Link) string {
			f := askAs("POST")
			f[5] = "/h2/"
			l.Say(1, false, f...)
			l.Put(1, true, "body")
			a := l.Await(1)
			return fmt.Sprintf("%s after %d attempts", a.Said(), w.backendH2.attempts.Load())
		})
	}
}
