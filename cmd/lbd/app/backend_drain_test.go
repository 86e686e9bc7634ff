package app

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/cirque-lb/lb/cmd/internal/admin"
)

// backend is what lbd says of one of ours.
func (s *site) backend(i int) (b admin.Backend) {
	all, err := admin.Dial(s.socket()).Backends(s.t.Context())
	if err != nil {
		return b
	}
	for _, b = range all {
		if b.ID == "app/"+s.pool[i] {
			return b
		}
	}
	return admin.Backend{}
}

// A backend that drains gets nothing new; what is in progress is counted and
// may finish, requests and proxied connections alike; after drain.timeout what is
// left is cut, of this backend alone.
func TestABackendDrainsToItsDeadline(t *testing.T) {
	s := newSite(t)
	raw := freePort(t)
	s.replaceInFile("drain: { timeout: 5s }", "drain: { timeout: 8s }")
	s.replaceInFile("listeners:\n", fmt.Sprintf("listeners:\n  raw: { bind: \"127.0.0.1:%d\", protocol: tcp, pool: app }\n", raw))
	s.start()
	open := func(port int, say string, n int) (all []net.Conn) {
		for range n {
			c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			fmt.Fprint(c, say)
			all = append(all, c)
		}
		return all
	}
	open(s.port, "GET /never HTTP/1.1\r\nHost: a\r\n\r\n", 6)
	finish := open(raw, "", 4)
	open(raw, "", 4)
	s.until("all are in progress", func() bool { return s.backend(0).Active+s.backend(1).Active == 14 })
	before, other := s.backend(0).Active, s.backend(1).Active
	if before == 0 || other == 0 {
		t.Fatalf("%d and %d in progress", before, other)
	}
	id := "app/" + s.pool[0]
	yes := true
	if err := admin.Dial(s.socket()).OrderBackend(t.Context(), admin.BackendOrder{ID: id, Drain: &yes}, admin.Ask{}); err != nil {
		t.Fatal(err)
	}
	s.until("it gets no more requests", func() bool {
		for range 10 {
			if text(http.DefaultClient, s.url()) != "backend 1\n" {
				return false
			}
		}
		return true
	})
	if b := s.backend(0); b.State != "draining" || b.Active != before {
		t.Errorf("it is %s with %d in progress, %d before", b.State, b.Active, before)
	}
	for _, c := range finish {
		c.Close()
	}
	s.until("those that finish are counted down", func() bool { return s.backend(0).Active+s.backend(1).Active == 10 })
	left, others := s.backend(0).Active, s.backend(1).Active
	if left == 0 || left >= before {
		t.Fatalf("of %d %d are left", before, left)
	}
	s.until("what is left is cut", func() bool { b := s.backend(0); return b.Active == 0 && b.State == "drained" })
	if b := s.backend(1); b.Active != others {
		t.Errorf("the other backend has %d in progress, %d before", b.Active, others)
	}
	s.until("it is told", func() bool { return slices.Contains(s.told(id), "backend.empty") })
	if want := []string{"backend.drain", "backend.drain-overdue", "backend.empty"}; !slices.Equal(s.told(id), want) {
		t.Errorf("told %v, want %v", s.told(id), want)
	}
	no := false
	if err := admin.Dial(s.socket()).OrderBackend(t.Context(), admin.BackendOrder{ID: id, Drain: &no}, admin.Ask{}); err != nil {
		t.Fatal(err)
	}
	s.until("it gets requests again", func() bool { return strings.HasPrefix(text(http.DefaultClient, s.url()), "backend 0") })
}
