package app

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cirque-lb/lb/cluster"
	"github.com/cirque-lb/lb/cmd/internal/admin"
)

// vipRack is hosts with an lbd each that share a VIP, behind a router that spreads
// flows over them by ECMP and has the clients and the backend, too. The backend
// says which host a connection came by, then repeats what it hears.
type vipRack struct {
	t     *testing.T
	hub   *namespace
	hosts []*host
}

const (
	rackVIP   = "192.0.2.10:7000"
	rackDrain = 15 * time.Second
)

func newVIPRack(t *testing.T, hosts int) *vipRack {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root, to make network namespaces")
	}
	r := &vipRack{t: t, hub: newNamespace(t)}
	r.hub.do("ip link set lo up && ip link add br0 type bridge && ip addr add 10.77.0.254/24 dev br0 && ip link set br0 up && ethtool -K br0 tx off >/dev/null && echo 1 >/proc/sys/net/ipv4/fib_multipath_hash_policy")
	backend := r.hub.listen("10.77.0.254:7001")
	t.Cleanup(func() { backend.Close() })
	go func() { // ends with the listener
		for {
			c, err := backend.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				from, _, _ := net.SplitHostPort(c.RemoteAddr().String())
				fmt.Fprintln(c, "edge-"+strings.TrimPrefix(from, "10.77.0."))
				io.Copy(c, c)
			}()
		}
	}()
	key := cluster.NewKey()
	for i := range hosts {
		r.hosts = append(r.hosts, r.newHost(i, key))
	}
	r.hub.do("ip route add 192.0.2.10/32 mtu 1400%s", func() (hops string) {
		for i := range hosts {
			hops += fmt.Sprintf(" nexthop via 10.77.0.%d", i+1)
		}
		return hops
	}())
	r.until("all nodes are of one mind", func() string { return r.apart() })
	return r
}

func (r *vipRack) newHost(i int, key cluster.Key) *host {
	r.t.Helper()
	dir, err := os.MkdirTemp("", "lbd")
	if err != nil {
		r.t.Fatal(err)
	}
	pins := "/sys/fs/bpf/" + filepath.Base(dir)
	r.t.Cleanup(func() { os.RemoveAll(dir); os.RemoveAll(pins) })
	h := &host{site: &site{t: r.t, dir: dir, out: &safeBuffer{}}, space: newNamespace(r.t), name: fmt.Sprintf("edge-%d", i+1)}
	r.hub.do("ip link add p%d type veth peer name eth0 netns %d && ip link set p%d master br0 up && ethtool -K p%d tx off >/dev/null", i, h.space.pid, i, i)
	h.space.do("ip link set lo up && ip addr add 10.77.0.%d/24 dev eth0 && ip link set eth0 up && echo 0 >/proc/sys/net/ipv4/conf/all/rp_filter && echo 0 >/proc/sys/net/ipv4/conf/eth0/rp_filter", i+1)
	h.enter = []string{"nsenter", "-n", "-t", fmt.Sprint(h.space.pid), "--"}
	text := fmt.Sprintf(`
node: { name: %[1]s, address: 10.77.0.%[2]d, run_dir: %[3]s/run, data_dir: %[3]s/data }
workers: { processes: 1, threads: 2 }
fastpath: { mode: generic, required: true, interfaces: [eth0], pins: %[4]s }
log: { access: "off" }
admin: { http: "" }
drain: { timeout: %[5]s }
cluster: { name: rack, bind: "10.77.0.%[2]d:7946", join: ["10.77.0.1:7946"], key_file: %[3]s/key }
listeners:
  echo: { bind: "%[6]s", protocol: tcp, pool: echo }
  other: { bind: "192.0.2.10:7002", protocol: tcp, pool: echo }
pools:
  echo: { backends: ["10.77.0.254:7001"] }
`, h.name, i+1, dir, pins, rackDrain, rackVIP)
	if err := errors.Join(os.WriteFile(h.file(), []byte(text), 0o600), os.WriteFile(filepath.Join(dir, "key"), []byte(key.String()+"\n"), 0o600)); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { h.killSupervisors(); h.killWorkers() })
	h.daemon = h.start()
	return h
}

// until waits for something that says what is missing.
func (r *vipRack) until(what string, missing func() string) {
	r.t.Helper()
	last := ""
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(60 * time.Second); time.Now().Before(end); <-tick.C {
		if last = missing(); last == "" {
			return
		}
	}
	r.t.Fatalf("not within a minute: %s: %s", what, last)
}

func (h *host) status() admin.Status {
	s, err := h.api().Status(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	return s
}

// apart says what keeps the nodes from being one cluster that serves.
func (r *vipRack) apart() string {
	for _, h := range r.hosts {
		s := h.status()
		serving := 0
		for _, n := range s.Nodes {
			if n.State == "serving" {
				serving++
			}
		}
		if serving != len(r.hosts) || s.Fastpath.Epoch != r.hosts[0].status().Fastpath.Epoch {
			return fmt.Sprintf("%s finds %+v", h.name, s.Nodes)
		}
		if notes := strings.Join(s.Notes, "\n"); strings.Contains(notes, "stay where they arrive") || strings.Contains(notes, "no other node") {
			return h.name + ": " + notes
		}
	}
	return ""
}

// echoed is a connection through the VIP.
type echoed struct {
	net.Conn
	node string
	r    *bufio.Reader
}

func (r *vipRack) dial() (*echoed, error) {
	var c net.Conn
	err := r.hub.in(func() (err error) { c, err = net.DialTimeout("tcp", rackVIP, 10*time.Second); return err })
	if err != nil {
		return nil, err
	}
	e := &echoed{c, "", bufio.NewReader(c)}
	c.SetDeadline(time.Now().Add(10 * time.Second))
	line, err := e.r.ReadString('\n')
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("who serves: %w", err)
	}
	e.node = strings.TrimSpace(line)
	return e, nil
}

func (e *echoed) ask() error {
	e.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(e, "x"); err != nil {
		return err
	}
	_, err := e.r.ReadByte()
	return err
}

// hold opens connections that stay, by node.
func (r *vipRack) hold(n int) map[string][]*echoed {
	r.t.Helper()
	by := map[string][]*echoed{}
	for range n {
		c, err := r.dial()
		if err != nil {
			r.t.Fatal(err)
		}
		r.t.Cleanup(func() { c.Close() })
		by[c.node] = append(by[c.node], c)
	}
	for _, h := range r.hosts {
		if len(by[h.name]) < 4 {
			r.t.Fatalf("of %d connections %s has %d", n, h.name, len(by[h.name]))
		}
	}
	return by
}

func (r *vipRack) alive(when string, all ...[]*echoed) {
	r.t.Helper()
	for _, c := range slices.Concat(all...) {
		if err := c.ask(); err != nil {
			r.t.Errorf("%s: a connection of %s: %v", when, c.node, err)
		}
	}
}

// newcomers open one connection after the other.
type newcomers struct {
	rack *vipRack
	stop chan bool
	done sync.WaitGroup

	mu     sync.Mutex // guards what follows
	by     map[string]int
	failed []string
}

func (r *vipRack) newcomers() *newcomers {
	n := &newcomers{rack: r, stop: make(chan bool), by: map[string]int{}}
	for range 2 {
		n.done.Go(func() {
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-n.stop:
					return
				case <-tick.C:
				}
				c, err := r.dial()
				if err == nil {
					err = c.ask()
					c.Close()
				}
				n.mu.Lock()
				if err != nil {
					n.failed = append(n.failed, err.Error())
				} else {
					n.by[c.node]++
				}
				n.mu.Unlock()
			}
		})
	}
	return n
}

// take gives where so many more landed.
func (n *newcomers) take(more int) map[string]int {
	n.rack.t.Helper()
	n.mu.Lock()
	clear(n.by)
	n.mu.Unlock()
	var by map[string]int
	n.rack.until(fmt.Sprintf("%d newcomers", more), func() string {
		n.mu.Lock()
		defer n.mu.Unlock()
		sum := 0
		for _, k := range n.by {
			sum += k
		}
		if sum < more && len(n.failed) == 0 {
			return fmt.Sprintf("%d came", sum)
		}
		by = map[string]int{}
		for node, k := range n.by {
			by[node] = k
		}
		return ""
	})
	return by
}

func (n *newcomers) endUnfailed(when string) {
	n.rack.t.Helper()
	close(n.stop)
	n.done.Wait()
	if len(n.failed) > 0 {
		n.rack.t.Errorf("%s: %d newcomers failed, such as: %s", when, len(n.failed), n.failed[0])
	}
}

// connections is what a node counts of the listener.
func (h *host) connections() int { return int(h.listener("echo").Connections) }

// A listener drains on one node of three: it is withdrawn, new connections reach
// the others, whatever way the router sends them, old ones finish and are counted
// down, the deadline cuts what is left, and its sockets are closed; nothing else
// fails. On all nodes drained, who comes is refused, and hears of it at once.
func TestAListenerOfAClusterDrainsAndNothingFails(t *testing.T) {
	if testing.Short() {
		t.Skip("takes three daemons")
	}
	r := newVIPRack(t, 3)
	held := r.hold(60)
	h, name := r.hosts[1], r.hosts[1].name
	come := r.newcomers()
	if by := come.take(60); len(by) != 3 {
		t.Fatalf("newcomers land on %v", by)
	}
	if err := h.orderListener("echo", true); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	r.until("the others keep their new connections", func() string {
		for _, peer := range []*host{r.hosts[0], r.hosts[2]} {
			apart := func(note string) bool {
				return strings.HasPrefix(note, "VIP "+rackVIP+"/tcp") && strings.Contains(note, name) && strings.Contains(note, "stay where they arrive")
			}
			if notes := peer.status().Notes; !slices.ContainsFunc(notes, apart) {
				return fmt.Sprintf("%s: %q", peer.name, notes)
			}
		}
		return ""
	})
	if by := come.take(200); by[name] > 0 {
		t.Errorf("withdrawn, %s still takes new connections: %v", name, by)
	}
	left := held[name]
	r.alive("while it drains", held["edge-1"], left, held["edge-3"])
	for len(left) > 1 {
		left[0].Close()
		left = left[1:]
		r.until("they are counted down", func() string {
			if n := h.connections(); n != len(left) {
				return fmt.Sprintf("%d, and there are %d", n, len(left))
			}
			return ""
		})
	}
	if l := h.listener("echo"); l.Drain != "draining" && time.Since(began) < rackDrain {
		t.Errorf("with one left it is %q after %v", l.Drain, time.Since(began))
	}
	r.until("it is closed", func() string {
		if l := h.listener("echo"); l.Drain != "closed" || l.Slots != 0 {
			return fmt.Sprintf("%q, %d slots", l.Drain, l.Slots)
		}
		return ""
	})
	if took := time.Since(began); took < rackDrain {
		t.Errorf("the last connection was cut after %v", took)
	}
	if err := left[0].ask(); err == nil {
		t.Error("the last connection lives after the deadline")
	}
	for _, kind := range []string{"listener.drain", "listener.drain-overdue", "listener.empty", "listener.closed"} {
		if !slices.Contains(h.told("echo"), kind) {
			t.Errorf("no event %s among %v", kind, h.told("echo"))
		}
	}
	if by := come.take(200); by[name] > 0 || len(by) != 2 {
		t.Errorf("closed, newcomers land on %v", by)
	}
	r.alive("it is closed", held["edge-1"], held["edge-3"])
	come.endUnfailed("the listener drained")

	for _, peer := range []*host{r.hosts[0], r.hosts[2]} {
		for _, c := range held[peer.name] {
			c.Close()
		}
		if err := peer.orderListener("echo", true); err != nil {
			t.Fatal(err)
		}
	}
	r.until("it is closed everywhere", func() string {
		for _, h := range r.hosts {
			if l := h.listener("echo"); l.Drain != "closed" {
				return fmt.Sprintf("%s: %q", h.name, l.Drain)
			}
		}
		return ""
	})
	for range 30 {
		start := time.Now()
		c, err := r.dial()
		if err == nil {
			c.Close()
		}
		if took := time.Since(start); !errors.Is(err, syscall.ECONNREFUSED) || took > time.Second {
			t.Errorf("nobody serves it, and after %v it says %v", took, err)
		}
	}

	for _, h := range r.hosts {
		if err := h.orderListener("echo", false); err != nil {
			t.Fatal(err)
		}
	}
	r.until("all nodes are of one mind", func() string { return r.apart() })
	come = r.newcomers()
	r.until("all take new connections", func() string {
		if by := come.take(60); len(by) != 3 {
			return fmt.Sprint(by)
		}
		return ""
	})
	come.endUnfailed("undrained")
}

// A node drains: new connections reach the others, old ones finish and are counted
// down, and it says so when it is empty.
func TestANodeOfAClusterDrainsAndNothingFails(t *testing.T) {
	if testing.Short() {
		t.Skip("takes three daemons")
	}
	r := newVIPRack(t, 3)
	held := r.hold(60)
	h, name := r.hosts[2], r.hosts[2].name
	come := r.newcomers()
	come.take(60)
	if err := h.api().OrderNode(t.Context(), admin.NodeOrder{Drain: true}, admin.Ask{}); err != nil {
		t.Fatal(err)
	}
	r.until("newcomers reach others only", func() string {
		if by := come.take(100); by[name] > 0 {
			return fmt.Sprint(by)
		}
		return ""
	})
	left := held[name]
	r.alive("while it drains", held["edge-1"], held["edge-2"], left)
	for ; len(left) > 0; left = left[1:] {
		if s := h.status(); s.State != "draining" || s.Connections < len(left) {
			t.Errorf("with %d left it is %s, with %d connections", len(left), s.State, s.Connections)
		}
		left[0].Close()
	}
	r.until("it is empty", func() string {
		if s := h.status(); s.State != "empty" || s.Connections > 0 {
			return fmt.Sprintf("%s, %d connections", s.State, s.Connections)
		}
		return ""
	})
	for _, kind := range []string{"node.drain", "node.empty"} {
		if !slices.Contains(h.told(name), kind) {
			t.Errorf("no event %s among %v", kind, h.told(name))
		}
	}
	if err := h.api().OrderNode(t.Context(), admin.NodeOrder{}, admin.Ask{}); err != nil {
		t.Fatal(err)
	}
	r.until("it takes new connections again", func() string {
		if by := come.take(60); by[name] == 0 {
			return fmt.Sprint(by)
		}
		return ""
	})
	r.alive("it is back", held["edge-1"], held["edge-2"])
	come.endUnfailed("a node drained and came back")
}
