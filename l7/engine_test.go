package l7

import (
	"testing"
	"time"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7/loop"
)

// nowhere is a transport that takes all and says nothing.
type nowhere struct{ n int }

func (*nowhere) Use(loop.User)    {}
func (w *nowhere) Write(p []byte) { w.n += len(p) }
func (*nowhere) Buffered() int    { return 0 }
func (*nowhere) Unacked() int     { return 0 }
func (*nowhere) Pause()           {}
func (*nowhere) Resume()          {}
func (*nowhere) CloseWrite()      {}
func (*nowhere) Finish()          {}
func (*nowhere) Close()           {}

// BenchmarkEngine is a request's way through the proxy without a kernel: what
// of the CPU per request is ours.
func BenchmarkEngine(b *testing.B) {
	for _, c := range []struct {
		name    string
		filters map[string]Filter
		used    []string
	}{
		{"plain", nil, nil},
		{"a filter that sets a header", map[string]Filter{"f": {Response: func(_ *Session, r *Response) error { r.Header.Set("X-A", "b"); return nil }}}, []string{"f"}},
		{"ten of them", map[string]Filter{"f": {Response: func(_ *Session, r *Response) error { r.Header.Set("X-A", "b"); return nil }}},
			[]string{"f", "f", "f", "f", "f", "f", "f", "f", "f", "f"}},
	} {
		b.Run(c.name, func(b *testing.B) {
			s, up := engine(b, c.filters, c.used)
			request, response := []byte(browserRequest), []byte(kilobyte)
			b.ReportAllocs()
			for b.Loop() {
				s.Received(request)
				up.Received(response)
			}
			if out := s.t.(*nowhere).n; out < b.N*1024 {
				b.Fatalf("%d bytes for %d requests", out, b.N)
			}
		})
	}
}

// engine is a client's connection and an idle one to a backend, without sockets.
func engine(b *testing.B, filters map[string]Filter, used []string) (*serverH1, *clientH1) {
	builders := map[string]Builder{}
	for name, f := range filters {
		builders[name] = func(lb.Node) (Filter, error) { return f, nil }
	}
	p, err := New(Options{Threads: 1, Filters: builders})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { p.closeLoops() })
	document := pool("127.0.0.1:1")
	if len(used) > 0 {
		document = filtered(used, "127.0.0.1:1")
	}
	config, err := lb.Parse([]byte(document), lb.Options{})
	if err != nil {
		b.Fatal(err)
	}
	snapshot, err := p.Prepare(1, config, nil)
	if err != nil {
		b.Fatal(err)
	}
	p.Commit(snapshot)
	t := p.threads[0]
	backend := snapshot.pools[0].Backends[0]
	up := &clientH1{thread: t, endpoint: backend.endpoint, limits: &backend.pool.Config.Connections, t: new(nowhere), maxAge: time.Hour, state: clientIdle}
	backend.endpoint.open.Add(1)
	backend.endpoint.put(up, up.limits)
	s := &serverH1{thread: t, t: new(nowhere), client: &client{door: &door{proxy: p, listener: "web", scheme: "http"}}}
	return s, up
}
