package l4_test

import (
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb"
)

// nobody is a client that answers nothing: its connections stay half-open.
var nobody = netip.MustParseAddr("10.0.0.77")

// sendRaw sends a segment of nobody's to the IPv4 VIP.
func (s *site) sendRaw(port uint16, tcp layers.TCP) {
	s.t.Helper()
	s.sendData(port, tcp, "")
}

// sendData sends one with data.
func (s *site) sendData(port uint16, tcp layers.TCP, data string) {
	s.t.Helper()
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: nobody.AsSlice(), DstIP: vip4.Addr().AsSlice()}
	tcp.SrcPort, tcp.DstPort, tcp.Window = layers.TCPPort(port), 80, 500
	s.check(tcp.SetNetworkLayerForChecksum(ip))
	b := gopacket.NewSerializeBuffer()
	s.check(gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ip, &tcp, gopacket.Payload(data)))
	s.check(s.client.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, b.Bytes(), 0, &unix.SockaddrInet4{Addr: vip4.Addr().As4()})
	}))
}

// halfOpen counts the half-open connections of a node.
func (n *node) halfOpen() (count int) {
	n.site.t.Helper()
	n.site.check(n.ns.Do(func() error {
		text, err := os.ReadFile("/proc/thread-self/net/tcp")
		for _, line := range strings.Split(string(text), "\n") {
			if f := strings.Fields(line); len(f) > 3 && f[3] == "03" {
				count++
			}
		}
		return err
	}))
	return count
}

// await waits until a condition holds: packets take a moment.
func (s *site) await(what string, holds func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatal("in vain: " + what)
		}
	}
}

func TestASYNIsRepeatedAcrossAChangeOfOwner(t *testing.T) {
	s := newSite(t, 2)
	a, b := s.nodes[0], s.nodes[1]
	s.arriveAt(b)
	s.steer(s.only(a))
	syn := layers.TCP{SYN: true, Seq: 1000}
	s.sendRaw(4001, syn)
	s.await("half-open at edge-1", func() bool { return a.halfOpen() == 1 })
	s.sendRaw(4001, syn) // no change: the same owner, the same connection
	s.await("edge-1 receives it again", func() bool { return a.count(lb.XDPReceived) == 2 })
	if a.halfOpen() != 1 || b.halfOpen() != 0 {
		t.Errorf("without a change: %d and %d half-open", a.halfOpen(), b.halfOpen())
	}

	s.steer(s.only(b), s.only(a)) // the row is young
	s.sendRaw(4001, syn)
	s.await("edge-1 knows it", func() bool { return a.count(lb.XDPFound) == 1 })
	s.sendRaw(4002, syn) // another client's: edge-1 does not know it
	s.await("half-open at edge-2", func() bool { return b.halfOpen() == 1 })
	if a.halfOpen() != 1 || b.halfOpen() != 1 {
		t.Errorf("across a change: %d and %d half-open", a.halfOpen(), b.halfOpen())
	}

	// The handshake's ACK was lost: the first data comes without it. It names no
	// sequence number of the server's, so the half-open connection refuses it,
	// but where it is asked is what counts here.
	s.sendRaw(4001, layers.TCP{ACK: true, PSH: true, Seq: 1001, Ack: 1})
	s.await("edge-1 has the half-open connection", func() bool { return a.count(lb.XDPReceived) == 3 })
	if n := a.count(lb.XDPHeld) + b.count(lb.XDPHeld); n != 0 {
		t.Errorf("%d packets were held", n)
	}
}
