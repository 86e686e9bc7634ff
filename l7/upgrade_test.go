package l7

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A tunnel that is agreed on while its worker hands its connections over goes,
// too; it would be cut when the drain is over.
func TestATunnelThatOpensWhileOthersMoveMovesToo(t *testing.T) {
	asked, release := make(chan bool, 1), make(chan bool)
	o := startOrigin(t, func(c *peer) {
		c.request()
		asked <- true
		<-release
		c.say("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
		io.Copy(c, c.Conn)
	})
	a, b := startLab(t, labOptions{}, pool(o.addr)), startLab(t, labOptions{}, pool(o.addr))
	c, err := net.Dial("tcp", a.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, upgradeToEcho)
	<-asked
	handOn(t, a, b)
	a.proxy.Drain(time.Now().Add(patience))
	close(release)
	k := &talk{Conn: c, r: bufio.NewReader(c)}
	if res, err := http.ReadResponse(k.r, nil); err != nil || res.StatusCode != 101 {
		t.Fatalf("got %v, %v", res, err)
	}
	if err := k.echo(); err != nil {
		t.Error(err)
	}
	select {
	case <-a.proxy.Done():
	case <-time.After(patience):
		t.Errorf("%d connections stayed", a.proxy.Stats().Connections)
	}
	if err := k.echo(); err != nil {
		t.Error(err)
	}
}

// A client that has just come is told to go with its first request, not before.
func TestH2DrainWaitsForTheFirstRequest(t *testing.T) {
	o := startOrigin(t, answering(ok))
	l := startLab(t, labOptions{}, pool(o.addr))
	r := l.raw()
	r.fr.WritePing(false, [8]byte{})
	r.want("PONG")
	l.proxy.Drain(time.Now().Add(patience))
	for range 2 {
		r.fr.WritePing(false, [8]byte{})
		r.want("PONG")
	}
	r.head(1, true, request("GET", "/")...)
	r.want("GOAWAY 2147483647 NO_ERROR")
	got := map[string]bool{}
	for f := r.next(); f != "EOF"; f = r.next() {
		got[f] = true
	}
	// Our PONG and the backend's answer race; both come.
	for _, want := range []string{"GOAWAY 1 NO_ERROR", "HEADERS 1 :status=200 content-length=2", `DATA 1 "ok" end`} {
		if !got[want] {
			t.Errorf("no %s among %v", want, got)
		}
	}
}

// One that never asks goes when the grace is over.
func TestH2DrainDoesNotWaitForever(t *testing.T) {
	l := startLab(t, labOptions{}, pool(startOrigin(t, answering(ok)).addr))
	r := l.raw()
	r.fr.WritePing(false, [8]byte{})
	r.want("PONG")
	const grace = 400 * time.Millisecond
	began := time.Now()
	l.proxy.Drain(began.Add(2 * grace))
	r.want("GOAWAY 2147483647 NO_ERROR", "GOAWAY 0 NO_ERROR", "EOF")
	if took := time.Since(began); took < grace*9/10 {
		t.Errorf("it had %v for its first request", took)
	}
}

// A request that came before its connection's time was over is answered, even
// if the loop hears of the time first.
func TestARequestThatCameInTimeIsAnswered(t *testing.T) {
	const keepAlive = 50 * time.Millisecond
	o := startOrigin(t, answering(ok))
	l := hurried(t, time.Second, keepAlive, pool(o.addr))
	for range 3 {
		c := l.dial()
		c.get("/").want(t, "200", "ok")
		held, done := make(chan bool), make(chan bool)
		l.proxy.threads[0].loop.Post(func() {
			close(held)
			<-done
		})
		<-held
		c.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		time.Sleep(2 * keepAlive) // the loop is late, that is what this is about
		close(done)
		c.response().want(t, "200", "ok")
		c.Close()
	}
}

// A TLS client that has shaken hands is about to ask. It is answered, and told to
// go with that, however long ago the drain began.
func TestAConnectionThatNeverAskedIsNotCutShortByADrain(t *testing.T) {
	a := newAuthority("ca")
	o := startOrigin(t, answering(ok))
	l := startSecure(t, a, labOptions{}, secured("", o.addr))
	const grace = 100 * time.Millisecond
	l.proxy.threads[0].loop.Post(func() { l.proxy.threads[0].grace = grace })
	fresh, _ := l.dialTLS(&tls.Config{RootCAs: a.Pool(), ServerName: "a.example"})
	idle, _ := l.dialTLS(&tls.Config{RootCAs: a.Pool(), ServerName: "a.example"})
	idle.get("/").want(t, "200", "ok")
	l.proxy.each(func(th *thread) { th.drain(grace) })
	idle.ended(t)
	last := fresh.get("/")
	last.want(t, "200", "ok")
	if field(last.head, "connection") != "close" {
		t.Errorf("the client is not told to go: %s", last.head)
	}
	fresh.ended(t)
}

// The last bytes of a response to a slow client are sent before a worker that
// drains is done.
func TestADrainIsNotOverWhileAClientTakesTheRest(t *testing.T) {
	const size = 4 << 20
	whole := Filter{Request: func(*Session) (*Response, error) {
		return &Response{Status: 200, Length: size, Body: make([]byte, size)}, nil
	}}
	l := startLab(t, labOptions{filters: map[string]Filter{"whole": whole}}, filtered([]string{"whole"}, "127.0.0.1:9"))
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 8<<10) })
	}}
	c, err := d.Dial("tcp", l.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	l.proxy.Drain(time.Now().Add(2 * patience))
	go func() {
		<-l.proxy.Done()
		l.stop() // as the end of the process
	}()
	slowly := make([]byte, 64<<10)
	for got := 0; got < size; {
		n, err := res.Body.Read(slowly)
		if got += n; err != nil && got < size {
			t.Fatalf("%d of %d bytes, then %v", got, size, err)
		}
		time.Sleep(100 * time.Microsecond)
	}
	select {
	case <-l.proxy.Done():
	case <-time.After(patience):
		t.Error("the drain does not end")
	}
}

// A client of HTTP/2 that was told to go may be slow to see it: what it begins
// meanwhile meets no reset, which would take the GOAWAY from it.
func TestH2DrainWaitsForTheClientsEnd(t *testing.T) {
	o := startOrigin(t, answering(ok))
	l := startLab(t, labOptions{}, pool(o.addr))
	quick := usualTimes
	quick.linger = 20 * time.Millisecond
	l.hurry(quick)
	r := l.raw()
	r.head(1, true, request("GET", "/")...)
	for f := r.next(); f != `DATA 1 "ok" end`; f = r.next() {
	}
	l.proxy.Drain(time.Now().Add(patience))
	for f := r.next(); f != "EOF"; f = r.next() {
	}
	time.Sleep(5 * quick.linger) // longer than a client that was not told to go has
	if n := l.proxy.Stats().Connections; n != 1 {
		t.Errorf("%d connections are open, want the one whose client has not closed", n)
	}
	r.c.Close()
	select {
	case <-l.proxy.Done():
	case <-time.After(patience):
		t.Error("the drain does not end")
	}
}
