package loop

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestDial(t *testing.T) {
	l := running(t)
	accepted := make(chan int, 1)
	addr := netip.MustParseAddrPort(listenOn(t, l, func(fd int) { accepted <- fd }))
	r := &recorder{events: make(chan string, 10)}
	on(t, l, func() {
		if err := r.conn.Dial(l, Remote{Addr: addr}, r); err != nil {
			t.Error(err)
		}
		r.conn.Write([]byte("early")) // goes out when connected
	})
	r.want(t, "connected")
	fd := wait(t, accepted)
	defer unix.Close(fd)
	b := make([]byte, 5)
	for n := 0; n < 5; {
		if m, err := unix.Read(fd, b[n:]); err == nil {
			n += m
		}
	}
	if string(b) != "early" {
		t.Errorf("got %q", b)
	}
	on(t, l, r.conn.Close)
}

func TestDialThatIsRefused(t *testing.T) {
	l := running(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddrPort(ln.Addr().String())
	ln.Close()
	r := &recorder{events: make(chan string, 10)}
	on(t, l, func() {
		if err := r.conn.Dial(l, Remote{Addr: addr}, r); err != nil {
			r.events <- err.Error()
		}
	})
	r.want(t, "connect: connection refused")
}

func TestDialFromAnAddress(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	l := running(t)
	to := Remote{Addr: ln.Addr().(*net.TCPAddr).AddrPort(), From: netip.MustParseAddr("127.0.0.2")}
	r := &recorder{events: make(chan string, 10)}
	on(t, l, func() {
		if err := r.conn.Dial(l, to, r); err != nil {
			t.Error(err)
		}
	})
	r.want(t, "connected")
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := c.RemoteAddr().(*net.TCPAddr).IP.String(); got != "127.0.0.2" {
		t.Errorf("the connection comes from %s", got)
	}
	on(t, l, func() {
		r.conn.Close()
		to.From = netip.MustParseAddr("192.0.2.1")
		if err := new(Conn).Dial(l, to, r); !errors.Is(err, unix.EADDRNOTAVAIL) || !strings.Contains(err.Error(), "bind to 192.0.2.1") {
			t.Errorf("from an address that is not ours: %v", err)
		}
	})
}

func TestDialUnix(t *testing.T) {
	l := running(t)
	path := t.TempDir() + "/s"
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	r := &recorder{events: make(chan string, 10)}
	on(t, l, func() {
		if err := r.conn.Dial(l, Remote{Path: path}, r); err != nil {
			t.Error(err)
		}
	})
	r.want(t, "connected")
	on(t, l, r.conn.Close)
}

// dialer counts how its connections fared.
type dialer struct {
	recorder
	how chan error
}

func (d *dialer) Connected(err error) { d.how <- err }

func TestManyConnectionsAreBegunInSeveralTurns(t *testing.T) {
	const many = 10 * dialsPerTurn
	l := running(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	addr := ln.Addr().(*net.TCPAddr).AddrPort()
	how := make(chan error, many)
	conns := make([]dialer, many)
	on(t, l, func() {
		for i := range conns {
			d := &conns[i]
			d.how = how
			if err := d.conn.Dial(l, Remote{Addr: addr}, d); err != nil {
				t.Error(err)
			}
		}
		if l.dialed != dialsPerTurn || len(l.dials) != many-dialsPerTurn {
			t.Errorf("%d begun, %d put off", l.dialed, len(l.dials))
		}
		conns[many-1].conn.Close() // it is never begun
		again := &conns[many-2]    // and this one only once
		again.conn.Close()
		if err := again.conn.Dial(l, Remote{Addr: addr}, again); err != nil {
			t.Error(err)
		}
		conns[many-3].conn.Write([]byte("early"))
	})
	for range many - 1 {
		if err := wait(t, how); err != nil {
			t.Error(err)
		}
	}
	on(t, l, func() {
		if len(how) > 0 || len(l.dials) > 0 || l.dials == nil {
			t.Errorf("%d connections too many, %d put off", len(how), len(l.dials))
		}
		for i := range conns {
			conns[i].conn.Close()
		}
	})
	early := 0
	for range many - 1 {
		c, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(c)
		early += len(b)
		c.Close()
	}
	if early != len("early") {
		t.Errorf("%d bytes arrived", early)
	}
}
