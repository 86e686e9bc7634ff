package l7

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// A phase off the loop takes its time; what the exchange waited for before it is
// no reason to end it.
func TestABlockingPhaseMayTakeLongerThanConnecting(t *testing.T) {
	const slow = 400 * time.Millisecond
	impatient := func(document string) string {
		return strings.Replace(document, "app: {", "app: { connections: { connect_timeout: 200ms, per_backend: 1 },", 1)
	}
	for name, f := range map[string]Filter{
		"Upstream": {Upstream: func(*Session, *Request) error { time.Sleep(slow); return nil }},
		"Pick":     {Pick: func(*Session) (*Backend, error) { time.Sleep(slow); return nil, nil }},
		"Retry":    {Retry: func(*Session, error) bool { time.Sleep(slow); return true }},
		"RequestBody": {RequestBody: func(_ *Session, p []byte, _ bool) ([]byte, error) {
			time.Sleep(slow)
			return p, nil
		}},
		"Response": {Response: func(*Session, *Response) error { time.Sleep(slow); return nil }},
	} {
		f.Blocking = true
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := startOrigin(t, echo)
			l := startLab(t, labOptions{filters: map[string]Filter{"f": f}}, impatient(filtered([]string{"f"}, deadPort(t), o.addr)))
			c := l.dial()
			for range 2 {
				c.say("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab").response().want(t, "200", "PUT / HTTP/1.1|ab")
			}
		})
	}
}

// The same after a request waited for room: the place in the queue is not
// waited for any more.
func TestABlockingPhaseMayTakeLongerThanQueueing(t *testing.T) {
	f := Filter{Blocking: true, Upstream: func(*Session, *Request) error { time.Sleep(600 * time.Millisecond); return nil }}
	o := startOrigin(t, echo)
	l := startLab(t, labOptions{filters: map[string]Filter{"f": f}},
		strings.Replace(filtered([]string{"f"}, o.addr), "app: {", "app: { connections: { connect_timeout: 1s, per_backend: 1 },", 1))
	var clients sync.WaitGroup
	for range 2 {
		clients.Go(func() {
			r := l.dial().get("/")
			if !strings.HasPrefix(r.status, "HTTP/1.1 200") {
				t.Errorf("got %s %s", r.status, r.body)
			}
		})
	}
	clients.Wait()
}

// A filter that looks at a response off the loop, or when all is over, has that
// response before it, however the backend's stream has ended meanwhile and
// whatever others ask.
func TestAnHTTP2BackendsResponseStaysForFilters(t *testing.T) {
	o := startRawOrigin(t, func(r *raw, _ int) {
		for {
			id, path := r.awaitPath()
			if id == 0 {
				return
			}
			switch {
			case strings.Contains(path, "bodyless"):
				r.head(id, true, ":status", "204", "x-path", path)
			case strings.Contains(path, "trailers"):
				r.head(id, false, ":status", "200", "x-path", path)
				r.head(id, true, "x-end", path)
			case strings.Contains(path, "cut"):
				r.head(id, false, ":status", "200", "x-path", path)
				r.fr.WriteRSTStream(id, http2.ErrCodeInternal)
			case strings.Contains(path, "silent"):
				r.head(id, false, ":status", "200", "x-path", path)
			default:
				r.head(id, false, ":status", "200", "x-path", path)
				r.fr.WriteData(id, true, []byte("body"))
			}
		}
	})
	for _, blocking := range []bool{true, false} {
		for _, phase := range []string{"Response", "Log"} {
			for _, kind := range []string{"bodyless", "whole", "trailers", "cut", "silent"} {
				t.Run(fmt.Sprintf("%s %s blocking=%v", phase, kind, blocking), func(t *testing.T) {
					f := Filter{Blocking: blocking}
					look := func(s *Session) {
						for range 3 {
							if s.Response == nil || s.Response.Status < 200 || s.Response.Header.Get("x-path") != s.Request.Target {
								t.Errorf("%s: the filter sees %+v", s.Request.Target, s.Response)
								return
							}
							if blocking {
								time.Sleep(5 * time.Millisecond)
							}
						}
					}
					if phase == "Response" {
						f.Response = func(s *Session, _ *Response) error { look(s); return nil }
					} else {
						f.Log = func(s *Session, _ error) { look(s) }
					}
					document := strings.Replace(filtered([]string{"f"}, o.addr), "app: {", "app: { protocol: http2,", 1)
					l := startLab(t, labOptions{filters: map[string]Filter{"f": f}}, document)
					var clients sync.WaitGroup
					for i := range 4 {
						clients.Go(func() {
							for j := range 4 {
								c := l.dial().say(fmt.Sprintf("GET /%s/%d/%d HTTP/1.1\r\nHost: a\r\n\r\n", kind, i, j))
								if kind == "silent" {
									c.head() // and leaves
								} else {
									c.response()
								}
								c.Close()
							}
						})
					}
					clients.Wait()
					wantNothingLeft(t, l)
				})
			}
		}
	}
}

// awaitPath reads a request without a body; 0 at the end.
func (r *raw) awaitPath() (uint32, string) {
	for {
		f, err := r.fr.ReadFrame()
		if err != nil {
			return 0, ""
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				r.fr.WriteSettingsAck()
			}
		case *http2.MetaHeadersFrame:
			return f.StreamID, f.PseudoValue("path")
		}
	}
}
