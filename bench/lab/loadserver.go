package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// The load runs in the client's namespace as a process of its own, `lab load
// SOCKET TARGET`, and takes orders over a unix socket, which namespaces share.

// order is the body of every POST.
type order struct {
	PerSecond int `json:"per_second,omitempty"` // /steady
	Keep      int `json:"keep,omitempty"`
	Streams   int `json:"streams,omitempty"`
	Tunnels   int `json:"tunnels,omitempty"`
	Slow      int `json:"slow,omitempty"`
	Connect   ms  `json:"connect,omitempty"` // patience, from then on
	Answer    ms  `json:"answer,omitempty"`
	N         int `json:"n,omitempty"` // /hold
	AtOnce    int `json:"at_once,omitempty"`

	Ports []int `json:"ports,omitempty"` // /rest; /hold instead of N
}

func serveLoad(ctx context.Context, socket string, target netip.AddrPort) error {
	if err := raiseFiles(); err != nil {
		return err
	}
	l := newLoad(target)
	var steady sync.WaitGroup
	defer steady.Wait()
	reply := func(w http.ResponseWriter, v any) { json.NewEncoder(w).Encode(v) }
	handle := func(mux *http.ServeMux, pattern string, f func(order) any) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			var o order
			if err := json.NewDecoder(r.Body).Decode(&o); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			reply(w, f(o))
		})
	}
	mux := http.NewServeMux()
	handle(mux, "POST /steady", func(o order) any { l.begin(ctx, &steady, o); return l.flows() })
	handle(mux, "POST /hold", func(o order) any { l.hold(ctx, append(o.Ports, make([]int, o.N)...), o.AtOnce); return l.flows() })
	handle(mux, "POST /rest", func(o order) any { return l.rest(ctx, o.Ports) })
	handle(mux, "POST /again", func(o order) any { l.again(o.AtOnce); return l.flows() })
	handle(mux, "POST /release", func(o order) any { l.release(); return l.flows() })
	handle(mux, "POST /renew", func(order) any { l.life.Add(1); return l.flows() })
	handle(mux, "POST /take", func(order) any { return l.take() })
	handle(mux, "POST /flows", func(order) any { return l.flows() })
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return fmt.Errorf("listen for orders: %w", err)
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}
	context.AfterFunc(ctx, func() { server.Close() })
	return server.Serve(listener)
}

func (l *load) begin(ctx context.Context, steady *sync.WaitGroup, o order) {
	if o.Connect > 0 && o.Answer > 0 {
		l.connect.Store(int64(o.Connect) * int64(time.Millisecond))
		l.answer.Store(int64(o.Answer) * int64(time.Millisecond))
	}
	for range o.Tunnels {
		steady.Go(func() { l.runTunnel(ctx) })
	}
	for range o.Slow {
		steady.Go(func() { l.runSlow(ctx) })
	}
	for range o.Keep {
		steady.Go(func() { l.runKeep(ctx) })
	}
	for range o.Streams {
		steady.Go(func() { l.runStream(ctx) })
	}
	if o.PerSecond > 0 {
		steady.Go(func() { l.runShort(ctx, o.PerSecond) })
	}
}

// raiseFiles lets one process hold tens of thousands of connections.
func raiseFiles() error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("read limit of open files: %w", err)
	}
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("raise limit of open files: %w", err)
	}
	return nil
}

// loadClient gives orders to a load.
type loadClient struct{ http http.Client }

func newLoadClient(socket string) *loadClient {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	return &loadClient{http.Client{Transport: &http.Transport{DialContext: dial}, Timeout: 2 * time.Minute}}
}

// do gives an order; the answer goes into reply unless that is nil.
func (c *loadClient) do(path string, o order, reply any) error {
	body, err := json.Marshal(o)
	if err != nil {
		return err
	}
	res, err := c.http.Post("http://load"+path, "application/json", bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("order %s to the load: %w", path, err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		return fmt.Errorf("order %s to the load: status %d: %s %w", path, res.StatusCode, text, err)
	}
	if reply == nil {
		return nil
	}
	return json.Unmarshal(text, reply)
}

// take returns what happened since the last take.
func (c *loadClient) take() (r report, err error) {
	err = c.do("/take", order{}, &r)
	return r, err
}
