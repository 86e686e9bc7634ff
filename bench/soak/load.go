package main

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// load is all clients.
type load struct {
	site  *site
	seed  uint64
	ids   atomic.Uint64
	stop  chan struct{}
	work  sync.WaitGroup
	kinds []*kind
}

// kind is clients of one kind, and what became of their requests.
type kind struct {
	name                                string
	n                                   int
	calm                                bool // none may fail
	say                                 func(*load, *client) error
	sent, right, failed, refused, wrong atomic.Int64

	mu    sync.Mutex // guards first
	first error
}

func newLoad(s *site, seed uint64) *load {
	l := &load{site: s, seed: seed, stop: make(chan struct{})}
	l.ids.Store(seed % 1e9 * 1e9)
	add := func(name string, n int, calm bool, say func(*load, *client) error) {
		l.kinds = append(l.kinds, &kind{name: name, n: n, calm: calm, say: say})
	}
	add("plain", 12, true, (*load).plain)
	add("tls", 6, true, (*load).secure)
	add("http2", 8, true, (*load).http2)
	add("websocket", 6, true, (*load).websocket)
	add("tcp", 4, true, (*load).tcp)
	add("slow", 12, true, (*load).slow)
	add("aborting", 8, true, (*load).abort)
	add("flaky plain", 8, false, (*load).plain)
	add("flaky http2", 6, false, (*load).http2)
	return l
}

// run is the load for a while; say is called now and then.
func (l *load) run(d time.Duration, say func(time.Duration)) {
	for i, k := range l.kinds {
		for j := range k.n {
			l.work.Go(func() { l.runClient(k, rand.New(rand.NewPCG(l.seed, uint64(i*1000+j)))) })
		}
	}
	began := time.Now()
	end, sample, reload := time.After(d), time.NewTicker(sampleEvery), time.NewTicker(reloadEvery)
	defer sample.Stop()
	defer reload.Stop()
	for n := 1; ; {
		select {
		case <-end:
			close(l.stop)
			l.work.Wait()
			return
		case <-sample.C:
			if say != nil {
				say(time.Since(began))
			}
		case <-reload.C:
			l.site.reload(n)
			n++
		}
	}
}

func (l *load) runClient(k *kind, random *rand.Rand) {
	c := &client{random: random, buffer: make([]byte, 32<<10), class: "flaky"}
	if k.calm {
		c.class = "calm"
	}
	defer c.hangUp()
	for {
		select {
		case <-l.stop:
			return
		case <-time.After(time.Duration(5+random.IntN(60)) * time.Millisecond):
		}
		k.sent.Add(1)
		err := k.say(l, c)
		if w := (*wrongAnswer)(nil); errors.As(err, &w) {
			l.site.book.wrong(k.name, c, w)
		}
		k.count(err)
	}
}

func (k *kind) count(err error) {
	switch {
	case err == nil:
		k.right.Add(1)
		return
	case errors.Is(err, errWrong):
		k.wrong.Add(1)
	case errors.Is(err, errRefused) && !k.calm:
		k.refused.Add(1)
		return
	case !k.calm:
		k.failed.Add(1)
		return
	default:
		k.failed.Add(1)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.first == nil {
		k.first = fmt.Errorf("%s: %w", time.Now().Format("15:04:05.000"), err)
	}
}

func (k *kind) bad() bool { return k.wrong.Load() > 0 || k.calm && k.failed.Load() > 0 }

func (l *load) good() bool {
	for _, k := range l.kinds {
		if k.bad() {
			return false
		}
	}
	return true
}

func (l *load) String() string {
	var right, wrong, calm, cut, refused int64
	for _, k := range l.kinds {
		right, wrong, refused = right+k.right.Load(), wrong+k.wrong.Load(), refused+k.refused.Load()
		if k.calm {
			calm += k.failed.Load()
		} else {
			cut += k.failed.Load()
		}
	}
	return fmt.Sprintf("%d right, %d wrong, %d failed (and by flapping backends %d refused, %d cut)", right, wrong, calm, refused, cut)
}

func (l *load) report(w io.Writer) {
	fmt.Fprintf(w, "%-12s %9s %9s %7s %8s %6s\n", "clients", "sent", "right", "failed", "refused", "wrong")
	for _, k := range l.kinds {
		fmt.Fprintf(w, "%-12s %9d %9d %7d %8d %6d\n", k.name, k.sent.Load(), k.right.Load(), k.failed.Load(), k.refused.Load(), k.wrong.Load())
		if k.first != nil {
			fmt.Fprintf(w, "  the first: %v\n", k.first)
		}
	}
}
