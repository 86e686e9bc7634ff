package l7

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// filteredH2 is filtered with backends that speak HTTP/2.
func filteredH2(names []string, backends ...string) string {
	return strings.Replace(filtered(names, backends...), "app: {", "app: { protocol: http2,", 1)
}

// An HTTP/2 backend's stream is over, and used again, while a phase still looks
// at its response.
func TestABlockingPhaseKeepsAnHTTP2Response(t *testing.T) {
	for name, body := range map[string]string{"with a body": "ok", "without": ""} {
		t.Run(name, func(t *testing.T) {
			blocked, release := make(chan bool), make(chan bool)
			o := startH2Origin(t, 0, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("X-Path", r.URL.Path)
				w.WriteHeader(201)
				io.WriteString(w, body)
			})
			f := Filter{Blocking: true, Response: func(s *Session, r *Response) error {
				if s.Request.Target == "/slow" {
					blocked <- true
					<-release
				}
				r.Header.Set("X-Seen", r.Header.Get("x-path"))
				return nil
			}}
			l := startLab(t, labOptions{filters: map[string]Filter{"f": f}}, filteredH2([]string{"f"}, o.addr))
			slow := l.dial().say("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
			<-blocked
			other := l.dial()
			for range 3 {
				other.get("/quick").want(t, "201", body)
			}
			release <- true
			r := slow.response()
			r.want(t, "201", body)
			if field(r.head, "x-path") != "/slow" || field(r.head, "x-seen") != "/slow" {
				t.Errorf("got\n%s", r.head)
			}
		})
	}
}

// What a backend answers meanwhile waits for the phase, HTTP/2's heads, too,
// which no pause holds back.
func TestAnEarlyResponseWaitsForABlockingPhase(t *testing.T) {
	asked, blocked, release, answered := make(chan bool), make(chan bool), make(chan bool), make(chan bool)
	o := startRawOrigin(t, func(r *raw, conn int) {
		for {
			f, err := r.fr.ReadFrame()
			if err != nil {
				return
			}
			switch f := f.(type) {
			case *http2.SettingsFrame:
				if !f.IsAck() {
					r.fr.WriteSettingsAck()
				}
			case *http2.MetaHeadersFrame:
				close(asked)
				<-blocked
				r.head(1, true, ":status", "413", "x-early", "1")
				r.fr.WritePing(false, [8]byte{1})
			case *http2.PingFrame: // its answer: the head was seen
				close(answered)
			}
		}
	})
	f := Filter{Blocking: true, RequestBody: func(_ *Session, p []byte, _ bool) ([]byte, error) {
		close(blocked)
		<-release
		return p, nil
	}}
	l := startLab(t, labOptions{filters: map[string]Filter{"f": f}}, filteredH2([]string{"f"}, o.addr))
	c := l.dial().say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n")
	<-asked
	c.say("hello")
	<-answered
	c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := c.r.Peek(1); err == nil || errText(err) != "timeout" {
		t.Errorf("answered before the phase was over: %v", err)
	}
	release <- true
	r := c.response()
	r.want(t, "413", "")
	if field(r.head, "x-early") != "1" {
		t.Errorf("got\n%s", r.head)
	}
}

// The time of a request may be over while a phase blocks and its backend's
// connection is being made.
func TestATotalTimeWaitsForABlockingPhase(t *testing.T) {
	blocked, release := make(chan bool), make(chan bool)
	o := startOrigin(t, func(c *peer) { c.rest() }) // shakes no hands
	f := Filter{Blocking: true, RequestBody: func(_ *Session, p []byte, _ bool) ([]byte, error) {
		blocked <- true
		<-release
		return p, nil
	}}
	document := strings.Replace(routed("timeout: { total: 100ms }, filters: [{f: {}}]", o.addr), "app: {", "app: { tls: { insecure: true },", 1)
	l := startLab(t, labOptions{filters: map[string]Filter{"f": f}}, document)
	c := l.dial().say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
	<-blocked
	c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	if _, err := c.r.Peek(1); err == nil || errText(err) != "timeout" {
		t.Errorf("answered before the phase was over: %v", err)
	}
	release <- true
	c.response().want(t, "504", "504 Gateway Timeout: upstream_timeout\n")
	for l.proxy.blocking.Load() > 0 {
	}
}
