package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	patience = 3 * time.Second
	atOnce   = 20_000 // clients, at most
)

// outcome is what became of a load.
type outcome struct {
	mu   sync.Mutex
	ends map[string]int // how: "200", "503 REASON", or what else
	took []time.Duration

	friends                     []time.Duration
	friendsAsked, friendsFailed int
	friendsRefused              int // with the reason that memory is short
	why                         string
	died                        bool // one of the proxy's processes
}

func (c *outcome) add(how string, took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ends[how]++
	if how == "200" {
		c.took = append(c.took, took)
	}
}

func (c *outcome) goodput() float64   { return float64(c.ends["200"]) / length.Seconds() }
func (c *outcome) p99() time.Duration { return quantile(c.took) }

func quantile(all []time.Duration) time.Duration {
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[len(all)*99/100]
}

// list says how those that were refused ended, or those that met no answer.
func (c *outcome) list(refused bool) string {
	var hows []string
	for how := range c.ends {
		if how != "200" && strings.HasPrefix(how, "503") == refused {
			hows = append(hows, how)
		}
	}
	slices.SortFunc(hows, func(a, b string) int { return cmp.Or(c.ends[b]-c.ends[a], strings.Compare(a, b)) })
	for i, how := range hows {
		hows[i] = fmt.Sprintf("%d %s", c.ends[how], strings.TrimPrefix(how, "503 "))
	}
	return cmp.Or(strings.Join(hows, ", "), "0")
}

// offer makes so many clients a second, whatever becomes of them.
func (o *overload) offer(addr string, perSecond float64) *outcome {
	c := &outcome{ends: map[string]int{}}
	var all sync.WaitGroup
	slots := make(chan bool, atOnce)
	began := time.Now()
	for i := 0; i < int(perSecond*length.Seconds()); i++ {
		time.Sleep(time.Until(began.Add(time.Duration(float64(i) / perSecond * float64(time.Second)))))
		select {
		case slots <- true:
		default:
			c.add("the load is too much for this machine", 0)
			continue
		}
		all.Go(func() {
			defer func() { <-slots }()
			start := time.Now()
			how := once(addr, o.from(i), o.ask)
			c.add(how, time.Since(start))
		})
	}
	all.Wait()
	return c
}

// once asks on a connection of its own.
func once(addr, from, request string) string {
	d := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := d.Dial("tcp", addr)
	if err != nil {
		return errorText("connect", err)
	}
	defer conn.Close()
	conn.(*net.TCPConn).SetLinger(0) // ports are scarce
	conn.SetDeadline(time.Now().Add(patience))
	go io.WriteString(conn, request) // a refusal may come before it is written
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return errorText("answer", err)
	}
	body, err := io.ReadAll(res.Body)
	switch {
	case err != nil:
		return errorText("body", err)
	case res.StatusCode == 200:
		return "200"
	}
	_, reason, _ := strings.Cut(strings.TrimSpace(string(body)), ": ")
	if strings.Contains(reason, "<") || len(reason) > 40 {
		reason = "" // a page
	}
	return strings.TrimSpace(fmt.Sprintf("%d %s", res.StatusCode, reason))
}

func errorText(at string, err error) string {
	var late net.Error
	switch {
	case errors.As(err, &late) && late.Timeout():
		return at + ": timeout"
	case errors.Is(err, syscall.ECONNRESET):
		return at + ": reset"
	case errors.Is(err, syscall.ECONNREFUSED):
		return at + ": refused"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return at + ": closed"
	}
	return at + ": " + err.Error()
}

// friendly is the clients that were connected before.
type friendly struct {
	clients []*http.Client
	url     string
}

func connect(addr string) (*friendly, error) {
	f := &friendly{url: "http://" + addr + "/now"}
	for range friends {
		f.clients = append(f.clients, &http.Client{Timeout: patience, Transport: &http.Transport{MaxConnsPerHost: 1}})
	}
	for _, c := range f.clients {
		if err := ask(c, f.url); err != nil {
			return nil, err
		}
	}
	return f, nil
}

func (f *friendly) close() {
	for _, c := range f.clients {
		c.CloseIdleConnections()
	}
}

func ask(c *http.Client, url string) error {
	res, err := c.Get(url)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != 200 {
		err = fmt.Errorf("%s %.60q", res.Status, body)
	}
	return err
}

// beside has the friends ask while a load lasts.
func (f *friendly) beside(load func() *outcome) *outcome {
	var mu sync.Mutex
	var took []time.Duration
	asked, failed, refused, why := 0, 0, 0, ""
	stop := make(chan bool)
	var all sync.WaitGroup
	for _, c := range f.clients {
		all.Go(func() {
			tick := time.NewTicker(pace)
			defer tick.Stop()
			for {
				select {
				case <-stop:
					return
				case <-tick.C:
				}
				start := time.Now()
				err := ask(c, f.url)
				mu.Lock()
				asked++
				took = append(took, time.Since(start))
				switch {
				case err == nil:
				case strings.Contains(err.Error(), "503 Service Unavailable: memory_limit"):
					refused++
				default:
					failed++
					why = err.Error()
				}
				mu.Unlock()
			}
		})
	}
	out := load()
	close(stop)
	all.Wait()
	out.friends, out.friendsAsked, out.friendsFailed, out.friendsRefused, out.why = took, asked, failed, refused, why
	return out
}

// startOrigin answers after a while, at /now at once.
func startOrigin() (*http.Server, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &http.Server{Addr: ln.Addr().String(), MaxHeaderBytes: 1 << 20, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/now":
		case "/long":
			time.Sleep(long)
		default:
			time.Sleep(takes)
		}
		io.WriteString(w, "ok")
	})}
	go s.Serve(ln)
	return s, nil
}
