// Command profiled is lbd, whose workers write down where their CPU time goes:
// each into $LBD_PROFILE, for $LBD_PROFILE_FOR. make profile runs it. With
// $LBD_HEAPS, a directory that everybody may write to, each of its processes
// writes there what its heap holds, every four minutes or $LBD_HEAPS_EVERY.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"time"

	"github.com/cirque-lb/lb/cmd/lbd/app"
	"github.com/cirque-lb/lb/l7/filter"
)

func main() {
	if dir := os.Getenv("LBD_HEAPS"); dir != "" {
		go runHeaps(dir) // ends with the process
	}
	if len(os.Args) > 1 && os.Args[1] == "worker" && os.Getenv("LBD_PROFILE") != "" {
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

func runHeaps(dir string) {
	every, err := time.ParseDuration(os.Getenv("LBD_HEAPS_EVERY"))
	if err != nil {
		every = 4 * time.Minute
	}
	for i := 1; ; i++ {
		time.Sleep(every)
		f, err := os.Create(filepath.Join(dir, fmt.Sprintf("%d.%04d.heap", os.Getpid(), int(every.Seconds())*i)))
		if err != nil {
			fmt.Fprintln(os.Stderr, "profile:", err)
			return
		}
		runtime.GC() // else it is as of the last one
		if err := pprof.WriteHeapProfile(f); err != nil {
			fmt.Fprintln(os.Stderr, "profile:", err)
		}
		f.Close()
	}
}
