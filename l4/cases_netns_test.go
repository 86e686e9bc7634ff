package l4_test

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l4"
)

// A server that closes with unread data sends an RST. What its client sent
// meanwhile may be asked for along the chain; the last hop's RST says the same.
func TestAServerClosedWithUnreadDataIsResetTwiceTheSame(t *testing.T) {
	s := newSite(t, 2)
	a, b := s.nodes[0], s.nodes[1]
	rude.Store(true)
	defer rude.Store(false)
	s.arriveAt(b)
	s.steer(s.only(a))
	answers := a.answers()
	s.sendRaw(4001, layers.TCP{SYN: true, Seq: 1000})
	next := s.synAck(answers).Seq + 1
	s.sendRaw(4001, layers.TCP{ACK: true, Seq: 1001, Ack: next})
	greeting := s.sentToNobody(answers, "the greeting", func(t *layers.TCP) bool { return len(t.Payload) > 0 })
	next += uint32(len(greeting.Payload))
	s.sendData(4001, layers.TCP{ACK: true, PSH: true, Seq: 1001, Ack: next}, "never read")
	first := s.sentToNobody(answers, "an RST of the server", func(t *layers.TCP) bool { return t.RST })

	s.steer(s.only(b), s.only(a)) // the rest of the client's data comes after a change
	second := s.resetAtLast(answers, func() { s.sendRaw(4001, layers.TCP{ACK: true, Seq: 1011, Ack: next}) })
	if first.Seq != next || second.Seq != first.Seq || second.DstPort != first.DstPort {
		t.Errorf("the server's RST has the number %d, the last hop's %d, want both %d", first.Seq, second.Seq, next)
	}
}

// resetAtLast sends until the node answers with an RST: while the tables are
// unsettled, up to 15 s on a machine that is slow, it answers nothing.
func (s *site) resetAtLast(fd int, send func()) layers.TCP {
	s.t.Helper()
	b := make([]byte, 2048)
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		send()
		for {
			size, _, err := unix.Recvfrom(fd, b, unix.MSG_DONTWAIT)
			if err != nil {
				break
			}
			if tcp := toNobody(b[:size]); tcp != nil && tcp.RST {
				return *tcp
			}
		}
	}
	s.t.Fatal("in vain: an RST of the last hop")
	return layers.TCP{}
}

// What packets do follows from pins and sockets alone.
func TestNothingMovesWhenAllDaemonsRestart(t *testing.T) {
	s := newSite(t, 3)
	a, b, c := s.nodes[0], s.nodes[1], s.nodes[2]
	s.arriveAt(a, b, c)
	all := s.only(a, b, c)
	s.steer(all, s.only(a))
	var conns []*conn
	for range 12 {
		conns = append(conns, s.dial(vip4), s.dial(vip6))
	}
	owner := func(c *conn) string {
		to := netip.MustParseAddrPort(c.RemoteAddr().String())
		e := a.datapath.Explain(lb.Tuple{Protocol: lb.TCP, Src: netip.MustParseAddrPort(c.LocalAddr().String()), Dst: to})
		return e.Chain[0].Name
	}
	programs := map[*node]uint32{}
	for _, n := range s.nodes {
		programs[n] = attached(n)
		s.check(n.datapath.Close())
	}
	for _, c := range conns {
		c.echo()
	}
	s.dial(vip4).echo()
	for _, n := range s.nodes {
		n.open()
		n.apply()
		if w := l4.Writes(n.datapath); w != 0 || attached(n) != programs[n] || !n.datapath.Report().Adopted {
			t.Errorf("%s wrote %d entries, has program %d, had %d", n.member.Name, w, attached(n), programs[n])
		}
	}
	for _, c := range conns {
		c.echo()
		if was := c.node; owner(c) != was {
			t.Errorf("a connection of %s is in a row of %s now", was, owner(c))
		}
	}
}

// A client on a node does not come by an interface: XDP does not see it, and it
// is served where it is, whoever owns the row.
func TestALocalClientIsServedByItsOwnNode(t *testing.T) {
	s := newSite(t, 2)
	a, b := s.nodes[0], s.nodes[1]
	s.steer(s.only(b))
	for range 6 {
		var c net.Conn
		s.check(a.ns.Do(func() (err error) {
			c, err = net.DialTimeout("tcp", vip4.String(), 5*time.Second)
			return err
		}))
		defer c.Close()
		got := make([]byte, 64)
		n, err := c.Read(got)
		s.check(err)
		e := a.datapath.Explain(lb.Tuple{Protocol: lb.TCP, Src: netip.MustParseAddrPort(c.LocalAddr().String()), Dst: vip4})
		if e.Chain[0].Name != "edge-2" {
			t.Errorf("the row is %s's", e.Chain[0].Name)
		}
		if who := string(got[:n-1]); who != "edge-1/0" && who != "edge-1/1" {
			t.Errorf("answered by %s", who)
		}
	}
	if n := a.count(lb.XDPSent) + b.count(lb.XDPReceived); n != 0 {
		t.Errorf("XDP saw %d packets", n)
	}
}

// Listeners offer no Fast Open: the data of its SYN comes once more. Steering goes
// by the SYN, wherever it and its data are sent.
func TestAFastOpenSYNWithDataIsSteeredAndServed(t *testing.T) {
	s := newSite(t, 2)
	a, b := s.nodes[0], s.nodes[1]
	s.arriveAt(a)
	s.steer(s.only(b))
	const client, withoutCookie = 1, 4
	s.check(s.client.Sysctl("net.ipv4.tcp_fastopen", strconv.Itoa(client|withoutCookie)))
	for _, vip := range []netip.AddrPort{vip4, vip6} {
		c := &conn{t: t}
		s.check(s.client.Do(func() (err error) {
			c.Conn, err = dialWithData(vip, "first\n")
			return err
		}))
		defer c.Close()
		c.in = bufio.NewReader(c)
		if who := c.line(); who != "edge-2/0" && who != "edge-2/1" {
			t.Errorf("%s was answered by %s", vip, who)
		}
		if got := c.line(); got != "first" {
			t.Errorf("of the SYN's data %q came back", got)
		}
		c.echo()
	}
	if sent, got := a.count(lb.XDPSent), b.count(lb.XDPReceived); sent == 0 || got != sent {
		t.Errorf("%d packets were sent on, %d received", sent, got)
	}
}

// dialWithData connects by a SYN that has data, as TCP Fast Open does.
func dialWithData(to netip.AddrPort, text string) (net.Conn, error) {
	family, address := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()})
	if to.Addr().Is4() {
		family, address = unix.AF_INET, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "fast open")
	defer f.Close()
	if err := unix.Sendto(fd, []byte(text), unix.MSG_FASTOPEN, address); err != nil {
		return nil, fmt.Errorf("send with the SYN: %w", err)
	}
	return net.FileConn(f)
}
