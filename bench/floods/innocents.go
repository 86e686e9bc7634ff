package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cirque-lb/lb/bench/rig"
)

// innocents are clients that ask at a steady pace, half of them by HTTP/2.
type innocents struct{ clients []innocent }

type innocent struct {
	http *http.Client
	url  string
}

// innocence is what they met.
type innocence struct {
	asked, failed int
	p99           time.Duration // the median of all rounds' 99th percentiles: the machine has hiccups of its own
	why           string        // one of the failures
}

const (
	pace  = 10 * time.Millisecond
	round = 1500 * time.Millisecond
)

func newInnocents(r *rig.Running) *innocents {
	in := &innocents{}
	for i := range 8 {
		var p http.Protocols
		addr := r.Addr
		if i%2 == 0 {
			p.SetHTTP1(true)
		} else {
			p.SetUnencryptedHTTP2(true)
			addr = r.H2
		}
		in.clients = append(in.clients, innocent{&http.Client{Transport: &http.Transport{Protocols: &p}, Timeout: patience}, "http://" + addr + "/"})
	}
	return in
}

func (in *innocents) close() {
	for _, c := range in.clients {
		c.http.CloseIdleConnections()
	}
}

// watch counts while f runs.
func (in *innocents) watch(f func()) (out innocence) {
	var mu sync.Mutex
	var rounds [][]time.Duration
	began := time.Now()
	stop := make(chan bool)
	var all sync.WaitGroup
	for _, c := range in.clients {
		all.Go(func() {
			tick := time.NewTicker(pace)
			defer tick.Stop()
			for {
				select {
				case <-stop:
					return
				case <-tick.C:
				}
				d, err := c.ask()
				mu.Lock()
				out.asked++
				if err != nil {
					out.failed++
					out.why = err.Error()
				}
				n := int(time.Since(began) / round)
				for len(rounds) <= n {
					rounds = append(rounds, nil)
				}
				rounds[n] = append(rounds[n], d)
				mu.Unlock()
			}
		})
	}
	f()
	close(stop)
	all.Wait()
	out.p99 = medianP99(rounds)
	return out
}

// medianP99 leaves out rounds in which hardly anybody asked, as the last one's.
func medianP99(rounds [][]time.Duration) time.Duration {
	var all []time.Duration
	for _, took := range rounds {
		if len(took) >= 20 || len(rounds) == 1 && len(took) > 0 {
			slices.Sort(took)
			all = append(all, took[len(took)*99/100])
		}
	}
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[len(all)/2]
}

func (c innocent) ask() (time.Duration, error) {
	began := time.Now()
	res, err := c.http.Get(c.url)
	if err != nil {
		return time.Since(began), err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err == nil && (res.StatusCode != 200 || string(b) != "ok") {
		err = fmt.Errorf("%d %.60q", res.StatusCode, b)
	}
	return time.Since(began), err
}

// startOrigin serves "ok", and 4 MiB at /big; /sink reads a body first.
func startOrigin() (*http.Server, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	block := []byte(strings.Repeat("x", 64<<10))
	s := &http.Server{Addr: ln.Addr().String(), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/sink" {
			io.Copy(io.Discard, r.Body)
		}
		if r.URL.Path != "/big" {
			io.WriteString(w, "ok")
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(64*len(block)))
		for range 64 {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	})}
	go s.Serve(ln)
	return s, nil
}

// wall is a server that reads what comes, says GOAWAY after as much as lbd does,
// and reads on until the client goes.
type wall struct {
	ln   net.Listener
	addr string
}

// wallBytes is what a wall reads before it says GOAWAY: as much as a proxy that
// allows 100 resets of small requests.
const wallBytes = 16 << 10

// goaway is an HTTP/2 server's SETTINGS, and GOAWAY ENHANCE_YOUR_CALM.
var goaway = []byte("\x00\x00\x00\x04\x00\x00\x00\x00\x00" + "\x00\x00\x08\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x0b")

func startWall(serve func(net.Conn)) (*wall, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	w := &wall{ln, ln.Addr().String()}
	go func() { // ends with the listener
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	return w, nil
}

func serveWall(c net.Conn) {
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	buffer := make([]byte, 64<<10)
	for read, told := 0, false; read < 1<<20; {
		n, err := c.Read(buffer)
		if err != nil {
			return
		}
		if read += n; read > wallBytes && !told {
			told = true
			if _, err := c.Write(goaway); err != nil {
				return
			}
			c.(*net.TCPConn).CloseWrite()
		}
	}
}

// serveSilence reads until the client goes.
func serveSilence(c net.Conn) {
	defer c.Close()
	io.Copy(io.Discard, c)
}

func (w *wall) close() { w.ln.Close() }
