package app

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb/l4/l4test"
)

// A field is a client, a router, a node with lbd and two backends with
// lbd agent; the backends are also next to the node, for forward: l2.
type field struct {
	*site
	net            *l4test.Network
	client, router *l4test.Namespace
	edge           *l4test.Namespace
	backends       []*l4test.Namespace
	space          string // the name of the node's
}

// fieldService is one service of the field: how it forwards, to whom.
type fieldService struct {
	name, vip, protocol, forward, pool string
}

func fieldServices() (all []fieldService) {
	n := 0
	for _, way := range [][2]string{{"ipip", "four"}, {"ipip", "six"}, {"gue", "four"}, {"gue", "six"}, {"l2", "near"}} {
		n++
		for _, vip := range []string{fmt.Sprintf("192.0.2.%d", n), fmt.Sprintf("2001:db8::%d", n)} {
			for _, protocol := range []string{"tcp", "udp"} {
				name := fmt.Sprintf("%s-%s-%s-%d", way[0], way[1], protocol, len(all))
				all = append(all, fieldService{name, vip, protocol, way[0], way[1]})
			}
		}
	}
	return all
}

func newField(t *testing.T) *field {
	if os.Geteuid() != 0 {
		t.Skip("making network namespaces needs root")
	}
	f := &field{site: newSite(t), net: l4test.New(fmt.Sprintf("svc%d", os.Getpid()))}
	t.Cleanup(func() { f.check(f.net.Close()) })
	f.check(f.net.BPFFS(f.dir + "/bpf"))
	f.client, f.router, f.edge = f.namespace("client"), f.namespace("router"), f.namespace("edge")
	f.check(f.router.Router())
	f.join("client", f.client, 0, 1500)
	f.join("edge", f.edge, 1, 1600)
	for i := range 2 {
		f.addBackend(i)
	}
	f.check(f.router.Route(netip.MustParsePrefix("192.0.2.0/24"), netip.MustParseAddr("10.0.1.2")))
	f.check(f.router.Route(netip.MustParsePrefix("2001:db8::/64"), netip.MustParseAddr("fd00:1::2")))
	f.configureServices(fieldServices(), 7)
	return f
}

func (f *field) check(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *field) namespace(name string) *l4test.Namespace {
	ns, err := f.net.Namespace(name)
	f.check(err)
	return ns
}

// join connects a host to the router by network i.
func (f *field) join(name string, ns *l4test.Namespace, i, mtu int) {
	address := func(format string) []netip.Prefix {
		return []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.0.%d."+format+"/24", i)), netip.MustParsePrefix(fmt.Sprintf("fd00:%d::"+format+"/64", i))}
	}
	near := address("1")
	f.check(f.net.Connect(l4test.End{In: f.router, Name: name, Address: near}, l4test.End{In: ns, Name: "eth0", Address: address("2")}, mtu))
	f.check(ns.Route(netip.MustParsePrefix("0.0.0.0/0"), near[0].Addr()))
	f.check(ns.Route(netip.MustParsePrefix("::/0"), near[1].Addr()))
}

// addBackend makes a host that serves every VIP, and runs lbd agent on it.
func (f *field) addBackend(i int) {
	ns := f.namespace(fmt.Sprintf("backend-%d", i+1))
	f.join(fmt.Sprintf("backend-%d", i+1), ns, i+2, 1600)
	at := func(end int) []netip.Prefix {
		return []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.9.%d.%d/24", i, end))}
	}
	f.check(f.net.Connect(
		l4test.End{In: f.edge, Name: fmt.Sprintf("near%d", i+1), Address: at(1)},
		l4test.End{In: ns, Name: "near", Address: at(2)}, 1500))
	for _, name := range []string{"all", "eth0", "near"} {
		f.check(ns.Sysctl("net.ipv4.conf."+name+".rp_filter", "0"))
	}
	binary, err := os.Executable()
	f.check(err)
	args := []string{"agent", "--interface", "eth0", "--mode", "native", "--from", "10.0.1.2", "--from", "fd00:1::/64",
		"--pins", fmt.Sprintf("%s/bpf/agent-%d", f.dir, i), "--run-dir", fmt.Sprintf("%s/agent-%d", f.dir, i)}
	for n := range 5 {
		args = append(args, "--vip", fmt.Sprintf("192.0.2.%d,2001:db8::%d", n+1, n+1))
	}
	if out, err := ns.Command(binary, args...).CombinedOutput(); err != nil || !bytes.Contains(out, []byte("eth0 (native): takes 192.0.2.1")) {
		f.t.Fatalf("lbd agent: %v\n%s", err, out)
	}
	f.check(ns.Do(func() error { return f.listen(ns.Name) }))
	f.backends = append(f.backends, ns)
}

// listen echoes TCP and UDP on port 7 of every address, after its own name.
func (f *field) listen(name string) error {
	l, err := net.Listen("tcp", ":7")
	if err != nil {
		return err
	}
	f.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				fmt.Fprintln(c, name)
				io.Copy(c, c)
			}()
		}
	}()
	free := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { syscall.SetsockoptInt(int(fd), syscall.SOL_IPV6, unix.IPV6_FREEBIND, 1) })
	}}
	// A wildcard UDP socket answers from the address it thinks best: one for each VIP.
	for _, s := range fieldServices() {
		if s.protocol != "udp" {
			continue
		}
		p, err := free.ListenPacket(context.Background(), "udp", net.JoinHostPort(s.vip, "7"))
		if err != nil {
			return err
		}
		f.t.Cleanup(func() { p.Close() })
		go func() {
			b := make([]byte, 2000)
			for {
				n, from, err := p.ReadFrom(b)
				if err != nil {
					return
				}
				p.WriteTo(append([]byte(name+"\n"), b[:n]...), from)
			}
		}()
	}
	return nil
}

// configureServices writes the file: so many services, and the port at which the
// first pool's second backend is.
func (f *field) configureServices(services []fieldService, port int) {
	var text strings.Builder
	fmt.Fprintf(&text, `
node: { name: edge-1, address: 10.0.1.2, run_dir: %[1]s/run, data_dir: %[1]s/data }
fastpath: { mode: native, required: true, interfaces: [eth0], pins: %[1]s/bpf/edge }
workers: { processes: 1, threads: 1 }
log: { access: "off" }
pools:
  four: { check: { tcp: true, interval: 200ms }, backends: ["10.0.2.2:7", "10.0.3.2:%[2]d"] }
  six: { backends: ["[fd00:2::2]:7", "[fd00:3::2]:7"] }
  near: { backends: ["10.9.0.2:7", "10.9.1.2:7"] }
services:
`, f.dir, port)
	for _, s := range services {
		fmt.Fprintf(&text, "  %s: { bind: %q, protocol: %s, forward: %s, pool: %s }\n", s.name, net.JoinHostPort(s.vip, "7"), s.protocol, s.forward, s.pool)
	}
	f.check(os.WriteFile(f.file(), []byte(text.String()), 0o644))
}

// startEdge runs lbd in the node's namespace.
func (f *field) startEdge() {
	binary, err := os.Executable()
	f.check(err)
	c := f.edge.Command(binary, "run", "-c", f.file())
	c.Stdout, c.Stderr = f.out, f.out
	f.check(c.Start())
	f.t.Cleanup(func() {
		c.Process.Kill()
		c.Process.Wait() // not c.Wait: the worker has the other end of its output
		if f.t.Failed() {
			f.t.Log(f.out.String())
		}
	})
	f.until("serving, and every way known", func() bool {
		r, err := f.admin().Get("http://lbd/v1/status")
		if err != nil {
			return false
		}
		defer r.Body.Close()
		var status struct {
			State    string
			Problems []any
		}
		return json.NewDecoder(r.Body).Decode(&status) == nil && status.State == "serving" && len(status.Problems) == 0
	})
}

// An exchange is a client's connection to a service and who answers it.
type exchange struct {
	net.Conn
	name string
}

func (f *field) dial(protocol, vip string) (*exchange, error) {
	c := &exchange{}
	err := f.client.Do(func() (err error) {
		c.Conn, err = net.DialTimeout(protocol, net.JoinHostPort(vip, "7"), 5*time.Second)
		return err
	})
	if err != nil {
		return nil, err
	}
	f.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if protocol == "tcp" {
		c.name, err = c.line()
	}
	return c, err
}

func (c *exchange) line() (string, error) {
	var text []byte
	b := make([]byte, 1)
	for {
		if _, err := c.Read(b); err != nil {
			return string(text), err
		}
		if b[0] == '\n' {
			return string(text), nil
		}
		text = append(text, b[0])
	}
}

func (c *exchange) echo() error {
	want := strings.Repeat("x", 5000) + "\n"
	if _, err := io.WriteString(c, want); err != nil {
		return err
	}
	got, err := c.line()
	if err == nil && got+"\n" != want {
		err = fmt.Errorf("echo of %d bytes brought %d", len(want), len(got))
	}
	return err
}

func (c *exchange) ask() error {
	if _, err := io.WriteString(c, "hello"); err != nil {
		return err
	}
	b := make([]byte, 2000)
	n, err := c.Read(b)
	if err != nil {
		return err
	}
	name, text, _ := strings.Cut(string(b[:n]), "\n")
	if c.name = name; text != "hello" {
		return fmt.Errorf("got %q", text)
	}
	return nil
}

func TestServicesReachBackendsThatAnswerThemselves(t *testing.T) {
	f := newField(t)
	f.startEdge()
	for _, s := range fieldServices() {
		seen := map[string]int{}
		for range 12 {
			c, err := f.dial(s.protocol, s.vip)
			if err == nil && s.protocol == "tcp" {
				err = c.echo()
			} else if err == nil {
				err = c.ask()
			}
			if err != nil {
				t.Fatalf("%s at %s: %v", s.name, s.vip, err)
			}
			seen[c.name]++
		}
		if len(seen) != 2 {
			t.Errorf("%s at %s: answered by %v", s.name, s.vip, seen)
		}
	}
	f.drainOne()
	f.loseOne()
}

// drainOne takes a backend out: its connections live on, new ones avoid it.
func (f *field) drainOne() {
	kept, err := f.dial("tcp", "192.0.2.1")
	f.check(err)
	address := map[string]string{f.backends[0].Name: "10.0.2.2:7", f.backends[1].Name: "10.0.3.2:7"}[kept.name]
	f.order("four/"+address, true)
	f.until("new connections avoid the drained backend", func() bool {
		for range 20 {
			if c, err := f.dial("tcp", "192.0.2.1"); err != nil || c.name == kept.name {
				return false
			}
		}
		return true
	})
	if err := kept.echo(); err != nil {
		f.t.Errorf("a connection to a backend that drains: %v", err)
	}
	f.order("four/"+address, false)
}

// loseOne ends a backend's server; the pool's check finds out.
func (f *field) loseOne() {
	f.check(f.router.Route(netip.MustParsePrefix("10.0.2.2/32"), netip.MustParseAddr("10.0.0.2"))) // to somebody who is not there
	f.until("all connections go to the backend that is up", func() bool {
		for range 20 {
			c, err := f.dial("tcp", "192.0.2.1")
			if err != nil || c.name != f.backends[1].Name {
				return false
			}
		}
		return true
	})
}

func (f *field) order(backend string, drain bool) {
	f.t.Helper()
	body, _ := json.Marshal(map[string]any{"id": backend, "drain": drain})
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, "POST", "http://lbd/v1/backends/order", bytes.NewReader(body))
	f.check(err)
	r, err := f.admin().Do(q)
	f.check(err)
	defer r.Body.Close()
	if r.StatusCode/100 != 2 {
		text, _ := io.ReadAll(r.Body)
		f.t.Fatalf("order: %s: %s", r.Status, text)
	}
}
