package filter

import (
	"math/rand/v2"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7"
)

// mirror sends copies of requests to another pool, to see what it makes of them:
//
//	mirror: { pool: shop-next, share: 10% }
//
// The copy is what the backend gets, after all edits. Its answer is thrown away,
// and a pool that is slow, broken or full changes nothing for the client: each
// thread has at most 128 copies under way, and bodies over 64 KiB are not copied
// (lbd_mirrored_requests_total counts both). Upgrades are not either.
func mirror(n lb.Node) (l7.Filter, error) {
	var c struct {
		Pool  lb.PoolRef `yaml:"pool" need:"true"`
		Share lb.Share   `yaml:"share" default:"100%"`
	}
	if err := n.Decode(&c); err != nil {
		return l7.Filter{}, err
	}
	return l7.Filter{Name: "mirror", Request: func(s *l7.Session) (*l7.Response, error) {
		if c.Share >= 1 || rand.Float64() < float64(c.Share) {
			s.Mirror(s.PoolNamed(string(c.Pool)))
		}
		return nil, nil
	}}, nil
}
