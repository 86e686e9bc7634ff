package l7

import "github.com/cirque-lb/lb"

// Route is a route as it is built into a snapshot.
type Route struct {
	Config *lb.Route
}
