// Command load asks one URL all the time, or with pauses, half of its clients over
// kept connections and half over new ones, until it is terminated. It prints how many
// requests there were and how many failed; one that failed makes it exit 1.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const clients = 16

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	pause := flag.Duration("pause", 0, "of each client between two requests")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "load [-pause DURATION] URL")
		os.Exit(2)
	}
	var l load
	var work sync.WaitGroup
	for i := range clients {
		c := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: i%2 == 0}}
		work.Go(func() {
			for ctx.Err() == nil {
				l.once(c, flag.Arg(0))
				time.Sleep(*pause)
			}
		})
	}
	work.Wait()
	fmt.Printf("%d requests, %d failed\n", l.sent.Load(), l.failed.Load())
	if err := l.first.Load(); err != nil {
		fmt.Println("the first:", *err)
		os.Exit(1)
	}
}

type load struct {
	sent, failed atomic.Int64
	first        atomic.Pointer[error]
}

// once sends one request; it is not cut short when the load ends.
func (l *load) once(c *http.Client, url string) {
	l.sent.Add(1)
	res, err := c.Get(url)
	if err == nil {
		_, err = io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if err == nil && res.StatusCode != http.StatusOK {
			err = fmt.Errorf("status %s", res.Status)
		}
	}
	if err != nil {
		l.failed.Add(1)
		l.first.CompareAndSwap(nil, &err)
	}
}
