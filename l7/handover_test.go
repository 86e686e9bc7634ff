package l7

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// echoes is a backend that answers requests, upgrades to an echo, or echoes
// from the start.
func echoes(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go serveEcho(c)
		}
	}()
	return ln.Addr().String()
}

func serveEcho(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	for {
		first, err := r.Peek(4)
		if err != nil {
			return
		}
		if string(first) != "GET " {
			io.Copy(c, r)
			return
		}
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		if req.Header.Get("Upgrade") != "" {
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
			io.Copy(c, r)
			return
		}
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(req.URL.Path), req.URL.Path)
	}
}

// talk is a client that says something over one connection and checks what
// comes back, again and again.
type talk struct {
	net.Conn
	r     *bufio.Reader
	count int
}

func dialTalk(t *testing.T, addr, first string) *talk {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	k := &talk{Conn: c, r: bufio.NewReader(c)}
	if first != "" {
		io.WriteString(c, first)
		res, err := http.ReadResponse(k.r, nil)
		if err != nil || res.StatusCode != 101 {
			t.Fatalf("got %v, %v", res, err)
		}
	}
	return k
}

// ask sends one request in two pieces and reads the answer.
func (k *talk) ask() error {
	k.SetDeadline(time.Now().Add(patience))
	k.count++
	path := fmt.Sprintf("/%d", k.count)
	io.WriteString(k, "GET "+path+" HTTP/1.1\r\nHost:")
	io.WriteString(k, " a\r\n\r\n")
	res, err := http.ReadResponse(k.r, nil)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(res.Body)
	if err == nil && (res.StatusCode != 200 || string(body) != path || res.Close) {
		err = fmt.Errorf("asked for %s and got %s %q, close %v", path, res.Status, body, res.Close)
	}
	return err
}

// echo sends up to 200 KB and reads them back at the same time.
func (k *talk) echo() error {
	k.SetDeadline(time.Now().Add(patience))
	k.count++
	text := bytes.Repeat(fmt.Appendf(nil, "%d,", k.count), 1+k.count%7*5000)
	go k.Write(text)
	got := make([]byte, len(text))
	if _, err := io.ReadFull(k.r, got); err != nil {
		return err
	}
	if !bytes.Equal(got, text) {
		return fmt.Errorf("message %d came back as another", k.count)
	}
	return nil
}

const upgradeToEcho = "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n"

// handOn makes one proxy give all it has to the other.
func handOn(t *testing.T, from, to *lab) {
	t.Helper()
	to.proxy.Export(nil)
	from.proxy.Export(func(h Handed) {
		if err := to.proxy.Import(h); err != nil {
			t.Error(err)
		}
		from.proxy.Gave(1)
	})
}

func TestLiveConnectionsMoveToAnotherProxyAndBack(t *testing.T) {
	backend := echoes(t)
	document := "listeners: { web: { bind: \"127.0.0.1:1\" }, raw: { bind: \"127.0.0.1:2\", protocol: tcp, pool: app } }\nroutes: [ pool: app ]\npools:\n  app: { backends: [\"" + backend + "\"] }\n"
	a, b := startLab(t, labOptions{threads: 2}, document), startLab(t, labOptions{threads: 3}, document)
	raw := a.alsoAt("raw")

	var idle []*talk
	var work sync.WaitGroup
	var done atomic.Bool
	var said atomic.Int64
	busy := func(k *talk, what func() error) {
		work.Go(func() {
			for !done.Load() {
				if err := what(); err != nil {
					t.Errorf("message %d: %v", k.count, err)
					return
				}
				said.Add(1)
			}
		})
	}
	for range 20 {
		k := dialTalk(t, a.addr, "")
		if err := k.ask(); err != nil {
			t.Fatal(err)
		}
		idle = append(idle, k)
	}
	for range 8 {
		k := dialTalk(t, a.addr, "")
		busy(k, k.ask)
		w := dialTalk(t, a.addr, upgradeToEcho)
		busy(w, w.echo)
		r := dialTalk(t, raw, "")
		busy(r, r.echo)
	}
	for i := range 10 {
		from, to := a, b
		if i%2 == 1 {
			from, to = b, a
		}
		before := said.Load()
		handOn(t, from, to)
		for said.Load() < before+100 && !t.Failed() {
			time.Sleep(time.Millisecond) // the load paces the moves
		}
		deadline := time.Now().Add(patience)
		for from.proxy.Stats().Connections > 0 {
			if time.Now().After(deadline) {
				t.Fatalf("move %d: %d connections stayed", i, from.proxy.Stats().Connections)
			}
		}
	}
	done.Store(true)
	work.Wait()
	for _, k := range idle {
		if err := k.ask(); err != nil {
			t.Error(err)
		}
	}
	if n := a.proxy.Stats().Connections; n != 20+24 {
		t.Errorf("%d connections are counted, want 44", n)
	}
	for _, s := range b.proxy.Stats().Backends {
		if s.Active != 0 {
			t.Errorf("the proxy that gave all away has %+v", s)
		}
	}
}

func TestAConnectionThatIsNotUnderstoodIsRefused(t *testing.T) {
	l := startLab(t, labOptions{}, pool(echoes(t)))
	for _, h := range []Handed{
		{Version: HandedVersion + 1, Kind: handedHTTP1, Listener: "web", FDs: []int{0}},
		{Version: HandedVersion, Kind: handedHTTP1, Listener: "gone", FDs: []int{0}},
		{Version: HandedVersion, Kind: handedTunnel, Listener: "web", Pool: "app", Backend: "1.2.3.4:5", FDs: []int{0, 1}},
		{Version: HandedVersion, Kind: "quic", Listener: "web", FDs: []int{0}},
		{Version: HandedVersion, Kind: handedHTTP1, Listener: "web"},
	} {
		if err := l.proxy.Import(h); err == nil {
			t.Errorf("%+v is accepted", h)
		}
	}
	if n := l.proxy.Stats().Connections; n != 0 {
		t.Errorf("%d connections are counted", n)
	}
}

// alsoAt makes the first thread accept for another listener.
func (l *lab) alsoAt(listener string) string {
	l.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		l.t.Fatal(err)
	}
	defer ln.Close()
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		l.t.Fatal(err)
	}
	defer f.Close()
	fd, err := dup(f)
	if err == nil {
		err = l.proxy.Accept(0, listener, fd)
	}
	if err != nil {
		l.t.Fatal(err)
	}
	return ln.Addr().String()
}
