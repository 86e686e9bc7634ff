package l7

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
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
