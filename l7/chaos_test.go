package l7

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/cirque-lb/lb"
)

// Clients and backends that leave, stall and lie at random places leave nothing
// behind.
func TestNothingIsLeftBehind(t *testing.T) {
	moody := startOrigin(t, func(c *peer) {
		for c.request() != "" {
			switch rand.IntN(12) {
			case 0:
				return
			case 1:
				c.say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
				return
			case 2:
				c.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
				c.reset()
				return
			case 3:
				c.say("garbage\r\n\r\n")
				return
			case 4:
				c.say("HTTP/1.1 200 OK\r\n\r\nuntil close")
				return
			case 5:
				c.say(ok + "more")
			case 6:
				c.say(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", 300<<10, make([]byte, 300<<10)))
			case 7:
				c.say("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n")
			default:
				c.say(ok)
			}
		}
	})
	l := startLab(t, labOptions{threads: 2}, routed("timeout: { request: 100ms, idle: 100ms }", moody.addr, deadPort(t)))
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() {
			for range 25 {
				c := l.dial()
				for range 1 + rand.IntN(4) {
					c.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
				}
				switch rand.IntN(4) {
				case 0:
					c.reset()
				case 1:
					c.SetReadDeadline(time.Now().Add(100 * time.Millisecond)) // the body may be shorter
					io.CopyN(io.Discard, c.r, rand.Int64N(100))
				default:
					c.response()
				}
				c.Close()
			}
		})
	}
	clients.Wait()
	wantNothingLeft(t, l)
}

// wantNothingLeft waits for the proxy to be at rest.
func wantNothingLeft(t *testing.T, l *lab) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		left := remains(l)
		if left == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(left)
		}
		time.Sleep(time.Millisecond)
	}
}

// remains says what is not at rest.
func remains(l *lab) string {
	s := l.proxy.Stats()
	if s.Connections != 0 || s.Requests != 0 {
		return fmt.Sprintf("%d connections, %d requests", s.Connections, s.Requests)
	}
	for _, b := range s.Backends {
		if b.Active != 0 {
			return fmt.Sprintf("%+v", b)
		}
	}
	for _, e := range *l.proxy.endpointList.Load() {
		if e.key.protocol != lb.HTTP1 {
			continue // its connections are never idle
		}
		shelved := 0
		for i := range e.shards {
			e.shards[i].mu.Lock()
			shelved += len(e.shards[i].conns)
			e.shards[i].mu.Unlock()
		}
		if open, idle := e.open.Load(), e.idle.Load(); open != idle || int(idle) != shelved {
			return fmt.Sprintf("%s: %d open, %d idle, %d in shards", e.key.address, open, idle, shelved)
		}
	}
	text := ""
	for _, th := range l.proxy.threads {
		done := make(chan bool)
		th.loop.Post(func() {
			if len(th.active) > 0 || th.clients.n > 0 {
				text = fmt.Sprintf("%d exchanges, %d clients", len(th.active), th.clients.n)
			}
			close(done)
		})
		<-done
	}
	return text
}

// reset ends a connection by RST.
func (p *peer) reset() {
	p.Conn.(*net.TCPConn).SetLinger(0)
	p.Close()
}
