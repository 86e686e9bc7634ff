package l7

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// Innocent clients beside attackers.
func TestH2FloodsLeaveTheInnocentAlone(t *testing.T) {
	o := startOrigin(t, answering(ok))
	l := startLab(t, labOptions{}, pool(o.addr))
	for name, frame := range map[string]func(r *raw, i int) error{
		"rapid reset": func(r *raw, i int) error {
			r.head(uint32(2*i+1), true, request("GET", "/")...)
			return r.fr.WriteRSTStream(uint32(2*i+1), http2.ErrCodeCancel)
		},
		"PING":     func(r *raw, i int) error { return r.fr.WritePing(false, [8]byte{}) },
		"SETTINGS": func(r *raw, i int) error { return r.fr.WriteSettings() },
		"made you reset": func(r *raw, i int) error {
			r.head(uint32(2*i+1), true, request("GET", "/")...)
			return r.fr.WriteWindowUpdate(uint32(2*i+1), 0)
		},
		"made you reset: bytes for a tunnel that is not open": func(r *raw, i int) error {
			r.head(uint32(2*i+1), false, extended("/")...)
			return r.fr.WriteData(uint32(2*i+1), false, []byte("x"))
		},
		"empty DATA": func(r *raw, i int) error {
			if i == 0 {
				r.head(1, false, request("POST", "/")...)
			}
			return r.fr.WriteData(1, false, nil)
		},
		"CONTINUATION": func(r *raw, i int) error {
			if i == 0 {
				r.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x82}})
			}
			return r.fr.WriteContinuation(1, false, nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			var attacks, ended int
			var attackers sync.WaitGroup
			stop := make(chan bool)
			attackers.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						attacks++
						if l.attack(frame) {
							ended++
						}
					}
				}
			})
			c := l.h2c()
			for i := range 300 {
				if res, body := l.do(c, "GET", "/", nil); res.StatusCode != 200 || body != "ok" {
					t.Errorf("request %d: %d %q", i, res.StatusCode, body)
				}
			}
			close(stop)
			attackers.Wait()
			if attacks != ended {
				t.Errorf("%d of %d attacks met no GOAWAY", attacks-ended, attacks)
			}
		})
	}
}

// attack sends frames until the connection ends and reports whether the proxy
// told to calm down.
func (l *lab) attack(frame func(r *raw, i int) error) (calmed bool) {
	r := l.raw()
	defer r.c.Close()
	var sending sync.WaitGroup
	sending.Go(func() {
		for i := range 5000 {
			if frame(r, i) != nil {
				return
			}
		}
	})
	defer sending.Wait()
	fr := http2.NewFramer(io.Discard, r.c)
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			return calmed
		}
		if g, ok := f.(*http2.GoAwayFrame); ok && g.ErrCode == http2.ErrCodeEnhanceYourCalm {
			calmed = true
		}
	}
}

// Clients that ask for much and take nothing are given so much, and no more than
// the backend has room for.
func TestH2ClientsThatTakeNothingGetNoMore(t *testing.T) {
	big := strings.Repeat("x", 10_000)
	o := startOrigin(t, func(c *peer) {
		for head := c.request(); head != ""; head = c.request() {
			if strings.HasPrefix(head, "GET /big") {
				c.say("HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n" + big) // half of it
				continue
			}
			c.say(ok)
		}
	})
	l := startLab(t, labOptions{}, pool(o.addr))
	l.impatient(func(t *timesH2) { t.stall = patience })
	innocent := l.h2c()
	var greedy []*raw
	ask := func(r *raw, from, n int) (answered, refused int) {
		for i := range n {
			r.head(uint32(2*(from+i)+1), true, request("GET", "/big")...)
		}
		for range n {
			switch f := r.next(); {
			case strings.HasPrefix(f, "HEADERS"):
				answered++
			case strings.HasSuffix(f, "REFUSED_STREAM"):
				refused++
			default:
				t.Fatal(f)
			}
		}
		return answered, refused
	}
	open := func() *raw {
		r := l.raw()
		r.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
		greedy = append(greedy, r)
		return r
	}
	if answered, _ := ask(open(), 0, 100); answered != 100 {
		t.Errorf("%d answered of the first hundred", answered)
	}
	if answered, _ := ask(open(), 0, 50); answered != stuckMost-100-1 {
		t.Errorf("%d answered of the next", answered)
	}
	if answered, _ := ask(open(), 0, 50); answered != stuckEach-1 {
		t.Errorf("%d answered of a third client's", answered)
	}
	for range 20 {
		if res, body := l.do(innocent, "GET", "/", nil); res.StatusCode != 200 || body != "ok" {
			t.Errorf("an innocent got %d %q", res.StatusCode, body)
		}
	}
	for _, r := range greedy[:len(greedy)-1] {
		r.c.Close()
	}
	r := greedy[len(greedy)-1]
	for n, answered := 50, 0; answered < 40; n++ { // it may take until the others' end is seen
		a, _ := ask(r, n, 1)
		answered += a
	}
}

// Nor do those whose windows are full.
func TestH2ClientsThatStopTakingGetNoMore(t *testing.T) {
	o := startOrigin(t, func(c *peer) {
		for c.request() != "" {
			c.say("HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n" + strings.Repeat("x", 1000))
		}
	})
	l := startLab(t, labOptions{}, pool(o.addr))
	l.impatient(func(t *timesH2) { t.stall = patience })
	for range 2 {
		r := l.raw()
		r.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 500})
		for i := range 90 {
			r.head(uint32(2*i+1), true, request("GET", "/")...)
		}
	}
	r := l.raw()
	r.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 500})
	for id := uint32(1); id < 200; id += 2 {
		r.head(id, true, request("GET", "/")...)
		for f := ""; !strings.HasPrefix(f, "DATA"); {
			if f = r.next(); f == fmt.Sprintf("RST %d REFUSED_STREAM", id) {
				return
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Error("nothing was refused")
}
