package l7

import (
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7/loop"
)

// Each wait and each size has an end without anybody's asking.
func TestDefaults(t *testing.T) {
	c, err := lb.Parse([]byte(pool("127.0.0.1:1")), lb.Options{})
	if err != nil {
		t.Fatal(err)
	}
	route, limits, connections := c.Routes[0], c.Limits, c.Pools[0].Connections
	l, err := loop.New()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for what, d := range map[string][2]time.Duration{
		"TLS handshake":       {usualTimes.handshake, 10 * time.Second},
		"a request's head":    {usualTimes.head, 10 * time.Second},
		"silence in a body":   {route.Timeout.Idle, 30 * time.Second},
		"connect":             {connections.ConnectTimeout, 2 * time.Second},
		"first byte":          {route.Timeout.Request, 60 * time.Second},
		"all of it":           {route.Timeout.Total, 24 * time.Hour},
		"keep-alive":          {usualTimes.keepAlive, 75 * time.Second},
		"HTTP/2 idle":         {usualTimesH2.idle, 5 * time.Minute},
		"silence in a tunnel": {route.Timeout.Tunnel, time.Hour},
		"blocked write":       {l.Patience(), 30 * time.Second},
		"HTTP/2 blocked":      {usualTimesH2.stall, 30 * time.Second},
		"pool, idle":          {connections.IdleTimeout, 75 * time.Second},
		"pool, age":           {connections.MaxAge, 5 * time.Minute},
	} {
		if d[0] != d[1] {
			t.Errorf("%s: %v, want %v", what, d[0], d[1])
		}
	}
	for what, n := range map[string][2]int64{
		"head":                 {int64(limits.Head), 64 << 10},
		"fields":               {int64(limits.Fields), 100},
		"URI":                  {int64(limits.URI), 16 << 10},
		"attempts":             {int64(route.Retry.Attempts), 2},
		"retry budget, %":      {int64(100 * float64(route.Retry.Budget)), 20},
		"retry budget, least":  {budgetFloor, 10},
		"replayed body":        {replayLimit, 64 << 10},
		"connections, backend": {int64(connections.PerBackend), 1024},
		"pending":              {int64(connections.Pending), 128},
		"idle":                 {int64(connections.Idle), 1024},
		"connections":          {int64(limits.Connections), 100_000},
	} {
		if n[0] != n[1] {
			t.Errorf("%s: %d, want %d", what, n[0], n[1])
		}
	}
}

// What an HTTP/2 client is told of them.
func TestH2Defaults(t *testing.T) {
	o := startOrigin(t, answering(ok))
	r := startLab(t, labOptions{}, pool(o.addr)).raw()
	for {
		f, err := r.fr.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		s, ok := f.(*http2.SettingsFrame)
		if !ok || s.IsAck() {
			continue
		}
		for id, want := range map[http2.SettingID]uint32{http2.SettingMaxConcurrentStreams: 100, http2.SettingMaxHeaderListSize: 64 << 10} {
			if got, there := s.Value(id); !there || got != want {
				t.Errorf("%v: %d, want %d", id, got, want)
			}
		}
		return
	}
}
