// Command authorize is an lbd that asks a service who may pass. Blocking takes
// the phase off the loop, so that a slow answer holds up one request only.
package main // filters: [ authorize: { url: "http://127.0.0.1:9000/check" } ]

import (
	"net/http"
	"time"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/cmd/lbd/app"
	"github.com/cirque-lb/lb/l7"
	"github.com/cirque-lb/lb/l7/filter"
)

func main() { app.Main("authorize", filter.With("authorize", authorize)) }

func authorize(n lb.Node) (l7.Filter, error) {
	var c struct {
		URL string `yaml:"url" need:"true"`
	}
	client := &http.Client{Timeout: 5 * time.Second}
	return l7.Filter{Blocking: true, Request: func(s *l7.Session) (*l7.Response, error) {
		ask, err := http.NewRequestWithContext(s.Context(), "GET", c.URL, nil) // the client's leaving ends it
		if err != nil {
			return nil, err
		}
		ask.Header.Set("Authorization", s.Request.Header.Get("authorization"))
		answer, err := client.Do(ask)
		if err != nil {
			return nil, &l7.Error{Status: 503, Reason: lb.Unauthorized, Err: err}
		}
		answer.Body.Close()
		if answer.StatusCode != 200 {
			return nil, &l7.Error{Status: 403, Source: l7.FromClient, Reason: lb.Unauthorized}
		}
		s.Request.Header.Set("x-user", answer.Header.Get("x-user"))
		return nil, nil
	}}, n.Decode(&c)
}
