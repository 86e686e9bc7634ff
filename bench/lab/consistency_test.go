package main

import (
	"bufio"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestARowCountsByWhoHadTheConnection(t *testing.T) {
	m := lookUp(t).byName("edge-3")
	began := time.Unix(1000, 0)
	flows := []liveFlow{{tunnel, 1, m.address().String()}, {keep, 2, "edge-3"}, {tunnel, 3, "10.77.11.2"}, {slow, 4, ""}}
	fail := func(node string, opened time.Duration) failure {
		return failure{Node: node, Opened: began.Add(opened)}
	}
	for _, c := range []struct {
		sentence string
		f        failure
		want     row
	}{
		{"the dead node's", fail("edge-3", -1), row{lived: 1, opened: 9, dead: 3, deadLost: 1}},
		{"the dead node's, by its address", fail("10.77.13.2", -1), row{lived: 1, opened: 9, dead: 3, deadLost: 1}},
		{"the dead node's, of its last moment", fail("edge-3", 1), row{lived: 1, opened: 9, dead: 3, deadLost: 1}},
		{"nobody's yet", fail("", -1), row{lived: 1, opened: 9, dead: 3, deadLost: 1}},
		{"another's", fail("edge-1", -1), row{lived: 1, livedLost: 1, opened: 9, dead: 3}},
		{"a new one", fail("", 1), row{lived: 1, opened: 9, openedLost: 1, dead: 3}},
	} {
		var r row
		r.add(report{Kinds: map[string]tally{short: {Opened: 9}}, Failures: []failure{c.f}}, began, flows, outcome{died: nodeDied(m, began)})
		if r.lived != c.want.lived || r.livedLost != c.want.livedLost || r.opened != c.want.opened || r.openedLost != c.want.openedLost || r.dead != c.want.dead || r.deadLost != c.want.deadLost {
			t.Errorf("%s: %+v, want %+v", c.sentence, r, c.want)
		}
	}
	if per(1, 2500) != "40" || per(0, 1) != "0" || per(0, 0) != "-" || per(1, 1_000_000) != "1" {
		t.Error("per 100 000 is not rounded up")
	}
}

func TestTheLogsTellWhenANodeWasMissed(t *testing.T) {
	const log = `time=2026-01-02T03:04:05.000Z level=INFO msg=epoch.minted subject=3 reason="" detail="3 by edge-1: edge-1=4 edge-2=4"
time=2026-01-02T03:04:07.000Z level=INFO msg=epoch.learnt subject=4 reason="" detail="4 by edge-3: edge-1=4 edge-2=4 edge-3=4"
time=2026-01-02T03:04:09.500Z level=INFO msg=epoch.learnt subject=5 reason="" detail="5 by edge-1: edge-1=4 edge-2=4"
`
	at, found := firstWithout(log, time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC), "edge-3")
	if !found || at.Second() != 9 {
		t.Errorf("at %v, %v", at, found)
	}
}

// through starts the echo and makes a load whose tunnels come to it.
func through(t *testing.T) *load {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go echo(c)
		}
	}()
	at := netip.MustParseAddrPort(l.Addr().String())
	return newLoad(netip.AddrPortFrom(at.Addr(), at.Port()-1))
}

func TestATunnelChecksWhatComesBack(t *testing.T) {
	l := through(t)
	f := l.dial(t.Context(), tunnel, 0, echoOf(l.target))
	done := make(chan bool)
	go func() { done <- l.chat(t.Context(), f) }()
	for !strings.HasPrefix(l.first(), "127.0.0.1") {
		time.Sleep(time.Millisecond)
	}
	l.life.Add(1)
	if !<-done {
		t.Error("a tunnel that was asked to end failed")
	}
	if r := l.take(); r.Kinds[tunnel].Ended != 1 || r.all().Failed != 0 {
		t.Errorf("got %+v", r)
	}
}

func (l *load) first() string {
	for _, f := range l.flows() {
		return f.Node
	}
	return ""
}

func TestATunnelThatAnswersWithOthersBytesFails(t *testing.T) {
	ours, theirs := net.Pipe()
	go func() { theirs.Read(make([]byte, 100)); io.WriteString(theirs, "10.0.0.1 0 beef\n") }()
	l := newLoad(netip.AddrPort{})
	f := &flow{Conn: pipeConn{ours}, in: bufio.NewReader(ours), kind: tunnel, opened: time.Now()}
	if l.chat(t.Context(), f) {
		t.Error("it did not fail")
	}
	if r := l.take(); len(r.Failures) != 1 || r.Failures[0].Stage != "wrong" {
		t.Errorf("got %+v", r)
	}
}

// pipeConn has the addresses of TCP.
type pipeConn struct{ net.Conn }

func (pipeConn) LocalAddr() net.Addr { return &net.TCPAddr{Port: 1} }
