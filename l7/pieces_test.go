package l7

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"
)

// TestWhateverPiecesTheBytesArriveIn sends pipelined requests of all framings
// through the proxy, cut at random by the client, while the origin cuts its
// responses at random, too. Each response must be the echo of its request.
func TestWhateverPiecesTheBytesArriveIn(t *testing.T) {
	o := startOrigin(t, echoInPieces)
	l := startLab(t, labOptions{threads: 2}, pool(o.addr))
	rounds := 60
	if testing.Short() {
		rounds = 10
	}
	for seed := range rounds {
		random := rand.New(rand.NewPCG(uint64(seed), 7))
		var wire strings.Builder
		var want []string
		for i := range 1 + random.IntN(12) {
			request, echo := anyRequest(random, i)
			wire.WriteString(request)
			want = append(want, echo)
		}
		c := l.dial()
		go writePieces(c.Conn, wire.String(), random.Uint64())
		for i, w := range want {
			if r := c.response(); !strings.HasPrefix(r.status, "HTTP/1.1 200") || r.body != w {
				t.Fatalf("seed %d, response %d: %q, %d bytes; want %d\n got %q\nwant %q", seed, i, r.status, len(r.body), len(w), shorten(r.body), shorten(w))
			}
		}
		c.Close()
	}
}

// anyRequest makes a request and what echoInPieces says to it.
func anyRequest(random *rand.Rand, i int) (wire, echo string) {
	body := strings.Repeat(string(rune('a'+i)), random.IntN(1+random.IntN(1+random.IntN(100_000))))
	head := fmt.Sprintf("POST /%d HTTP/1.1\r\nHost: a\r\nX-Filler: %s\r\n", i, strings.Repeat("f", random.IntN(3000)))
	switch random.IntN(3) {
	case 0:
		return strings.Replace(head, "POST", "GET", 1) + "\r\n", fmt.Sprintf("GET /%d ", i)
	case 1:
		return head + fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body), fmt.Sprintf("POST /%d %s", i, body)
	}
	var b strings.Builder
	b.WriteString(head + "Transfer-Encoding: chunked\r\n\r\n")
	for rest := body; rest != ""; {
		n := 1 + random.IntN(len(rest))
		fmt.Fprintf(&b, "%x\r\n%s\r\n", n, rest[:n])
		rest = rest[n:]
	}
	b.WriteString("0\r\n")
	if random.IntN(2) == 0 {
		b.WriteString("X-Trailer: 1\r\n")
		body += " trailer"
	}
	return b.String() + "\r\n", fmt.Sprintf("POST /%d %s", i, body)
}

// echoInPieces answers with method, path and body (and the word trailer), in
// any framing and in pieces.
func echoInPieces(c *peer) {
	random := rand.New(rand.NewPCG(uint64(c.number), 9))
	for {
		head := c.request()
		if head == "" {
			return
		}
		line, _, _ := strings.Cut(head, " HTTP/1.1")
		body := ""
		if field(head, "transfer-encoding") == "chunked" {
			var trailer string
			if body, trailer = c.chunks(); trailer != "" {
				body += " trailer"
			}
		} else if n := 0; field(head, "content-length") != "" {
			fmt.Sscan(field(head, "content-length"), &n)
			body = c.body(n)
		}
		reply := line + " " + body
		switch random.IntN(4) {
		case 0:
			writePieces(c.Conn, "HTTP/1.1 200 OK\r\n\r\n"+reply, random.Uint64())
			return
		case 1:
			reply = fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(reply), reply)
		default:
			reply = fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(reply), reply)
		}
		writePieces(c.Conn, reply, random.Uint64())
	}
}

// writePieces writes s in a few pieces, of any size, most of them small.
func writePieces(c net.Conn, s string, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 3))
	c.SetWriteDeadline(time.Now().Add(patience))
	for pieces := 0; s != ""; pieces++ {
		n := 1 + random.IntN(1+random.IntN(len(s)))
		if pieces < 20 {
			n = min(n, 1+random.IntN(40))
		}
		if _, err := io.WriteString(c, s[:n]); err != nil {
			return
		}
		s = s[n:]
	}
}
