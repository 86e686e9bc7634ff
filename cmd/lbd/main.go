// Command lbd is the load balancer's daemon, with the stock filters. An lbd with
// filters of one's own is a program like this one; examples/README.md shows how.
package main

import (
	"github.com/cirque-lb/lb/cmd/lbd/app"
	"github.com/cirque-lb/lb/l7/filter"
)

// version is set by the linker.
var version = ""

func main() { app.Main(version, filter.All) }
