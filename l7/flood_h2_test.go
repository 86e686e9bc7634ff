package l7

import (
	"io"
	"sync"
	"testing"

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
