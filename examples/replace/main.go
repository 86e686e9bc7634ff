// Command replace is an lbd that replaces a text in pages as they pass.
package main // filters: [ replace: { from: "http://", to: "https://" } ]

import (
	"bytes"
	"strings"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/cmd/lbd/app"
	"github.com/cirque-lb/lb/l7"
	"github.com/cirque-lb/lb/l7/filter"
)

func main() { app.Main("replace", filter.With("replace", replace)) }

func replace(n lb.Node) (l7.Filter, error) {
	var c struct {
		From string `yaml:"from" need:"true" range:"1..1000"`
		To   string `yaml:"to"`
	}
	var held l7.Local[[]byte] // the end of what came, when c.From may begin there
	readable := func(_ *l7.Session, r *l7.Request) error { r.Header.Del("accept-encoding"); return nil }
	return l7.Filter{Upstream: readable, Response: func(s *l7.Session, r *l7.Response) error {
		if !strings.HasPrefix(r.Header.Get("content-type"), "text/html") || r.Header.Has("content-encoding") {
			s.PassBody()
		}
		return nil
	}, ResponseBody: func(s *l7.Session, p []byte, end bool) ([]byte, error) {
		parts := bytes.Split(append(*held.Of(s), p...), []byte(c.From))
		last := parts[len(parts)-1]
		cut := max(0, len(last)-len(c.From)+1)
		for cut < len(last) && (end || !strings.HasPrefix(c.From, string(last[cut:]))) {
			cut++
		}
		*held.Of(s) = bytes.Clone(last[cut:])
		parts[len(parts)-1] = last[:cut]
		return bytes.Join(parts, []byte(c.To)), nil
	}}, n.Decode(&c)
}
