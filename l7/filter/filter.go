// Package filter holds the stock filters, one file each. All lists them by the
// name a configuration uses; Check judges their settings without building them.
//
// A filter is made once per route and serves all its requests, on several
// threads at once. Start at l7.Filter.
package filter

import (
	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7"
)

// All are the stock filters by name.
var All = map[string]l7.Builder{
	"access":     access,
	"basic_auth": basicAuth,
	"compress":   compress,
	"cors":       cors,
	"headers":    headers,
	"mirror":     mirror,
	"rate_limit": rateLimit,
	"request_id": requestID,
	"rewrite":    rewrite,
}

// Check returns what lb.Options wants: for each filter, what says whether its
// settings are right.
func Check() map[string]func(lb.Node) error { return l7.Check(All) }
