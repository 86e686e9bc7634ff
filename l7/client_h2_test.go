package l7

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// startH2Origin serves HTTP/2 in clear text by net/http.
func startH2Origin(t testing.TB, streams int, h http.HandlerFunc) *origin {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := &origin{addr: ln.Addr().String()}
	server := &http.Server{Handler: h, Protocols: clearH2(), HTTP2: &http.HTTP2Config{MaxConcurrentStreams: streams}}
	server.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			o.conns.Add(1)
		}
	}
	var serving sync.WaitGroup
	serving.Go(func() { server.Serve(ln) })
	t.Cleanup(func() { server.Close(); serving.Wait() })
	return o
}

func clearH2() *http.Protocols {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return p
}

// startRawOrigin serves HTTP/2 frame by frame.
func startRawOrigin(t testing.TB, script func(r *raw, conn int), settings ...http2.Setting) *origin {
	t.Helper()
	return startOrigin(t, func(p *peer) {
		preface := make([]byte, len(http2.ClientPreface))
		if _, err := io.ReadFull(p.Conn, preface); err != nil {
			return // made for a request that was given up
		}
		if string(preface) != http2.ClientPreface {
			t.Errorf("preface %q", preface)
		}
		script(newRawEnd(t, p.Conn, settings...), p.number)
	})
}

// poolH2 is pool with backends that speak HTTP/2.
func poolH2(protocol string, backends ...string) string {
	return strings.Replace(pool(backends...), "app: {", "app: { protocol: "+protocol+",", 1)
}

func echoH2(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	w.Header().Set("X-Proto", r.Proto)
	w.Header().Set("Trailer", "X-Sum")
	fmt.Fprintf(w, "%s %s %s %s te=%q sum=%q\n", r.Method, r.Host, r.URL, r.Header.Get("X-Forwarded-Proto"), r.Header.Get("Te"), r.Trailer.Get("X-Sum"))
	if len(body) > 1000 {
		body = fmt.Appendf(nil, "%d bytes", len(body))
	}
	w.Write(body)
	w.Header().Set("X-Sum", fmt.Sprint(len(body)))
}

func TestHTTP2BackendsServeBothProtocols(t *testing.T) {
	o := startH2Origin(t, 0, echoH2)
	l := startLab(t, labOptions{}, poolH2("http2", o.addr))
	h1 := &http.Client{Timeout: patience}
	for name, c := range map[string]*http.Client{"HTTP/1": h1, "HTTP/2": l.h2c()} {
		t.Run(name, func(t *testing.T) {
			res, body := l.do(c, "GET", "/x?y", nil)
			want := "GET " + l.addr + " /x?y http te=\"\" sum=\"\"\n"
			if res.StatusCode != 200 || body != want || res.Header.Get("X-Proto") != "HTTP/2.0" {
				t.Errorf("got %v %q, want %q", res, body, want)
			}
			if name == "HTTP/2" && res.Trailer.Get("X-Sum") != "0" {
				t.Errorf("trailers %v", res.Trailer)
			}
			_, body = l.do(c, "POST", "/", strings.NewReader("hello"))
			if !strings.HasSuffix(body, "\nhello") {
				t.Errorf("got %q", body)
			}
			_, body = l.do(c, "POST", "/", strings.NewReader(strings.Repeat("x", 3<<20)))
			if !strings.HasSuffix(body, "\n3145728 bytes") {
				t.Errorf("got %q", body)
			}
			if res, body = l.do(c, "HEAD", "/", nil); res.StatusCode != 200 || body != "" {
				t.Errorf("HEAD: %v %q", res, body)
			}
		})
	}
	h1.CloseIdleConnections()
	if n := o.conns.Load(); n != 1 {
		t.Errorf("%d connections to the backend, want 1", n)
	}
}

func TestHTTP2BackendsSeeTheirStreamLimitKept(t *testing.T) {
	var running, most atomic.Int64
	o := startH2Origin(t, 4, func(w http.ResponseWriter, r *http.Request) {
		n := running.Add(1)
		defer running.Add(-1)
		for {
			if old := most.Load(); n <= old || most.CompareAndSwap(old, n) {
				break
			}
		}
		io.WriteString(w, r.URL.Path)
	})
	l := startLab(t, labOptions{}, poolH2("http2", o.addr))
	c := l.h2c()
	l.do(c, "GET", "/warm", nil)
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			for j := range 10 {
				path := fmt.Sprintf("/%d/%d", i, j)
				if res, body := l.do(c, "GET", path, nil); res.StatusCode != 200 || body != path {
					t.Errorf("%s: %d %q", path, res.StatusCode, body)
				}
			}
		})
	}
	wg.Wait()
	if n := o.conns.Load(); n < 2 || n > 30 {
		t.Errorf("%d connections", n)
	}
}

func TestRefusedStreamsAreTriedAgain(t *testing.T) {
	for _, x := range []struct {
		name   string
		method string
		body   string
		refuse func(r *raw, id uint32)
	}{
		{"REFUSED_STREAM", "GET", "", func(r *raw, id uint32) { r.fr.WriteRSTStream(id, http2.ErrCodeRefusedStream) }},
		{"REFUSED_STREAM of a POST", "POST", "hello", func(r *raw, id uint32) { r.fr.WriteRSTStream(id, http2.ErrCodeRefusedStream) }},
		{"GOAWAY below the stream", "POST", "hello", func(r *raw, id uint32) { r.fr.WriteGoAway(0, http2.ErrCodeNo, nil) }},
	} {
		t.Run(x.name, func(t *testing.T) {
			var seen atomic.Int64
			o := startRawOrigin(t, func(r *raw, _ int) {
				for {
					id := r.awaitRequest()
					if id == 0 {
						return
					}
					if seen.Add(1) == 2 {
						x.refuse(r, id)
						continue
					}
					r.head(id, false, ":status", "200")
					r.fr.WriteData(id, true, []byte("ok"))
				}
			})
			l := startLab(t, labOptions{}, poolH2("http2", o.addr))
			c := l.h2c()
			for range 3 {
				res, body := l.do(c, x.method, "/", strings.NewReader(x.body))
				if res.StatusCode != 200 || body != "ok" {
					t.Errorf("got %d %q", res.StatusCode, body)
				}
			}
			if seen.Load() != 4 {
				t.Errorf("the backend saw %d requests, want 4", seen.Load())
			}
		})
	}
}

func TestHTTP2BackendFaults(t *testing.T) {
	for _, x := range []struct {
		name   string
		answer func(r *raw, id uint32)
		want   string // of a client that speaks HTTP/2
	}{
		{"reset before the head", func(r *raw, id uint32) { r.fr.WriteRSTStream(id, http2.ErrCodeInternal) }, "502"},
		{"reset inside the body", func(r *raw, id uint32) {
			r.head(id, false, ":status", "200")
			r.fr.WriteData(id, false, []byte("abc"))
			r.fr.WriteRSTStream(id, http2.ErrCodeInternal)
		}, "200 cut"},
		{"shorter than its length", func(r *raw, id uint32) {
			r.head(id, false, ":status", "200", "content-length", "5")
			r.fr.WriteData(id, true, []byte("abc"))
		}, "200 cut"},
		{"no status", func(r *raw, id uint32) { r.head(id, true, "x", "y") }, "502"},
		{"garbage", func(r *raw, id uint32) { io.WriteString(r.c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") }, "502"},
		{"the connection's end inside the body", func(r *raw, id uint32) {
			r.head(id, false, ":status", "200")
			r.fr.WriteData(id, false, []byte("abc"))
			r.c.(*net.TCPConn).CloseWrite()
		}, "200 cut"},
		{"103, then the end", func(r *raw, id uint32) {
			r.head(id, false, ":status", "103")
			r.c.(*net.TCPConn).CloseWrite()
		}, "502"},
		{"a head over the limit", func(r *raw, id uint32) {
			kv := []string{":status", "200"}
			for i := range 8 {
				kv = append(kv, fmt.Sprint("x", i), strings.Repeat("y", 9000))
			}
			r.head(id, true, kv...)
		}, "502"},
	} {
		t.Run(x.name, func(t *testing.T) {
			o := startRawOrigin(t, func(r *raw, _ int) {
				for {
					id := r.awaitRequest()
					if id == 0 {
						return
					}
					x.answer(r, id)
				}
			})
			l := startLab(t, labOptions{}, poolH2("http2", o.addr))
			res, body := l.do(l.h2c(), "POST", "/", strings.NewReader("x"))
			got := fmt.Sprint(res.StatusCode)
			if strings.Contains(body, "<") {
				got += " cut"
			}
			if got != x.want {
				t.Errorf("got %s %q, want %s", got, body, x.want)
			}
		})
	}
}

func TestAnAbandonedRequestIsResetAtTheBackend(t *testing.T) {
	arrived, reset := make(chan bool, 1), make(chan bool, 1)
	o := startRawOrigin(t, func(r *raw, _ int) {
		r.awaitRequest()
		arrived <- true
		r.awaitRequest()
		reset <- r.resets.Load() > 0
	})
	l := startLab(t, labOptions{}, poolH2("http2", o.addr))
	r := l.raw()
	r.head(1, true, request("GET", "/")...)
	<-arrived
	r.fr.WriteRSTStream(1, http2.ErrCodeCancel)
	r.head(3, true, request("GET", "/")...)
	select {
	case ok := <-reset:
		if !ok {
			t.Error("no RST_STREAM")
		}
	case <-time.After(patience):
		t.Error("the backend heard nothing")
	}
}

// Both directions of a stream flow at the same time.
func TestStreamingBothWays(t *testing.T) {
	o := startH2Origin(t, 0, func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).EnableFullDuplex()
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		b := make([]byte, 100)
		for {
			n, err := r.Body.Read(b)
			if n > 0 {
				w.Write([]byte(strings.ToUpper(string(b[:n]))))
				w.(http.Flusher).Flush()
			}
			if err != nil {
				return
			}
		}
	})
	l := startLab(t, labOptions{}, poolH2("http2", o.addr))
	c := l.h2c()
	pr, pw := io.Pipe()
	req, _ := http.NewRequest("POST", "http://"+l.addr+"/", pr)
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	for _, s := range []string{"one", "two", "three"} {
		io.WriteString(pw, s)
		n, err := io.ReadFull(res.Body, b[:len(s)])
		if err != nil || string(b[:n]) != strings.ToUpper(s) {
			t.Fatalf("got %q, %v", b[:n], err)
		}
	}
	pw.Close()
	if rest, err := io.ReadAll(res.Body); len(rest) > 0 || err != nil {
		t.Errorf("got %q, %v", rest, err)
	}
}

func TestABackendThatTakesNoStreamsIsLeftAlone(t *testing.T) {
	o := startRawOrigin(t, func(r *raw, _ int) { r.awaitRequest() }, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 0})
	l := startLab(t, labOptions{}, poolH2("http2", o.addr))
	res, body := l.do(l.h2c(), "GET", "/", nil)
	if res.StatusCode != 503 || o.conns.Load() > 2 {
		t.Errorf("got %d %q over %d connections", res.StatusCode, body, o.conns.Load())
	}
}
