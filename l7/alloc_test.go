package l7

import (
	"bytes"
	"net"
	"strings"
	"testing"
	"time"
)

// plainOrigin answers every read that ends a head with the same bytes, without
// allocating.
func plainOrigin(t testing.TB, response string) string {
	o := startOrigin(t, func(c *peer) {
		in, out := make([]byte, 16<<10), []byte(response)
		for {
			n, err := c.Conn.Read(in)
			if err != nil {
				return
			}
			for range bytes.Count(in[:n], []byte("\r\n\r\n")) {
				if _, err := c.Conn.Write(out); err != nil {
					return
				}
			}
		}
	})
	return o.addr
}

const browserRequest = "GET /some/path?q=1 HTTP/1.1\r\nHost: www.example.com\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n" +
	"Accept: text/html,application/xhtml+xml\r\nAccept-Language: en\r\nAccept-Encoding: gzip, deflate, br\r\nCookie: a=b; c=d\r\n\r\n"

var kilobyte = "HTTP/1.1 200 OK\r\nServer: x\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\nContent-Type: text/plain\r\nContent-Length: 1024\r\n\r\n" + strings.Repeat("x", 1024)

// exchangeOnce sends a request and reads a response of that size.
func exchangeOnce(t testing.TB, c net.Conn, request, in []byte, size int) {
	if _, err := c.Write(request); err != nil {
		t.Fatal(err)
	}
	for size > 0 {
		n, err := c.Read(in[:size])
		if err != nil {
			t.Fatal(err)
		}
		size -= n
	}
}

// steady is a client that has warmed the proxy up, with what it sends and how
// much it gets.
func steady(t testing.TB, o labOptions, document func(addr string) string, request, response string) (once func()) {
	l := startLab(t, o, document(plainOrigin(t, response)))
	c := l.dial()
	c.SetDeadline(time.Now().Add(10 * patience)) // for all of them
	c.say(request)
	head := c.head()
	if field(head, "content-length") != "1024" {
		t.Fatalf("not a kilobyte:\n%s", head)
	}
	size := len(head) + strings.Count(head, "\n") + 4 + 1024 // the next ones are just as long
	c.body(1024)
	in, out := make([]byte, 16<<10), []byte(request)
	for range 100 {
		exchangeOnce(t, c.Conn, out, in, size)
	}
	return func() { exchangeOnce(t, c.Conn, out, in, size) }
}

func TestAPlainRequestAllocatesNothing(t *testing.T) {
	once := steady(t, labOptions{}, func(a string) string { return pool(a) }, browserRequest, kilobyte)
	if n := testing.AllocsPerRun(2000, once); n != 0 {
		t.Errorf("%v allocations per request, want 0", n)
	}
}

func BenchmarkPlainRequest(b *testing.B) {
	once := steady(b, labOptions{}, func(a string) string { return pool(a) }, browserRequest, kilobyte)
	b.ReportAllocs()
	for b.Loop() {
		once()
	}
}
