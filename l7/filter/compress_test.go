package filter

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"pgregory.net/rapid"

	"github.com/cirque-lb/lb/l7"
	"github.com/cirque-lb/lb/l7/l7test"
)

// decode is what a client makes of an encoded body.
func decode(t testing.TB, encoding string, r io.Reader) io.Reader {
	switch encoding {
	case "gzip":
		z, err := gzip.NewReader(r)
		if err != nil {
			t.Fatal(err)
		}
		return z
	case "br":
		return brotli.NewReader(r)
	case "zstd":
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
		if err != nil {
			t.Fatal(err)
		}
		return z
	}
	return r
}

func built(t testing.TB, build l7.Builder, config string) l7.Filter {
	t.Helper()
	f, err := build(node(t, config))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestCompressChoosesWhatTheClientLikes(t *testing.T) {
	for _, c := range []struct{ accept, want string }{
		{"gzip", "gzip"},
		{"x-gzip", "gzip"},
		{"gzip, deflate, br, zstd", "zstd"},
		{"gzip, br", "br"},
		{"GZIP;Q=0.8, br;q=0.2", "gzip"},
		{"gzip;q=1.000, br;q=0.999", "gzip"},
		{"*", "zstd"},
		{"*;q=0.1, gzip;q=0.2", "gzip"},
		{"zstd;q=0, *", "br"},
		{"br;q=0.5\r\nAccept-Encoding: gzip", "gzip"},
		{"", ""},
		{"deflate", ""},
		{"gzip;q=0", ""},
		{"gzip;q=0.000", ""},
		{"gzip;q=high", ""},
		{"gzip;q=0.5555", ""},
		{"identity, gzip;q=0.5", ""},
		{"identity;q=0.5, gzip;q=0.5", "gzip"},
		{"identity;q=0, gzip;q=0", ""},
	} {
		z := &compressor{}
		for _, name := range []string{"zstd", "br", "gzip"} {
			z.codings = append(z.codings, newCoding(name))
		}
		var h l7.Header
		for _, value := range strings.Split(c.accept, "\r\nAccept-Encoding: ") {
			h.Add("Accept-Encoding", value)
		}
		got := ""
		if chosen := z.choose(h); chosen != nil {
			got = chosen.name
		}
		if got != c.want {
			t.Errorf("%q: got %q, want %q", c.accept, got, c.want)
		}
	}
}

func TestCompressDecides(t *testing.T) {
	html := l7.Field{Name: "Content-Type", Value: "text/html; charset=utf-8"}
	for _, c := range []struct {
		name     string
		request  l7.Request
		response l7.Response
		want     string // status of the body: encoding, fields
	}{
		{"text", l7.Request{}, l7.Response{Status: 200, Length: 2000, Header: l7.Header{html}}, "gzip vary"},
		{"of unknown length", l7.Request{}, l7.Response{Status: 200, Length: -1, Header: l7.Header{html}}, "gzip vary"},
		{"an error page", l7.Request{}, l7.Response{Status: 500, Length: 2000, Header: l7.Header{html}}, "gzip vary"},
		{"one made here", l7.Request{}, l7.Response{Status: 200, Body: make([]byte, 2000), Header: l7.Header{html}}, "gzip vary"},
		{"short", l7.Request{}, l7.Response{Status: 200, Length: 1000, Header: l7.Header{html}}, ""},
		{"a short one made here", l7.Request{}, l7.Response{Status: 200, Body: []byte("x"), Header: l7.Header{html}}, ""},
		{"another type", l7.Request{}, l7.Response{Status: 200, Length: 2000, Header: l7.Header{{Name: "Content-Type", Value: "image/png"}}}, ""},
		{"no type", l7.Request{}, l7.Response{Status: 200, Length: 2000}, ""},
		{"encoded", l7.Request{}, l7.Response{Status: 200, Length: 2000, Header: l7.Header{html, {Name: "content-encoding", Value: "br"}}}, ""},
		{"as good as not encoded", l7.Request{}, l7.Response{Status: 200, Length: 2000, Header: l7.Header{html, {Name: "content-encoding", Value: "identity"}}}, "gzip vary"},
		{"partial", l7.Request{}, l7.Response{Status: 206, Length: 2000, Header: l7.Header{html}}, ""},
		{"no-transform", l7.Request{}, l7.Response{Status: 200, Length: 2000, Header: l7.Header{html, {Name: "Cache-Control", Value: "public, No-Transform"}}}, ""},
		{"the client says no-transform", l7.Request{Header: l7.Header{{Name: "cache-control", Value: "no-transform"}}}, l7.Response{Status: 200, Length: 2000, Header: l7.Header{html}}, ""},
		{"digested", l7.Request{}, l7.Response{Status: 200, Length: 2000, Header: l7.Header{html, {Name: "Repr-Digest", Value: "x"}}}, ""},
		{"HEAD", l7.Request{Method: "HEAD"}, l7.Response{Status: 200, Length: 2000, Header: l7.Header{html}}, "vary"},
		{"not modified", l7.Request{}, l7.Response{Status: 304, Header: l7.Header{html}}, "vary"},
		{"no content", l7.Request{}, l7.Response{Status: 204, Header: l7.Header{html}}, ""},
		{"a strong validator becomes a weak one", l7.Request{}, l7.Response{Status: 200, Length: 2000, Header: l7.Header{html, {Name: "ETag", Value: `"x"`}, {Name: "Accept-Ranges", Value: "bytes"}}}, `gzip vary W/"x"`},
		{"a weak one stays", l7.Request{}, l7.Response{Status: 200, Length: 2000, Header: l7.Header{html, {Name: "ETag", Value: `W/"x"`}}}, `gzip vary W/"x"`},
	} {
		f := built(t, compress, "{ encodings: [gzip] }")
		c.request.Header.Add("Accept-Encoding", "gzip")
		s := &l7.Session{Request: &c.request, Response: &c.response}
		if err := f.Response(s, &c.response); err != nil {
			t.Fatal(err)
		}
		h := c.response.Header
		if got := h.Get("content-encoding"); (got == "gzip") != strings.Contains(c.want, "gzip") {
			t.Errorf("%s: encoding %q, want %s", c.name, got, c.want)
		}
		if h.Has("vary") != strings.Contains(c.want, "vary") {
			t.Errorf("%s: vary %q", c.name, h.Get("vary"))
		}
		if strings.Contains(c.want, "W/") && (h.Get("etag") != `W/"x"` || h.Has("accept-ranges")) {
			t.Errorf("%s: got %v", c.name, h)
		}
		f.Log(s, nil)
	}
}

// Whatever pieces a body comes in, the client reads the same; and a compressor
// that broke off in the middle serves the next one well.
func TestCompressKeepsEveryByte(t *testing.T) {
	for _, name := range []string{"gzip", "br", "zstd"} {
		c := newCoding(name)
		rapid.Check(t, func(rt *rapid.T) {
			random := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1))
			broken := c.open(true)
			broken.next([]byte("a response that the client left"), false)
			broken.close()
			s := c.open(rapid.Bool().Draw(rt, "eager"))
			var in, out bytes.Buffer
			pieces := rapid.IntRange(0, 8).Draw(rt, "pieces")
			for i := range pieces {
				p := make([]byte, random.IntN(1<<random.IntN(17)))
				for k := range p {
					p[k] = "abcdefgh"[random.IntN(8)]
				}
				in.Write(p)
				q, err := s.next(p, i == pieces-1)
				if err != nil {
					rt.Fatal(err)
				}
				out.Write(q)
			}
			if pieces == 0 {
				q, err := s.next(nil, true)
				if err != nil {
					rt.Fatal(err)
				}
				out.Write(q)
			}
			s.close()
			got, err := io.ReadAll(decode(t, name, &out))
			if err != nil || !bytes.Equal(got, in.Bytes()) {
				rt.Fatalf("%s: %d bytes became %d (%v)", name, in.Len(), len(got), err)
			}
		})
	}
}

// raw is a client that takes bodies as they come.
var raw = &http.Client{Transport: &http.Transport{DisableCompression: true}}

func get(t testing.TB, url string, fields ...string) *http.Response {
	t.Helper()
	req, err := http.NewRequest("GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(fields); i += 2 {
		req.Header.Add(fields[i], fields[i+1])
	}
	res, err := raw.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	return res
}

// origin serves and returns a route's backend.
func origin(t testing.TB, serve http.HandlerFunc) (address string) {
	s := httptest.NewServer(serve)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// through is a document whose one route has these filters and this backend.
func through(filters, backend string) string {
	return fmt.Sprintf("routes: [ { filters: [%s], pool: app } ]\npools: { app: { backends: [%q] } }\n", filters, backend)
}

func TestCompressThroughAProxy(t *testing.T) {
	text := strings.Repeat("All work and no play makes Jack a dull boy.\n", 10_000)
	p := l7test.Start(t, All, through("compress", origin(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Content-Length", fmt.Sprint(len(text)))
		io.WriteString(w, text)
	})))
	for _, name := range []string{"gzip", "br", "zstd", "identity"} {
		res := get(t, p.URL, "Accept-Encoding", name)
		if name == "identity" {
			if res.ContentLength != int64(len(text)) || res.Header.Get("Content-Encoding") != "" {
				t.Errorf("identity: got length %d, encoding %q", res.ContentLength, res.Header.Get("Content-Encoding"))
			}
			continue
		}
		if got := res.Header.Get("Content-Encoding"); got != name || res.ContentLength >= 0 || res.Header.Get("Vary") != "Accept-Encoding" {
			t.Errorf("%s: got %q, length %d, vary %q", name, got, res.ContentLength, res.Header.Get("Vary"))
		}
		var small bytes.Buffer
		got, err := io.ReadAll(decode(t, name, io.TeeReader(res.Body, &small)))
		if err != nil || string(got) != text || small.Len() > len(text)/20 {
			t.Errorf("%s: %d bytes came as %d and became %d (%v)", name, len(text), small.Len(), len(got), err)
		}
	}
}

// A stream of events arrives event by event: nothing waits in a compressor.
func TestCompressHoldsBackNothingOfAStream(t *testing.T) {
	next := make(chan bool)
	p := l7test.Start(t, All, through("compress", origin(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 3 {
			fmt.Fprintf(w, "data: %d\n\n", i)
			w.(http.Flusher).Flush()
			<-next
		}
	})))
	for _, name := range []string{"gzip", "br", "zstd"} {
		res := get(t, p.URL, "Accept-Encoding", name)
		body, want := decode(t, name, res.Body), "data: 0\n\n"
		for i := range 3 {
			got := make([]byte, len(want))
			if _, err := io.ReadFull(body, got); err != nil || string(got) != fmt.Sprintf("data: %d\n\n", i) {
				t.Fatalf("%s: got %q, %v", name, got, err)
			}
			next <- true
		}
	}
}

func TestCompressPassesWhenItIsBusy(t *testing.T) {
	f := built(t, compress, "{ encodings: [gzip] }")
	var open []*l7.Session
	for i := range maxStreams + 1 {
		r := &l7.Response{Status: 200, Length: -1, Header: l7.Header{{Name: "Content-Type", Value: "text/plain"}}}
		s := &l7.Session{Request: &l7.Request{Header: l7.Header{{Name: "Accept-Encoding", Value: "gzip"}}}, Response: r}
		f.Response(s, r)
		if got := r.Header.Has("content-encoding"); got != (i < maxStreams) {
			t.Fatalf("response %d: compressed %v", i, got)
		}
		if p, err := f.ResponseBody(s, []byte("x"), false); i == maxStreams && (string(p) != "x" || err != nil) {
			t.Errorf("got %q, %v", p, err)
		}
		open = append(open, s)
	}
	for _, s := range open {
		f.Log(s, nil)
		f.Log(s, nil) // twice is once
	}
	r := &l7.Response{Status: 200, Length: -1, Header: l7.Header{{Name: "Content-Type", Value: "text/plain"}}}
	if f.Response(&l7.Session{Request: open[0].Request, Response: r}, r); !r.Header.Has("content-encoding") {
		t.Error("it does not compress again")
	}
}

func TestCompressRefuses(t *testing.T) {
	refuses(t, compress, []refusal{
		{`{ encodings: [deflate] }`, `encodings`},
		{`{ encodings: [gzip, gzip] }`, `gzip stands twice`},
		{`{ encodings: [] }`, `encodings`},
		{`{ types: [html] }`, `"html" is not a media type`},
		{`{ types: ["*/*"] }`, `"*/*" is not a media type`},
		{`{ min: -1 }`, `min`},
		{`{ level: 9 }`, `unknown key "level"`},
	})
}

type refusal struct{ config, want string }

func refuses(t *testing.T, build l7.Builder, cases []refusal) {
	t.Helper()
	for _, c := range cases {
		if _, err := build(node(t, c.config)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.config, err, c.want)
		}
	}
}

func BenchmarkCompress(b *testing.B) {
	text := []byte(strings.Repeat("All work and no play makes Jack a dull boy.\n", 1500))
	for _, name := range []string{"gzip", "br", "zstd"} {
		c := newCoding(name)
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				s := c.open(false)
				s.next(text, true)
				s.close()
			}
		})
	}
}
