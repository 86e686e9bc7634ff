package l4_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l4"
	"github.com/cirque-lb/lb/l4/l4test"
)

// A site is a client, a router and nodes with listeners and datapaths.
type site struct {
	t      *testing.T
	net    *l4test.Network
	client *l4test.Namespace
	router *l4test.Namespace
	nodes  []*node
	mtu    int // of the nodes' interfaces
}

type node struct {
	site      *site
	ns        *l4test.Namespace
	index     int
	member    lb.Member
	options   l4.Options
	datapath  *l4.Datapath
	listeners []net.Listener
	steering  lb.Steering
}

var (
	vip4 = netip.MustParseAddrPort("192.0.2.10:80")
	vip6 = netip.MustParseAddrPort("[2001:db8::10]:80")
)

const slots = 2

func newSite(t *testing.T, nodes int) *site { return newSiteOf(t, nodes, 1600) }

// newSiteOf makes a site whose nodes have this MTU.
func newSiteOf(t *testing.T, nodes, mtu int) *site {
	if os.Geteuid() != 0 {
		t.Skip("making network namespaces needs root")
	}
	s := &site{t: t, net: l4test.New(fmt.Sprintf("l4t%d", os.Getpid()))}
	pins := filepath.Join(t.TempDir(), "bpf") // before Cleanup: is removed after the mount
	t.Cleanup(func() { s.check(s.net.Close()) })
	s.check(s.net.BPFFS(pins))
	s.client, s.router = s.namespace("client"), s.namespace("router")
	s.check(s.router.Router())
	s.connect(s.router, "client", s.client, 0, 1500)
	s.mtu = mtu
	s.check(s.client.Sysctl("net.ipv4.tcp_timestamps", "1"))
	for i := 1; i <= nodes; i++ {
		s.addNode(i, pins)
	}
	return s
}

func (s *site) check(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) namespace(name string) *l4test.Namespace {
	ns, err := s.net.Namespace(name)
	s.check(err)
	return ns
}

// connect joins ns to the router by network i, and routes everything there.
func (s *site) connect(router *l4test.Namespace, name string, ns *l4test.Namespace, i, mtu int) {
	near4, far4 := prefix("10.0.%d.1/24", i), prefix("10.0.%d.2/24", i)
	near6, far6 := prefix("fd00:%d::1/64", i), prefix("fd00:%d::2/64", i)
	s.check(s.net.Connect(
		l4test.End{In: router, Name: name, Address: []netip.Prefix{near4, near6}},
		l4test.End{In: ns, Name: "eth0", Address: []netip.Prefix{far4, far6}}, mtu))
	s.check(ns.Route(netip.MustParsePrefix("0.0.0.0/0"), near4.Addr()))
	s.check(ns.Route(netip.MustParsePrefix("::/0"), near6.Addr()))
}

func prefix(format string, i int) netip.Prefix {
	return netip.MustParsePrefix(fmt.Sprintf(format, i))
}

func (s *site) addNode(i int, pins string) {
	name := fmt.Sprintf("edge-%d", i)
	n := &node{site: s, ns: s.namespace(name), index: i}
	s.connect(s.router, name, n.ns, i, s.mtu)
	n.member = lb.Member{Name: name, Boot: lb.BootID{byte(i)}, Address: prefix("10.0.%d.2/24", i).Addr(), Weight: slots}
	n.options = l4.Options{
		Mode: lb.FastpathNative, Required: true, Interfaces: []string{"eth0"}, Address: n.member.Address,
		Pins: filepath.Join(pins, name), RunDir: s.t.TempDir(), Log: slog.New(slog.DiscardHandler),
	}
	s.check(n.ns.Do(n.listen))
	n.open()
	s.t.Cleanup(func() {
		for _, l := range n.listeners {
			l.Close()
		}
		n.datapath.Close()
	})
	s.nodes = append(s.nodes, n)
}

func (n *node) open() {
	n.site.t.Helper()
	n.site.check(n.ns.Do(func() (err error) {
		n.datapath, err = l4.Open(n.options)
		return err
	}))
}

// listen opens a listening socket per slot and VIP.
func (n *node) listen() error {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
			unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1)
			unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_FREEBIND, 1)
		})
	}}
	config.SetMultipathTCP(false) // a SOCKMAP takes no MPTCP
	for _, bind := range []netip.AddrPort{vip4, vip6} {
		b := lb.SteeredBind{Bind: bind}
		for slot := range slots {
			l, err := config.Listen(context.Background(), "tcp", bind.String())
			if err != nil {
				return err
			}
			n.listeners = append(n.listeners, l)
			go serve(l, fmt.Sprintf("%s/%d", n.member.Name, slot))
			b.Sockets = append(b.Sockets, fdOf(l))
			b.Live = append(b.Live, true)
		}
		n.steering.Binds = append(n.steering.Binds, b)
	}
	return nil
}

func fdOf(l net.Listener) (fd int) {
	c, _ := l.(*net.TCPListener).SyscallConn()
	c.Control(func(f uintptr) { fd = int(f) })
	return fd
}

// rude has servers close their connections without reading what came.
var rude atomic.Bool

func awaitReadable(c *net.TCPConn) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Read(func(fd uintptr) bool {
		n, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK)
		return n > 0 || err != unix.EAGAIN
	})
}

// serve greets by its name and then sends back what it gets.
func serve(l net.Listener, name string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			fmt.Fprintln(c, name)
			if rude.Load() {
				awaitReadable(c.(*net.TCPConn))
				return // with data that nobody has read: the kernel sends an RST
			}
			io.Copy(c, c)
		}()
	}
}

// steer gives every node the node sets, newest first; nobody but members of
// the newest take new connections.
func (s *site) steer(sets ...[]lb.Member) {
	s.t.Helper()
	var epochs []lb.Epoch
	for i, set := range sets {
		epochs = append(epochs, lb.Epoch{Counter: uint64(len(sets) - i), Origin: "edge-1", Members: set})
	}
	for _, n := range s.nodes {
		n.steering.Self, n.steering.Epochs = n.member.Name, epochs
		n.steering.Seed, n.steering.Tags = [16]byte{7}, []uint32{42}
		n.steering.VIPs = []lb.VIP{{Addr: vip4.Addr(), Port: 80, Protocol: lb.TCP}, {Addr: vip6.Addr(), Port: 80, Protocol: lb.TCP}}
		n.apply()
	}
	for _, n := range s.nodes {
		n.awaitWays()
	}
}

func (n *node) apply() {
	n.site.t.Helper()
	n.site.check(n.ns.Do(func() error { return n.datapath.Apply(n.steering) }))
}

// awaitWays waits until every peer's MAC address is known; the kernel asks for
// it in the background.
func (n *node) awaitWays() {
	n.site.t.Helper()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		problems := n.datapath.Report().Problems
		if len(problems) == 0 {
			return
		}
		if time.Now().After(deadline) {
			n.site.t.Fatalf("%s: %v", n.member.Name, problems)
		}
	}
}

// only makes a set of all nodes where those named take new connections.
func (s *site) only(owners ...*node) (set []lb.Member) {
	for _, n := range s.nodes {
		m := n.member
		m.Weight = 0
		for _, o := range owners {
			if o == n {
				m.Weight = slots
			}
		}
		set = append(set, m)
	}
	return set
}

// arriveAt sends the VIPs' packets to one node, or to several by ECMP.
func (s *site) arriveAt(nodes ...*node) {
	var via4, via6 []netip.Addr
	for _, n := range nodes {
		via4 = append(via4, n.member.Address)
		via6 = append(via6, prefix("fd00:%d::2/64", n.index).Addr())
	}
	s.check(s.router.Route(netip.PrefixFrom(vip4.Addr(), 32), via4...))
	s.check(s.router.Route(netip.PrefixFrom(vip6.Addr(), 128), via6...))
}

// A conn is a client's connection and who answered it.
type conn struct {
	net.Conn
	t    *testing.T
	in   *bufio.Reader
	node string
	slot int
}

func (s *site) dial(to netip.AddrPort) *conn {
	s.t.Helper()
	c := &conn{t: s.t}
	s.check(s.client.Do(func() (err error) {
		c.Conn, err = net.DialTimeout("tcp", to.String(), 5*time.Second)
		return err
	}))
	s.t.Cleanup(func() { c.Close() })
	c.in = bufio.NewReader(c)
	node, slot, _ := strings.Cut(c.line(), "/")
	c.node = node
	c.slot, _ = strconv.Atoi(slot)
	return c
}

func (c *conn) line() string {
	c.t.Helper()
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	text, err := c.in.ReadString('\n')
	if err != nil {
		c.t.Fatalf("read from %s: %v", c.RemoteAddr(), err)
	}
	return strings.TrimSpace(text)
}

// echo checks that the connection lives, with more than one packet's data.
func (c *conn) echo() {
	c.t.Helper()
	want := strings.Repeat("x", 5000)
	if _, err := fmt.Fprintln(c, want); err != nil {
		c.t.Fatal(err)
	}
	if got := c.line(); got != want {
		c.t.Fatalf("echo of %d bytes brought %d", len(want), len(got))
	}
}

func (n *node) count(r lb.Reason) uint64 {
	n.site.t.Helper()
	counters, err := n.datapath.Counters()
	n.site.check(err)
	return counters[r]
}

func TestAConnectionThroughAnotherNode(t *testing.T) {
	s := newSite(t, 2)
	ingress, owner := s.nodes[0], s.nodes[1]
	s.arriveAt(ingress)
	s.steer(s.only(owner))
	for _, vip := range []netip.AddrPort{vip4, vip6} {
		c := s.dial(vip)
		if c.node != "edge-2" {
			t.Errorf("%s was answered by %s", vip, c.node)
		}
		c.echo()
	}
	if n := ingress.count(lb.XDPSent); n < 8 {
		t.Errorf("the ingress sent %d packets on", n)
	}
	if sent, got := ingress.count(lb.XDPSent), owner.count(lb.XDPReceived); got != sent {
		t.Errorf("%d packets were sent, %d received", sent, got)
	}
}

func TestClientsSendWhatTheFabricHasRoomFor(t *testing.T) {
	s := newSiteOf(t, 2, 1500)
	ingress, owner := s.nodes[0], s.nodes[1]
	s.arriveAt(ingress)
	s.steer(s.only(owner), s.only(ingress))
	if mss := owner.datapath.Report().MSS; mss != 1500-48-60 {
		t.Errorf("the report says an MSS of %d", mss)
	}
	for _, vip := range []netip.AddrPort{vip4, vip6} {
		s.dial(vip).echo()
	}
	if n := ingress.count(lb.XDPTooBig); n != 0 {
		t.Errorf("%d packets were too big", n)
	}
}

func TestConnectionsOutliveAChangeOfOwner(t *testing.T) {
	s := newSite(t, 3)
	a, b, c := s.nodes[0], s.nodes[1], s.nodes[2]
	s.arriveAt(a)
	s.steer(s.only(a))
	var old []*conn
	for _, vip := range []netip.AddrPort{vip4, vip6} {
		old = append(old, s.dial(vip))
	}
	for _, step := range []struct {
		sentence string
		sets     [][]lb.Member
		arrive   []*node
		owner    string
	}{
		{"a new owner, packets still arrive at the old one", [][]lb.Member{s.only(b), s.only(a)}, []*node{a}, "edge-2"},
		{"packets arrive at the new owner", [][]lb.Member{s.only(b), s.only(a)}, []*node{b}, "edge-2"},
		{"packets arrive at neither", [][]lb.Member{s.only(b), s.only(a)}, []*node{c}, "edge-2"},
		{"a third owner", [][]lb.Member{s.only(c), s.only(b), s.only(a)}, []*node{b}, "edge-3"},
		{"packets arrive everywhere", [][]lb.Member{s.only(c), s.only(b), s.only(a)}, []*node{a, b, c}, "edge-3"},
	} {
		s.steer(step.sets...)
		s.arriveAt(step.arrive...)
		for _, o := range old {
			o.echo()
		}
		for _, vip := range []netip.AddrPort{vip4, vip6} {
			n := s.dial(vip)
			if n.node != step.owner {
				t.Errorf("%s: %s was answered by %s, want %s", step.sentence, vip, n.node, step.owner)
			}
			n.echo()
			old = append(old, n)
		}
	}
}
