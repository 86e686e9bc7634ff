package filter

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7"
)

func node(t testing.TB, text string) lb.Node {
	n, err := lb.ParseNode("filter.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestHeadersEditsRequests(t *testing.T) {
	for _, c := range []struct {
		name, config string
		want         l7.Header
	}{
		{"set replaces all of a name in the place of the first", `request: { set: { X-A: "9" } }`,
			l7.Header{{Name: "x-a", Value: "9"}, {Name: "B", Value: "2"}}},
		{"set adds what is not there", `request: { set: { x-new: "1" } }`,
			l7.Header{{Name: "x-a", Value: "1"}, {Name: "B", Value: "2"}, {Name: "x-A", Value: "3"}, {Name: "x-new", Value: "1"}}},
		{"add keeps what is there", `request: { add: { x-a: "4" } }`,
			l7.Header{{Name: "x-a", Value: "1"}, {Name: "B", Value: "2"}, {Name: "x-A", Value: "3"}, {Name: "x-a", Value: "4"}}},
		{"remove removes all of a name", `request: { remove: [X-A] }`, l7.Header{{Name: "B", Value: "2"}}},
		{"remove, then set, then add", `request: { add: { b: "5" }, set: { b: "4" }, remove: [x-a] }`,
			l7.Header{{Name: "B", Value: "4"}, {Name: "b", Value: "5"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := headers(node(t, c.config))
			if err != nil {
				t.Fatal(err)
			}
			req := &l7.Request{Header: l7.Header{{Name: "x-a", Value: "1"}, {Name: "B", Value: "2"}, {Name: "x-A", Value: "3"}}}
			if err := f.Upstream(nil, req); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, req.Header); diff != "" {
				t.Errorf("want -, got +\n%s", diff)
			}
			if f.Response != nil {
				t.Error("it has a Response phase for nothing")
			}
		})
	}
}

func TestHeadersEditsResponsesAndHost(t *testing.T) {
	f, err := headers(node(t, `{ request: { set: { Host: b.example } }, response: { remove: [server], set: { x-edge: "1" } } }`))
	if err != nil {
		t.Fatal(err)
	}
	req := &l7.Request{Host: "a.example"}
	res := &l7.Response{Header: l7.Header{{Name: "Server", Value: "x"}}}
	if f.Upstream(nil, req) != nil || f.Response(nil, res) != nil {
		t.Fatal("an error")
	}
	if req.Host != "b.example" || len(req.Header) != 0 {
		t.Errorf("got host %q, fields %v", req.Host, req.Header)
	}
	if diff := cmp.Diff(l7.Header{{Name: "x-edge", Value: "1"}}, res.Header); diff != "" {
		t.Error(diff)
	}
}

func TestHeadersRefuses(t *testing.T) {
	for _, c := range []struct{ config, want string }{
		{`request: { sett: { a: "1" } }`, `1:12: LB`},
		{`request: { set: { "a b": "1" } }`, `"a b" is not a field name`},
		{`request: { set: { a: "1\r\nb: 2" } }`, `the value of a has a control character`},
		{`request: { set: { Content-Length: "1" } }`, `Content-Length belongs to the connection`},
		{`request: { remove: [transfer-encoding] }`, `transfer-encoding belongs to the connection`},
		{`request: { remove: [host] }`, `host can only be set`},
		{`response: { set: { host: a } }`, `a response has no host`},
		{`request: { remove: [a], set: { A: "1" } }`, `A is both set and removed`},
	} {
		_, err := headers(node(t, c.config))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.config, err, c.want)
		}
	}
}

func BenchmarkHeadersSet(b *testing.B) {
	f, err := headers(node(b, `request: { set: { x-edge: "1" } }`))
	if err != nil {
		b.Fatal(err)
	}
	typical := l7.Header{{Name: "User-Agent", Value: "x"}, {Name: "Accept", Value: "x"}, {Name: "Accept-Language", Value: "x"},
		{Name: "Accept-Encoding", Value: "x"}, {Name: "Referer", Value: "x"}, {Name: "Cookie", Value: "x"}, {Name: "Sec-Fetch-Dest", Value: "x"},
		{Name: "If-None-Match", Value: "x"}, {Name: "X-Forwarded-For", Value: "x"}, {Name: "X-Forwarded-Proto", Value: "x"}}
	req := &l7.Request{Header: append(make(l7.Header, 0, 16), typical...)}
	b.ReportAllocs()
	for b.Loop() {
		req.Header = req.Header[:len(typical)]
		f.Upstream(nil, req)
	}
}
