package app

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cirque-lb/lb/cmd/internal/admin"
)

// echoBackend answers requests, upgrades to an echo, or echoes from the start.
func echoBackend(t *testing.T) string {
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
	for r := bufio.NewReader(c); ; {
		if first, err := r.Peek(4); err != nil || string(first) != "GET " {
			io.Copy(c, r)
			return
		}
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		if req.Header.Get("Upgrade") != "" {
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
			io.Copy(c, r)
			return
		}
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(req.URL.Path), req.URL.Path)
	}
}

// talk is one connection on which something is said and comes back.
type talk struct {
	net.Conn
	r     *bufio.Reader
	count int
}

const talkTime = 20 * time.Second

func dialTalk(t *testing.T, port int, upgrade bool) *talk {
	t.Helper()
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	k := &talk{Conn: c, r: bufio.NewReader(c)}
	if !upgrade {
		return k
	}
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
	res, err := http.ReadResponse(k.r, nil)
	if err != nil || res.StatusCode != 101 {
		t.Fatalf("got %v, %v", res, err)
	}
	return k
}

func (k *talk) ask() error {
	k.SetDeadline(time.Now().Add(talkTime))
	k.count++
	path := fmt.Sprintf("/%d", k.count)
	fmt.Fprintf(k, "GET %s HTTP/1.1\r\nHost: a\r\n\r\n", path)
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
	k.SetDeadline(time.Now().Add(talkTime))
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

func TestAnUpgradeClosesNoLiveConnection(t *testing.T) {
	const upgrades, idles, busy = 5, 50, 20
	s := newSite(t)
	text, err := os.ReadFile(s.file())
	if err != nil {
		t.Fatal(err)
	}
	raw, backend := freePort(t), echoBackend(t)
	text = bytes.Replace(text, []byte("listeners:\n"), fmt.Appendf(nil, "listeners:\n  raw: { bind: \"127.0.0.1:%d\", protocol: tcp, pool: echo }\n", raw), 1)
	text = bytes.Replace(text, []byte("- pool: app"), []byte("- pool: echo"), 1)
	text = fmt.Appendf(text, "  echo: { backends: [%q] }\n", backend)
	if err := os.WriteFile(s.file(), text, 0o644); err != nil {
		t.Fatal(err)
	}
	c := s.start()

	var idle []*talk
	for range idles {
		k := dialTalk(t, s.port, false)
		if err := k.ask(); err != nil {
			t.Fatal(err)
		}
		idle = append(idle, k)
	}
	var done atomic.Bool
	var said, lost atomic.Int64
	var work sync.WaitGroup
	keep := func(kind string, k *talk, what func() error) {
		work.Go(func() {
			for !done.Load() {
				if err := what(); err != nil {
					lost.Add(1)
					t.Errorf("%s, message %d: %v", kind, k.count, err)
					return
				}
				said.Add(1)
			}
		})
	}
	for range busy {
		w, r := dialTalk(t, s.port, true), dialTalk(t, raw, false)
		keep("tunnel", w, w.echo)
		keep("tcp", r, r.echo)
	}
	k := dialTalk(t, s.port, false)
	keep("keep-alive", k, k.ask)
	for range upgrades {
		var old []int
		s.until("a crew serves alone", func() bool { old = s.pids(); return len(old) == 2 })
		before := said.Load()
		c.Process.Signal(syscall.SIGUSR2)
		s.until("another crew serves and the old one is gone", func() bool {
			now := s.pids()
			return len(now) == 2 && len(old) == 2 && now[0] != old[0] && now[1] != old[1]
		})
		s.until("all go on", func() bool { return said.Load() > before+50 || lost.Load() > 0 })
	}
	done.Store(true)
	work.Wait()
	for _, k := range idle {
		if err := k.ask(); err != nil {
			lost.Add(1)
			t.Errorf("an idle connection: %v", err)
		}
	}
	t.Logf("%d upgrades: %d messages, %d of %d connections lost", upgrades, said.Load(), lost.Load(), idles+2*busy+1)
}

// What a new worker refuses, of a backend that is configured no more, drains
// where it is; all else moves.
func TestWhatANewWorkerRefusesDrainsAndTheRestMoves(t *testing.T) {
	s := newSite(t)
	text, err := os.ReadFile(s.file())
	if err != nil {
		t.Fatal(err)
	}
	raw, gone, kept := freePort(t), echoBackend(t), echoBackend(t)
	text = bytes.Replace(text, []byte("listeners:\n"), fmt.Appendf(nil, "listeners:\n  raw: { bind: \"127.0.0.1:%d\", protocol: tcp, pool: echo }\n", raw), 1)
	text = bytes.Replace(text, []byte("- pool: app"), []byte("- pool: echo"), 1)
	text = bytes.Replace(text, []byte("timeout: 5s"), []byte("timeout: 60s"), 1) // a busy machine shall not cut them
	pools := func(backends ...string) []byte {
		return fmt.Appendf(bytes.Clone(text), "  echo: { balance: round_robin, backends: [\"%s\"] }\n", strings.Join(backends, `", "`))
	}
	if err := os.WriteFile(s.file(), pools(gone, kept), 0o644); err != nil {
		t.Fatal(err)
	}
	c := s.start()

	var idle, joined []*talk
	for range 10 {
		k := dialTalk(t, s.port, false)
		idle = append(idle, k)
		joined = append(joined, dialTalk(t, raw, false), dialTalk(t, s.port, true))
	}
	goOn := func(when string) {
		t.Helper()
		for _, k := range idle {
			if err := k.ask(); err != nil {
				t.Fatalf("%s, an idle connection: %v", when, err)
			}
		}
		for _, k := range joined {
			if err := k.echo(); err != nil {
				t.Fatalf("%s, a joined connection: %v", when, err)
			}
		}
	}
	goOn("before")
	leave := 0
	s.until("the backends' connections are counted", func() bool {
		all, err := admin.Dial(s.socket()).Backends(t.Context())
		total := 0
		for _, b := range all {
			if total += b.Active; b.Address == gone {
				leave = b.Active
			}
		}
		return err == nil && total == len(joined)
	})
	if err := os.WriteFile(s.file(), pools(kept), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := s.order("POST", "/v1/config/reload", ""); err != nil {
		t.Fatal(err)
	}
	goOn("after the reload")
	var old []int
	s.until("a crew serves", func() bool { old = s.pids(); return len(old) == 2 })
	c.Process.Signal(syscall.SIGUSR2)
	s.until("another crew serves", func() bool {
		fresh := 0
		for _, w := range s.workers() {
			if w.State == "ready" && !slices.Contains(old, w.PID) {
				fresh++
			}
		}
		return fresh == 2
	})
	goOn("while the old crew drains")
	s.until("the old crew has those to the backend that is gone, and no others", func() bool { return s.connections(old) == leave })
	for _, k := range joined {
		k.Close()
	}
	s.until("the old crew is gone", func() bool { return len(s.pids()) == 2 })
	joined = nil
	goOn("after the upgrade")
}

// connections is how many those workers have.
func (s *site) connections(pids []int) (n int) {
	for _, w := range s.workers() {
		if slices.Contains(pids, w.PID) {
			n += w.Connections
		}
	}
	return n
}
