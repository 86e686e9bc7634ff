package l7

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// h2c is an HTTP/2 client in clear text.
func (l *lab) h2c() *http.Client {
	tr := &http.Transport{Protocols: clearH2()}
	l.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience}
}

func (l *lab) do(c *http.Client, method, path string, body io.Reader, header ...string) (*http.Response, string) {
	l.t.Helper()
	req, err := http.NewRequest(method, "http://"+l.addr+path, body)
	if err != nil {
		l.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	res, err := c.Do(req)
	if err != nil {
		l.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return res, string(b) + "<" + err.Error() + ">"
	}
	return res, string(b)
}

// echoing answers with the request: its line, its fields, its body.
func echoing(c *peer) {
	for {
		head := c.request()
		if head == "" {
			return
		}
		var body, trailer string
		switch {
		case field(head, "transfer-encoding") == "chunked":
			body, trailer = c.chunks()
		case field(head, "content-length") != "":
			n := 0
			fmt.Sscan(field(head, "content-length"), &n)
			body = c.body(n)
		}
		if len(body) > 1000 {
			body = fmt.Sprintf("%d bytes of %q", len(body), body[:1])
		}
		text := head + "\n\n" + body + "\n" + trailer
		c.say(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\nX-Mixed-Case: 1\r\nConnection: x-hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n\r\n%s", len(text), text))
	}
}

func TestH2RequestsReachAnHTTP1Backend(t *testing.T) {
	o := startOrigin(t, echoing)
	l := startLab(t, labOptions{}, pool(o.addr))
	c := l.h2c()
	res, body := l.do(c, "GET", "/x?y=%20", nil, "X-A", "1", "X_B", "2", "Cookie", "a=1", "Te", "trailers")
	if res.StatusCode != 200 || res.ProtoMajor != 2 || res.Header.Get("X-Mixed-Case") != "1" || res.Header.Get("Date") == "" {
		t.Errorf("got %v", res)
	}
	for _, name := range []string{"Connection", "Keep-Alive", "X-Hop", "Transfer-Encoding"} {
		if v, has := res.Header[name]; has {
			t.Errorf("%s: %v came through", name, v)
		}
	}
	if !strings.HasPrefix(body, "GET /x?y=%20 HTTP/1.1\nHost: "+l.addr) || field(body, "x-a") != "1" || field(body, "x_b") != "" ||
		field(body, "cookie") != "a=1" || field(body, "x-forwarded-proto") != "http" || field(body, "te") != "" {
		t.Errorf("the backend saw\n%s", body)
	}
	_, body = l.do(c, "POST", "/", strings.NewReader("hello"))
	if field(body, "content-length") != "5" || !strings.HasSuffix(body, "\n\nhello\n") {
		t.Errorf("the backend saw\n%s", body)
	}
	_, body = l.do(c, "POST", "/", io.MultiReader(strings.NewReader("hel"), strings.NewReader("lo")))
	if field(body, "transfer-encoding") != "chunked" || !strings.HasSuffix(body, "\n\nhello\n") {
		t.Errorf("the backend saw\n%s", body)
	}
	_, body = l.do(c, "POST", "/", bytes.NewReader(make([]byte, 3<<20)))
	if !strings.HasSuffix(body, "3145728 bytes of \"\\x00\"\n") {
		t.Errorf("the backend saw\n%s", body)
	}
	res, body = l.do(c, "HEAD", "/", nil)
	if res.StatusCode != 200 || body != "" || res.ContentLength <= 0 {
		t.Errorf("HEAD: %v %q", res, body)
	}
}

func TestH2StreamsRunTogether(t *testing.T) {
	o := startOrigin(t, echoing)
	l := startLab(t, labOptions{}, pool(o.addr))
	c := l.h2c()
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			for j := range 20 {
				path := fmt.Sprintf("/%d/%d", i, j)
				res, body := l.do(c, "POST", path, strings.NewReader(path))
				if res.StatusCode != 200 || !strings.HasPrefix(body, "POST "+path+" ") || !strings.HasSuffix(body, "\n\n"+path+"\n") {
					t.Errorf("%s: %d %q", path, res.StatusCode, body)
				}
			}
		})
	}
	wg.Wait()
}

func TestH2LargeBodiesComeWhole(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 1<<18) // 4 MiB
	o := startOrigin(t, answering(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(big), big)))
	l := startLab(t, labOptions{}, pool(o.addr))
	c := l.h2c()
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			if _, body := l.do(c, "GET", "/", nil); body != big {
				t.Errorf("%d bytes, want %d", len(body), len(big))
			}
		})
	}
	wg.Wait()
}

func TestH2RefusedRequests(t *testing.T) {
	o := startOrigin(t, answering(ok))
	l := startLab(t, labOptions{}, pool(o.addr))
	for _, x := range []struct {
		name   string
		kv     []string
		status string
	}{
		{"space in :path", request("GET", "/x HTTP/1.1"), "400"},
		{"a fragment in :path", request("GET", "/x#y"), "400"},
		{"host differs from :authority", request("GET", "/", "host", "evil"), "400"},
		{"neither host nor :authority", []string{":method", "GET", ":scheme", "http", ":path", "/"}, "400"},
		{"user information", []string{":method", "GET", ":scheme", "http", ":authority", "u@a", ":path", "/"}, "400"},
		{"* of GET", request("GET", "*"), "400"},
		{"TRACE", request("TRACE", "/"), "405"},
		{"CONNECT", []string{":method", "CONNECT", ":authority", "a:443"}, "405"},
		{"a long URI", request("GET", "/"+strings.Repeat("x", 17<<10)), "414"},
		{"an unknown expectation", request("GET", "/", "expect", "more"), "417"},
		{"a large header list", request("GET", "/", "a", strings.Repeat("x", 15000), "b", strings.Repeat("x", 15000), "c", strings.Repeat("x", 15000), "d", strings.Repeat("x", 15000), "e", strings.Repeat("x", 15000)), "431"},
	} {
		t.Run(x.name, func(t *testing.T) {
			r := l.raw()
			r.head(1, true, x.kv...)
			if got := r.next(); !strings.HasPrefix(got, "HEADERS 1 :status="+x.status) {
				t.Errorf("got %s, want %s", got, x.status)
			}
			if got := r.next(); !strings.HasPrefix(got, "DATA 1") || !strings.HasSuffix(got, " end") {
				t.Errorf("got %s", got)
			}
			r.head(3, true, request("GET", "/")...)
			r.want("HEADERS 3 :status=200 content-length=2", `DATA 3 "ok" end`)
		})
	}
}

func TestH2ResponsesKeepTheirShape(t *testing.T) {
	for _, x := range []struct {
		name   string
		origin string
		want   []string
	}{
		{"103 then 200", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + ok,
			[]string{"HEADERS 1 :status=103 link=</a>", "HEADERS 1 :status=200 content-length=2", `DATA 1 "ok" end`}},
		{"trailers", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n2\r\nok\r\n0\r\nX-T: 1\r\n\r\n",
			[]string{"HEADERS 1 :status=200 trailer=X-T", `DATA 1 "ok"`, "HEADERS 1 x-t=1 end"}},
		{"chunks without trailers", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
			[]string{"HEADERS 1 :status=200", `DATA 1 "ok"`, `DATA 1 "" end`}},
		{"204", "HTTP/1.1 204 No Content\r\n\r\n", []string{"HEADERS 1 :status=204 end"}},
		{"304", "HTTP/1.1 304 Not Modified\r\nContent-Length: 50\r\nETag: x\r\n\r\n", []string{"HEADERS 1 :status=304 etag=x content-length=50 end"}},
		{"an empty body", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", []string{"HEADERS 1 :status=200 content-length=0 end"}},
	} {
		t.Run(x.name, func(t *testing.T) {
			o := startOrigin(t, answering(x.origin))
			l := startLab(t, labOptions{}, pool(o.addr))
			r := l.raw()
			r.head(1, true, request("GET", "/")...)
			r.want(x.want...)
		})
	}
}

func TestH2ATruncatedResponseIsReset(t *testing.T) {
	for name, response := range map[string]string{
		"content-length": "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
		"chunked":        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			o := startOrigin(t, func(c *peer) { c.request(); c.say(response) })
			l := startLab(t, labOptions{}, pool(o.addr))
			r := l.raw()
			r.head(1, true, request("GET", "/")...)
			var got []string
			for {
				f := r.next()
				got = append(got, f)
				if strings.HasSuffix(f, " end") || f == "EOF" {
					t.Fatalf("looks complete: %q", got)
				}
				if f == "RST 1 INTERNAL_ERROR" {
					break
				}
			}
			r.head(3, true, request("GET", "/")...)
			if f := r.next(); !strings.HasPrefix(f, "HEADERS 3") {
				t.Errorf("the next stream: %s", f)
			}
		})
	}
}

func TestH2AnEarlyAnswerEndsTheUpload(t *testing.T) {
	o := startOrigin(t, func(c *peer) {
		c.request()
		c.say("HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
	})
	l := startLab(t, labOptions{}, pool(o.addr))
	r := l.raw()
	r.head(1, false, request("POST", "/")...)
	r.fr.WriteData(1, false, []byte("some"))
	r.want("HEADERS 1 :status=413 content-length=0 end", "RST 1 NO_ERROR")
	r.fr.WriteData(1, false, []byte("more")) // under way
	r.fr.WritePing(false, [8]byte{})
	r.want("PONG")
}

func TestH2ACancelledRequestLeavesItsBackend(t *testing.T) {
	gone := make(chan bool, 1)
	begun := make(chan bool, 1)
	o := startOrigin(t, func(c *peer) {
		c.request()
		begun <- true
		gone <- c.rest() == ""
	})
	l := startLab(t, labOptions{}, pool(o.addr))
	r := l.raw()
	r.head(1, true, request("GET", "/")...)
	<-begun
	r.fr.WriteRSTStream(1, http2.ErrCodeCancel)
	select {
	case <-gone:
	case <-time.After(patience):
		t.Error("the backend's connection stays open")
	}
}

func TestH2TrailersOfARequestAreForwarded(t *testing.T) {
	o := startOrigin(t, echoing)
	l := startLab(t, labOptions{}, pool(o.addr))
	r := l.raw()
	r.head(1, false, request("POST", "/")...)
	r.fr.WriteData(1, false, []byte("hello"))
	r.head(1, true, "x-sum", "5")
	if got := r.next(); !strings.HasPrefix(got, "HEADERS 1 :status=200") {
		t.Fatal(got)
	}
	if got := r.next(); !strings.HasSuffix(got, "\\n\\nhello\\nx-sum: 5\" end") {
		t.Error(got)
	}
}

func TestH2RapidResetEndsTheConnection(t *testing.T) {
	o := startOrigin(t, answering(ok))
	l := startLab(t, labOptions{}, pool(o.addr))
	r := l.raw()
	for i := range 1000 {
		id := uint32(2*i + 1)
		r.head(id, true, request("GET", "/")...)
		_ = r.fr.WriteRSTStream(id, http2.ErrCodeCancel) // the connection may be gone already
	}
	for {
		switch got := r.next(); {
		case strings.HasSuffix(got, "ENHANCE_YOUR_CALM"):
			if n := o.conns.Load(); n > 110 {
				t.Errorf("%d reached the backend", n)
			}
			return
		case got == "EOF":
			t.Fatal("no GOAWAY")
		}
	}
}

func TestH2DrainLetsStreamsFinish(t *testing.T) {
	release, arrived := make(chan bool), make(chan bool, 4)
	o := startOrigin(t, func(c *peer) {
		for c.request() != "" {
			arrived <- true
			<-release
			c.say(ok)
		}
	})
	l := startLab(t, labOptions{}, pool(o.addr))
	r := l.raw()
	r.head(1, true, request("GET", "/")...)
	<-arrived
	l.proxy.Drain(time.Now().Add(patience))
	r.want("GOAWAY 2147483647 NO_ERROR", "GOAWAY 1 NO_ERROR") // our PONG lies between
	r.head(3, true, request("GET", "/late")...)
	close(release)
	r.want("HEADERS 1 :status=200 content-length=2", `DATA 1 "ok" end`, "EOF")
	r.c.Close()
	select {
	case <-l.proxy.Done():
	case <-time.After(patience):
		t.Error("the drain does not end")
	}
	if len(arrived) > 0 {
		t.Error("a late stream was served")
	}
}

// A client that takes nothing must stop the backend, not fill our memory.
func TestH2ASlowReaderStopsTheBackend(t *testing.T) {
	var sent int
	stopped := make(chan bool)
	o := startOrigin(t, func(c *peer) {
		c.request()
		c.say("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
		p := make([]byte, 64<<10)
		for {
			c.SetWriteDeadline(time.Now().Add(time.Second / 2))
			n, err := c.Write(p)
			sent += n
			if err != nil {
				close(stopped)
				return
			}
		}
	})
	l := startLab(t, labOptions{}, pool(o.addr))
	r := l.raw()
	r.head(1, true, request("GET", "/")...)
	<-stopped
	if sent > 16<<20 {
		t.Errorf("the backend could send %d bytes", sent)
	}
}

// What was said before a drain reaches a client that takes its time.
func TestH2ASlowClientGetsAllBeforeTheEnd(t *testing.T) {
	const size = 4 << 20
	o := startOrigin(t, func(c *peer) {
		c.request()
		c.say(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", size))
		c.SetWriteDeadline(time.Now().Add(patience))
		c.Write(make([]byte, size))
		c.rest()
	})
	l := startLab(t, labOptions{}, pool(o.addr))
	l.proxy.times.linger = 10 * time.Millisecond // read by the loop from the drain on
	r := l.rawSlow()
	r.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: size})
	r.fr.WriteWindowUpdate(0, size)
	r.head(1, true, request("GET", "/")...)
	if got := r.next(); !strings.HasPrefix(got, "HEADERS 1 :status=200") {
		t.Fatal(got)
	}
	l.proxy.Drain(time.Now().Add(patience))
	got := 0
	for got < size {
		time.Sleep(time.Millisecond) // slow is what this is about
		f, err := r.fr.ReadFrame()
		if err != nil {
			t.Fatalf("%v after %d bytes", err, got)
		}
		switch f := f.(type) {
		case *http2.DataFrame:
			got += len(f.Data())
		case *http2.PingFrame:
			r.fr.WritePing(true, f.Data)
		}
	}
	for r.next() != "EOF" {
	}
}
