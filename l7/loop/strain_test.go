package loop

import (
	"io"
	"net"
	"testing"
	"time"
)

func TestTheKernelSaysWhatSocketsHave(t *testing.T) {
	const text = "sockets: used 87\nTCP: inuse 60 orphan 0 tw 9457 alloc 60 mem 1998\nUDP: inuse 0 mem 7\n"
	if n := tcpPages([]byte(text)); n != 1998 {
		t.Errorf("got %d pages", n)
	}
	if n := tcpPages([]byte("nonsense")); n != 0 {
		t.Errorf("got %d pages of nonsense", n)
	}
	if n := kernelMost(); n <= 0 {
		t.Errorf("%d pages are little", n)
	}
}

// blockedOn makes n connections of l blocked, and returns them and their peers.
func blockedOn(t *testing.T, l *Loop, n int) (all []*recorder, peers []net.Conn) {
	for range n {
		r := new(recorder)
		peers = append(peers, pair(t, l, r))
		all = append(all, r)
	}
	on(t, l, func() {
		l.strain.kernel = func() want { return wantNothing } // whatever else runs on this host
		for _, r := range all {
			r.conn.Write(make([]byte, 1<<20))
		}
	})
	return all, peers
}

func TestWhenTheKernelIsShortWhoTakesNothingEnds(t *testing.T) {
	l := running(t)
	const many = strainFrom + 8
	all, peers := blockedOn(t, l, many)
	go func() { // ends with the connection: this one reads on, slowly
		for {
			if _, err := io.CopyN(io.Discard, peers[0], 4<<10); err != nil {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
	}()
	time.Sleep(strainTime + 3*strainLook)
	on(t, l, func() {
		if n := len(l.strain.blocked); n != many {
			t.Errorf("%d of %d are left although the kernel is not short", n, many)
		}
		l.strain.kernel = func() want { return wantLittle }
	})
	// At fewer than strainFrom it is no strain any more.
	for end := time.Now().Add(patience); ; time.Sleep(strainLook) {
		left := 0
		on(t, l, func() { left = len(l.strain.blocked) })
		if left < strainFrom {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d are left", left)
		}
	}
	cut := 0
	for i, r := range all {
		select {
		case got := <-r.events:
			if cut++; got != ErrStrain.Error() {
				t.Errorf("%d ended with %q", i, got)
			}
			if i == 0 {
				t.Error("the one that reads was cut off")
			}
		default:
		}
	}
	if cut <= many-strainFrom || uint64(cut) != l.Strained() {
		t.Errorf("%d were cut off, %d counted", cut, l.Strained())
	}
	on(t, l, func() {
		for _, r := range all {
			r.conn.Close()
		}
		if len(l.strain.blocked) != 0 {
			t.Errorf("%d are in the books", len(l.strain.blocked))
		}
	})
}

func TestWhenTheKernelIsShortConnectionsBeginSlowly(t *testing.T) {
	const many = 5
	l := running(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	addr := ln.Addr().(*net.TCPAddr).AddrPort()
	how := make(chan error, many+1)
	conns := make([]dialer, many+1)
	all, _ := blockedOn(t, l, strainFrom)
	began := time.Now()
	on(t, l, func() {
		for _, c := range l.strain.blocked {
			c.stall.since = l.now + patience // they are not to end meanwhile
		}
		l.strain.kernel = func() want { return wantMuch }
		l.strain.asked = -strainAsk
		for i := range many {
			conns[i].how = how
			if err := conns[i].conn.Dial(l, Remote{Addr: addr}, &conns[i]); err != nil {
				t.Error(err)
			}
		}
		known := &conns[many]
		known.how = how
		if err := known.conn.Dial(l, Remote{Addr: addr, Known: true}, known); err != nil || known.conn.fd < 0 {
			t.Errorf("who is known has to wait (%v)", err)
		}
		if len(l.dials) != many-1 {
			t.Errorf("%d of %d wait", len(l.dials), many)
		}
	})
	for range many + 1 {
		if err := wait(t, how); err != nil {
			t.Error(err)
		}
	}
	if d := time.Since(began); d < (many-1)*strainBetween[wantMuch] {
		t.Errorf("%d connections began within %v", many, d)
	}
	on(t, l, func() {
		for i := range conns {
			conns[i].conn.Close()
		}
		for _, r := range all {
			r.conn.Close()
		}
	})
}
