package filter

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/cirque-lb/lb/l7"
	"github.com/cirque-lb/lb/l7/l7test"
)

// grpcOrigin echoes a call's messages in two flushes, with its trailers.
func grpcOrigin(t *testing.T) (address string) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/p.S/None" { // trailers only
			w.Header().Set("Content-Type", "application/grpc")
			w.Header().Set("Grpc-Status", "12")
			return
		}
		if r.URL.Path == "/page" {
			w.Header().Set("Content-Type", "text/html")
			io.WriteString(w, "page")
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
		w.Header().Set("X-Seen", fmt.Sprint(r.Header.Get("Te"), " ", r.Header.Get("X-Grpc-Web"), " ", r.ProtoMajor))
		w.Write(body[:len(body)/2])
		w.(http.Flusher).Flush()
		w.Write(body[len(body)/2:])
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
		w.Header().Set(http.TrailerPrefix+"Grpc-Message", "fine")
	}))
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	s.Config.Protocols = protocols
	s.Start()
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

const (
	webMessage  = "\x00\x00\x00\x00\x05hello"
	webTrailers = "\x80\x00\x00\x00\x24grpc-message: fine\r\ngrpc-status: 0\r\n"
)

// decodeTexts decodes base64 that may be several texts, as gRPC-Web's clients do.
func decodeTexts(t *testing.T, s string) string {
	t.Helper()
	var out []byte
	for ; len(s) >= 4; s = s[4:] {
		p, err := base64.StdEncoding.DecodeString(s[:4])
		if err != nil {
			t.Fatalf("%q: %v", s[:4], err)
		}
		out = append(out, p...)
	}
	if s != "" {
		t.Fatalf("%q is left", s)
	}
	return string(out)
}

func TestGRPCWebCallsReachAGRPCPool(t *testing.T) {
	document := fmt.Sprintf("routes: [ { filters: [ grpc_web ], pool: app } ]\npools: { app: { backends: [%q], protocol: grpc } }\n", grpcOrigin(t))
	p := l7test.Start(t, All, document)
	h2 := new(http.Protocols)
	h2.SetUnencryptedHTTP2(true)
	for version, client := range map[string]*http.Client{"HTTP/1": {}, "HTTP/2": {Transport: &http.Transport{Protocols: h2}}} {
		defer client.CloseIdleConnections()
		for _, c := range []struct {
			name, contentType, accept, path, body    string
			wantType, wantBody, wantSeen, wantStatus string
			text                                     bool
		}{
			{name: "binary", contentType: "application/grpc-web+proto", body: webMessage,
				wantType: "application/grpc-web+proto", wantBody: webMessage + webTrailers, wantSeen: "trailers  2"},
			{name: "text", contentType: "application/grpc-web-text", body: base64.StdEncoding.EncodeToString([]byte(webMessage)),
				wantType: "application/grpc-web-text", wantBody: webMessage + webTrailers, wantSeen: "trailers  2", text: true},
			{name: "several texts", contentType: "application/grpc-web-text+proto", body: "AA==AAAA" + base64.StdEncoding.EncodeToString([]byte(webMessage[4:])),
				wantType: "application/grpc-web-text+proto", wantBody: webMessage + webTrailers, wantSeen: "trailers  2", text: true},
			{name: "binary, to be answered in text", contentType: "application/grpc-web", accept: "application/grpc-web-text", body: webMessage,
				wantType: "application/grpc-web-text", wantBody: webMessage + webTrailers, wantSeen: "trailers  2", text: true},
			{name: "trailers only", contentType: "application/grpc-web", path: "/p.S/None", body: webMessage,
				wantType: "application/grpc-web", wantStatus: "12"},
			{name: "not a call", contentType: "text/plain", path: "/page", body: "x", wantType: "text/html", wantBody: "page"},
			{name: "no base64", contentType: "application/grpc-web-text+proto", body: "A?==",
				wantType: "application/grpc-web-text+proto", wantStatus: "13"},
			{name: "half of base64", contentType: "application/grpc-web-text+proto", body: "AAAAA",
				wantType: "application/grpc-web-text+proto", wantStatus: "13"},
		} {
			t.Run(version+", "+c.name, func(t *testing.T) {
				path := c.path
				if path == "" {
					path = "/p.S/Echo"
				}
				req, _ := http.NewRequest("POST", p.URL+path, strings.NewReader(c.body))
				req.Header.Set("Content-Type", c.contentType)
				req.Header.Set("X-Grpc-Web", "1")
				if c.accept != "" {
					req.Header.Set("Accept", c.accept)
				}
				res, err := client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				body, err := io.ReadAll(res.Body)
				got := string(body)
				if c.text {
					got = decodeTexts(t, got)
				}
				if err != nil || res.StatusCode != 200 || got != c.wantBody || res.Header.Get("Content-Type") != c.wantType || len(res.Trailer) > 0 {
					t.Errorf("got %v %d %q %v %q\nwant %q %q", err, res.StatusCode, res.Header.Get("Content-Type"), res.Trailer, got, c.wantType, c.wantBody)
				}
				if res.Header.Get("X-Seen") != c.wantSeen || res.Header.Get("Grpc-Status") != c.wantStatus {
					t.Errorf("the backend saw %q, status %q; want %q, %q", res.Header.Get("X-Seen"), res.Header.Get("Grpc-Status"), c.wantSeen, c.wantStatus)
				}
			})
		}
	}
}

func TestGRPCWebErrorsOfTheProxyAreAStatus(t *testing.T) {
	p := l7test.Start(t, All, "routes: [ { filters: [ grpc_web ], pool: app } ]\npools: { app: { backends: [\"127.0.0.1:1\"], protocol: grpc } }\n")
	res, err := http.Post(p.URL+"/p.S/Echo", "application/grpc-web+proto", strings.NewReader(webMessage))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if h := res.Header; res.StatusCode != 200 || h.Get("Content-Type") != "application/grpc-web+proto" || h.Get("Grpc-Status") != "14" || h.Get("Grpc-Message") != "connect_failed" {
		t.Errorf("got %d %v", res.StatusCode, h)
	}
}

// Whatever pieces base64 comes in, the bytes are the same.
func TestGRPCWebDecodesPieces(t *testing.T) {
	in, want := "aGVsbG8=d29ybGQhAA==AAAA", "helloworld!\x00\x00\x00\x00"
	for piece := 1; piece <= len(in); piece++ {
		g := new(webBridge)
		s := &l7.Session{Request: &l7.Request{Method: "POST", Header: l7.Header{{Name: "content-type", Value: "application/grpc-web-text"}}}}
		if _, err := g.request(s); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		for rest := in; rest != ""; {
			n := min(piece, len(rest))
			p, err := g.requestBody(s, []byte(rest[:n]), n == len(rest))
			if err != nil {
				t.Fatalf("pieces of %d: %v", piece, err)
			}
			out.Write(p)
			rest = rest[n:]
		}
		if out.String() != want {
			t.Errorf("pieces of %d: got %q", piece, out.String())
		}
	}
}

func TestGRPCWebRefuses(t *testing.T) {
	refuses(t, grpcWeb, []refusal{{`{ text: true }`, `unknown key "text"`}})
}
