// Command profiled is lbd, whose workers write down where their CPU time goes:
// each into $LBD_PROFILE, for $LBD_PROFILE_FOR. make profile runs it.
package main

import (
	"fmt"
	"os"
	"runtime/pprof"
	"time"

	"github.com/cirque-lb/lb/cmd/lbd/app"
	"github.com/cirque-lb/lb/l7/filter"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "worker" {
		if err := start(os.Getenv("LBD_PROFILE"), os.Getenv("LBD_PROFILE_FOR")); err != nil {
			fmt.Fprintln(os.Stderr, "profile:", err)
		}
	}
	app.Main("", filter.All)
}

func start(file, length string) error {
	d, err := time.ParseDuration(length)
	if err != nil {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return err
	}
	time.AfterFunc(d, func() {
		pprof.StopCPUProfile()
		f.Close()
	})
	return nil
}
