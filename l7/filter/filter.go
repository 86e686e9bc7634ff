// Package filter holds the stock filters, one file each. All lists them by the
// name a configuration uses; Check judges their settings without building them.
//
// A filter is made once per route and serves all its requests, on several
// threads at once. Start at l7.Filter.
package filter

import (
	"maps"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7"
)

// All are the stock filters by name.
var All = map[string]l7.Builder{
	"access":     access,
	"basic_auth": basicAuth,
	"compress":   compress,
	"cors":       cors,
	"grpc_web":   grpcWeb,
	"headers":    headers,
	"mirror":     mirror,
	"rate_limit": rateLimit,
	"request_id": requestID,
	"rewrite":    rewrite,
}

// Check returns what lb.Options wants: for each filter, what says whether its
// settings are right.
func Check() map[string]func(lb.Node) error { return l7.Check(All) }

// With returns the stock filters and one more, for an lbd of one's own; one of
// the same name is replaced.
func With(name string, build l7.Builder) map[string]l7.Builder {
	filters := maps.Clone(All)
	filters[name] = build
	return filters
}
