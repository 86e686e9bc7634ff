package l7

import (
	"crypto/tls"
	"runtime"
	"testing"
	"time"
)

// crowded is a gate with every place taken and as many waiting as may.
func crowded(t *testing.T, g *gate) (waiting chan error) {
	t.Helper()
	if err := g.enter(); err != nil {
		t.Fatal(err)
	}
	for range cap(g.running) - 1 {
		g.enter()
	}
	waiting = make(chan error, maxGateWaiting)
	for range maxGateWaiting {
		go func() { waiting <- g.enter() }()
	}
	for g.waiting.Load() < maxGateWaiting {
		runtime.Gosched()
	}
	return waiting
}

func TestTheGateRefusesWhenTooManyWait(t *testing.T) {
	var g gate
	waiting := crowded(t, &g)
	if err := g.enter(); err != errBusy {
		t.Errorf("got %v", err)
	}
	for range maxGateWaiting {
		g.leave()
		if err := <-waiting; err != nil {
			t.Error(err)
		}
	}
}

// A handshake leaves the gate while it waits for its peer. When it is not let in
// again, it has no place to give back: it would be another one's, which would
// never end then.
func TestAHandshakeThatIsRefusedTakesNobodysPlace(t *testing.T) {
	l := startSecure(t, newAuthority("ca"), labOptions{}, secured("", deadPort(t)))
	c := l.dial().say("\x16")
	for waits := false; !waits; { // until the handshake has read that
		on(l, func() {
			l.proxy.threads[0].clients.each(func(c clientConn) {
				if s, ok := c.(*shakeTLS); ok && !s.raw.Unread() {
					s.t.wire.mu.Lock()
					defer s.t.wire.mu.Unlock()
					waits = len(s.t.wire.own) == 0
				}
			})
		})
	}
	g := &l.proxy.handshakes
	for len(g.running) > 0 {
		runtime.Gosched()
	}
	waiting := crowded(t, g)
	c.say("\x03\x01\x00\x05")
	for deadline := time.Now().Add(patience); handshakeFailures(l)["overload"] == 0; {
		if time.Now().After(deadline) {
			t.Fatalf("got %v", handshakeFailures(l))
		}
	}
	for range maxGateWaiting {
		g.leave()
		<-waiting
	}
	if len(g.running) != cap(g.running) {
		t.Errorf("%d places are taken, want %d", len(g.running), cap(g.running))
	}
}

func TestTLSADyingClientFreesItsHandshake(t *testing.T) {
	a := newAuthority("ca")
	l := startSecure(t, a, labOptions{}, secured("", "127.0.0.1:9"))
	for range 50 {
		l.dial().say("\x16\x03\x01\x02\x00").Close()
	}
	l.settled()
	for deadline := time.Now().Add(patience); len(l.proxy.handshakes.running) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d handshakes hold the gate", len(l.proxy.handshakes.running))
		}
	}
}

func TestSilentHandshakesDoNotHoldTheGate(t *testing.T) {
	a := newAuthority("ca")
	o := startOrigin(t, answering(ok))
	l := startSecure(t, a, labOptions{}, secured("", o.addr))
	for range 200 {
		l.dial().say("\x16\x03\x01\x02\x00\x01")
	}
	p, _ := l.dialTLS(&tls.Config{RootCAs: a.Pool(), ServerName: "a.example"})
	p.get("/").want(t, "200", "ok")
}
