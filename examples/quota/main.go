// Command quota is an lbd that gives each API key so many requests a minute.
package main // filters: [ quota: { per_minute: 600 } ]

import (
	"strings"
	"sync"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/cmd/lbd/app"
	"github.com/cirque-lb/lb/l7"
	"github.com/cirque-lb/lb/l7/filter"
)

func main() { app.Main("quota", filter.With("quota", quota)) }

func quota(n lb.Node) (l7.Filter, error) {
	var c struct {
		PerMinute int `yaml:"per_minute" need:"true" range:"1..1000000"`
	}
	var mu sync.Mutex // guards the two below
	used, minute := map[string]int{}, int64(0)
	return l7.Filter{Request: func(s *l7.Session) (*l7.Response, error) {
		mu.Lock()
		defer mu.Unlock()
		if now := s.Start.Unix() / 60; now != minute {
			used, minute = map[string]int{}, now
		}
		key := s.Request.Header.Get("x-api-key")
		if used[key] >= c.PerMinute || key == "" || len(used) > 1e6 {
			return nil, &l7.Error{Status: 429, Source: l7.FromClient, Reason: lb.RateLimited}
		}
		used[strings.Clone(key)]++ // a request's strings live as long as it does
		return nil, nil
	}}, n.Decode(&c)
}
