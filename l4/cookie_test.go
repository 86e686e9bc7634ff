package l4_test

import (
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb"
)

// answers listens to what a node sends to nobody, until the test ends.
func (n *node) answers() int {
	n.site.t.Helper()
	fd := -1
	n.site.check(n.ns.Do(func() (err error) {
		const all = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL&0xff<<8
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
		if err == nil {
			err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5})
		}
		return err
	}))
	n.site.t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// synAck waits for the node's answer to a SYN of nobody's.
func (s *site) synAck(fd int) layers.TCP {
	s.t.Helper()
	return s.sentToNobody(fd, "a SYN-ACK", func(t *layers.TCP) bool { return t.SYN && t.ACK })
}

// sentToNobody waits for a segment that the node sends to nobody.
func (s *site) sentToNobody(fd int, what string, is func(*layers.TCP) bool) layers.TCP {
	s.t.Helper()
	b := make([]byte, 2048)
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
		size, _, err := unix.Recvfrom(fd, b, 0)
		s.check(err)
		if tcp := toNobody(b[:size]); tcp != nil && is(tcp) {
			return *tcp
		}
	}
	s.t.Fatal("in vain: " + what)
	return layers.TCP{}
}

// toNobody reads a frame; nil: it is no segment to nobody.
func toNobody(frame []byte) *layers.TCP {
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	ip, _ := p.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
	tcp, _ := p.Layer(layers.LayerTypeTCP).(*layers.TCP)
	if ip == nil || tcp == nil || !ip.DstIP.Equal(nobody.AsSlice()) {
		return nil
	}
	return tcp
}

// The secret of cookies is each host's own: the owner makes them, never the
// node where the SYN came in, and it alone can tell its own.
func TestASYNCookieOfTheOwnerBeforeIsItsOwn(t *testing.T) {
	s := newSite(t, 3)
	a, b, c := s.nodes[0], s.nodes[1], s.nodes[2]
	for _, n := range s.nodes {
		s.check(n.ns.Sysctl("net.ipv4.tcp_syncookies", "2")) // always, as in a flood
	}
	s.arriveAt(b)
	s.steer(s.only(a))
	answers := a.answers()
	s.sendRaw(4001, layers.TCP{SYN: true, Seq: 1000})
	cookie := s.synAck(answers).Seq
	if n := a.halfOpen() + b.halfOpen(); n != 0 {
		t.Fatalf("%d half-open: that was no cookie", n)
	}

	s.steer(s.only(b), s.only(a), s.only(c)) // the client's ACK comes after the change
	s.sendRaw(4001, layers.TCP{ACK: true, Seq: 1001, Ack: cookie + 1})
	s.await("edge-1 knows its cookie", func() bool { return a.count(lb.XDPFound) == 1 })
	s.sendRaw(4002, layers.TCP{ACK: true, Seq: 1001, Ack: cookie + 1})
	s.await("edge-1 sends on what is no cookie of its own", func() bool { return a.count(lb.XDPMissed) == 1 })
	if n := b.count(lb.XDPFound); n != 0 {
		t.Errorf("edge-2 took %d segments for its own", n)
	}
}
