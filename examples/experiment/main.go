// Command experiment is an lbd that sends some visitors, always the same, to another pool.
package main // filters: [ experiment: { pool: shop-b, share: 10% } ]

import (
	"math/rand/v2"
	"strings"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/cmd/lbd/app"
	"github.com/cirque-lb/lb/l7"
	"github.com/cirque-lb/lb/l7/filter"
)

func main() { app.Main("experiment", filter.With("experiment", experiment)) }

func experiment(n lb.Node) (l7.Filter, error) {
	var c struct {
		Pool  lb.PoolRef `yaml:"pool" need:"true"`
		Share lb.Share   `yaml:"share" need:"true"`
	}
	var cookie l7.Local[string] // for a new visitor
	return l7.Filter{Request: func(s *l7.Session) (*l7.Response, error) {
		has := s.Request.Header.Get("cookie")
		b := strings.Contains(has, "variant=b")
		if !b && !strings.Contains(has, "variant=a") {
			b = rand.Float64() < float64(c.Share)
			*cookie.Of(s) = map[bool]string{true: "variant=b", false: "variant=a"}[b]
		}
		if b {
			s.Pool = s.PoolNamed(string(c.Pool))
		}
		return nil, nil
	}, Response: func(s *l7.Session, r *l7.Response) error {
		if new := *cookie.Of(s); new != "" {
			r.Header.Add("Set-Cookie", new+"; Path=/; Max-Age=2592000")
		}
		return nil
	}}, n.Decode(&c)
}
