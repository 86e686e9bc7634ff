package app

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb/cluster"
	"github.com/cirque-lb/lb/cmd/internal/admin"
)

// namespace is a network of its own, which ends with the test.
type namespace struct {
	t    *testing.T
	pid  int
	tell io.Writer
	hear *bufio.Reader
}

func newNamespace(t *testing.T) *namespace {
	t.Helper()
	shell := exec.Command("sh")
	shell.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNET}
	shell.Stderr = os.Stderr
	in, err := shell.StdinPipe()
	out, err2 := shell.StdoutPipe()
	if err := errors.Join(err, err2, shell.Start()); err != nil {
		t.Skipf("a network namespace: %v", err)
	}
	t.Cleanup(func() { in.Close(); shell.Wait() })
	return &namespace{t, shell.Process.Pid, in, bufio.NewReader(out)}
}

// do runs a command in the namespace.
func (n *namespace) do(format string, args ...any) {
	n.t.Helper()
	command := fmt.Sprintf(format, args...)
	fmt.Fprintf(n.tell, "%s; echo $?\n", command)
	line, err := n.hear.ReadString('\n')
	if err != nil || strings.TrimSpace(line) != "0" {
		n.t.Fatalf("%s: %q, %v", command, line, err)
	}
}

// in runs f on a thread inside the namespace.
func (n *namespace) in(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for ever: the thread ends with this goroutine
		if unix.Gettid() == unix.Getpid() {
			done <- n.in(f) // while this holds the first thread, that takes another
			runtime.UnlockOSThread()
			return
		}
		fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/net", n.pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(fd, unix.CLONE_NEWNET)
			unix.Close(fd)
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

func (n *namespace) listen(address string) (l net.Listener) {
	n.t.Helper()
	err := n.in(func() (err error) { l, err = net.Listen("tcp", address); return err })
	if err != nil {
		n.t.Fatal(err)
	}
	return l
}

func (n *namespace) dial(ctx context.Context, network, address string) (c net.Conn, err error) {
	err = n.in(func() (err error) { c, err = new(net.Dialer).DialContext(ctx, network, address); return err })
	return c, err
}

// rack is hosts with an lbd each, all on one segment with their backends.
type rack struct {
	t        *testing.T
	random   *rand.Rand
	hub      *namespace
	hosts    []*host
	backends []string
	answered []atomic.Bool // whether a backend answers checks
	cuts     map[[2]int]bool

	edits sync.WaitGroup
	mu    sync.Mutex // guards acked
	acked []admin.Applied
}

// host is one of them.
type host struct {
	*site
	space  *namespace
	name   string
	daemon *exec.Cmd
	skew   time.Duration
}

func newRack(t *testing.T, hosts int, random *rand.Rand) (*rack, cluster.Key) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root, to make network namespaces")
	}
	r := &rack{t: t, random: random, hub: newNamespace(t), cuts: map[[2]int]bool{}, answered: make([]atomic.Bool, 4)}
	r.hub.do("ip link set lo up && ip link add br0 type bridge && ip addr add 10.77.0.254/24 dev br0 && ip link set br0 up")
	for i := range r.answered {
		r.answered[i].Store(true)
		l := r.hub.listen(fmt.Sprintf("10.77.0.254:%d", 8001+i))
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if !r.answered[i].Load() {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			fmt.Fprintf(w, "backend %d", i)
		})}
		go s.Serve(l)
		t.Cleanup(func() { s.Close() })
		r.backends = append(r.backends, l.Addr().String())
	}
	key := cluster.NewKey()
	for i := range hosts {
		h := r.newHost(i, key)
		r.hosts = append(r.hosts, h)
		if i > 0 {
			continue // it is ready once it has the others' document
		}
		if _, err := h.api().Adopt(t.Context(), admin.Ask{}); err != nil {
			t.Fatal(err)
		}
	}
	return r, key
}

func (r *rack) newHost(i int, key cluster.Key) *host {
	r.t.Helper()
	dir, err := os.MkdirTemp("", "lbd")
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { os.RemoveAll(dir) })
	h := &host{site: &site{t: r.t, dir: dir, out: &safeBuffer{}}, space: newNamespace(r.t), name: fmt.Sprintf("edge-%d", i+1)}
	h.skew = time.Duration(r.random.IntN(601)-300) * time.Second
	h.environment = []string{fmt.Sprintf("%s=%d", skewSeconds, int(h.skew.Seconds()))}
	r.hub.do("ip link add p%d type veth peer name eth0 netns %d && ip link set p%d master br0 up", i, h.space.pid, i)
	h.space.do("ip link set lo up && ip addr add 10.77.0.%d/24 dev eth0 && ip link set eth0 up", i+1)
	h.enter = []string{"nsenter", "-n", "-t", fmt.Sprint(h.space.pid), "--"}
	text := fmt.Sprintf(`
node: { name: %[1]s, address: 10.77.0.%[2]d, run_dir: %[3]s/run, data_dir: %[3]s/data }
workers: { processes: 1, threads: 1 }
fastpath: { mode: "off" }
log: { access: "off" }
admin: { http: "" }
cluster: { name: rack, bind: "10.77.0.%[2]d:7946", join: ["10.77.0.1:7946"], key_file: %[3]s/key }
`, h.name, i+1, dir)
	if i == 0 {
		text += r.objects(1)
	}
	if err := errors.Join(os.WriteFile(h.file(), []byte(text), 0o600), os.WriteFile(filepath.Join(dir, "key"), []byte(key.String()+"\n"), 0o600)); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { h.killSupervisors(); h.killWorkers() })
	h.daemon = h.start()
	return h
}

// objects is a document; its number tells it from others.
func (r *rack) objects(number int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "listeners:\n  web: { bind: \":8080\" }\nroutes:\n  - match: { path: /which }\n    respond: { status: 200, body: \"%d\" }\n  - pool: app\npools:\n  app:\n", number)
	b.WriteString("    check: { http: /, interval: 500ms, timeout: 2s, rise: 2, fall: 3 }\n    backends:\n")
	for _, a := range r.backends {
		fmt.Fprintf(&b, "      - %q\n", a)
	}
	return b.String()
}

func (h *host) api() *admin.Client { return admin.Dial(h.socket()) }

// client asks the host's listener from where backends are.
func (r *rack) client() *http.Client {
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: r.hub.dial}}
}

// cut makes two hosts lose what they send each other.
func (r *rack) cut(i, j int, apart bool) {
	pair := [2]int{min(i, j), max(i, j)}
	if r.cuts[pair] == apart {
		return
	}
	r.cuts[pair] = apart
	verb := map[bool]string{true: "add", false: "del"}[apart]
	r.hosts[i].space.do("ip route %s blackhole 10.77.0.%d/32", verb, j+1)
	r.hosts[j].space.do("ip route %s blackhole 10.77.0.%d/32", verb, i+1)
}

// split puts each host on one of up to three sides; heal on one.
func (r *rack) split() {
	sides := 2 + r.random.IntN(2)
	at := make([]int, len(r.hosts))
	for i := range at {
		at[i] = r.random.IntN(sides)
	}
	r.divide(at)
}

func (r *rack) heal() { r.divide(make([]int, len(r.hosts))) }

func (r *rack) divide(at []int) {
	for i := range at {
		for j := range i {
			r.cut(i, j, at[i] != at[j])
		}
	}
}

// edit applies a new document on a host, beside what else happens: the answer
// waits for what the other hosts make of it.
func (r *rack) edit(number int) {
	h := r.hosts[r.random.IntN(len(r.hosts))]
	r.edits.Go(func() {
		done, err := h.api().Apply(r.t.Context(), []byte(r.objects(number)), "", admin.Ask{})
		if err != nil {
			r.t.Errorf("edit on %s: %v", h.name, err)
			return
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.acked = append(r.acked, done)
	})
}

// agree waits until every host runs one document, knows that all others do, and
// finds every backend up.
func (r *rack) agree() time.Duration {
	r.t.Helper()
	began, last := time.Now(), ""
	for time.Since(began) < 4*healBound {
		why := r.differs()
		if why == "" {
			return time.Since(began)
		}
		if why != last {
			r.t.Logf("after %v: %s", time.Since(began).Round(10*time.Millisecond), why)
			last = why
		}
		time.Sleep(50 * time.Millisecond)
	}
	r.t.Fatalf("%v after the heal: %s", 4*healBound, last)
	return 0
}

func (r *rack) differs() string {
	var first, generation string
	for _, h := range r.hosts {
		d, err := h.api().Document(r.t.Context(), "")
		s, err2 := h.api().Status(r.t.Context())
		all, err3 := h.api().Backends(r.t.Context())
		if err := errors.Join(err, err2, err3); err != nil {
			return fmt.Sprintf("%s: %v", h.name, err)
		}
		if first == "" {
			first, generation = d.Text, s.Generation
		}
		if d.Text != first {
			return fmt.Sprintf("%s has another document: generation %s, %s on edge-1", h.name, s.Generation, generation)
		}
		for _, b := range all {
			if b.Health != "up" || b.Alone {
				return fmt.Sprintf("%s finds %s %s (%s)", h.name, b.ID, b.Health, b.Check)
			}
		}
		if len(s.Nodes) != len(r.hosts) {
			return fmt.Sprintf("%s knows %d nodes", h.name, len(s.Nodes))
		}
		for _, n := range s.Nodes {
			// In sync it is when both have forgotten the same epochs, too, which waits
			// for connections.
			if n.State != "serving" || n.Drift != nil || n.Document != s.Nodes[0].Document {
				return fmt.Sprintf("%s finds %s %s, with document %s", h.name, n.Name, n.State, n.Document)
			}
		}
	}
	return ""
}

// kinds are a host's events of a kind, by subject.
func (h *host) kinds(kind string) map[string]string {
	h.t.Helper()
	all, err := h.api().Events(h.t.Context(), 0)
	if err != nil {
		h.t.Fatal(err)
	}
	found := map[string]string{}
	for _, e := range all {
		if e.Kind == kind {
			found[e.Subject] = e.Detail
		}
	}
	return found
}

// TestDaemonsOfARackHeal has five lbd with workers in network namespaces, with
// clocks up to five minutes apart. Links are cut and healed at random under
// edits on all sides and traffic to all nodes. After the last heal all run one
// document within 15 s, find the same backends up, and say which edits lost; no
// request failed, and nobody took a backend for down that was up. One that was
// away meanwhile, and one that was killed, catch up.
func TestDaemonsOfARackHeal(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes a while")
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r, key := newRack(t, *partitionNodes, rand.New(rand.NewPCG(seed, 0)))
	for _, h := range r.hosts {
		if skewed := h.clock(); (skewed - h.skew).Abs() > 5*time.Second {
			t.Errorf("%s says that it is %v from now, want %v", h.name, skewed, h.skew)
		}
	}
	r.agree()
	load := r.load()
	last := len(r.backends) - 1
	number, cuts := 1, 0
	for end := time.Now().Add(*partitionTime); time.Now().Before(end); cuts++ {
		r.split()
		for range 2 {
			time.Sleep(time.Duration(200+r.random.IntN(700)) * time.Millisecond) // how long it lasts is the test
			number++
			r.edit(number)
			if r.random.IntN(3) == 0 {
				r.answered[last].Store(!r.answered[last].Load())
			}
		}
		if r.random.IntN(3) == 0 {
			r.heal()
			time.Sleep(time.Duration(r.random.IntN(2000)) * time.Millisecond)
		}
	}
	r.edits.Wait()
	r.heal()
	r.answered[last].Store(true)
	took := r.agree()
	if took > healBound {
		t.Errorf("that took %v", took)
	}
	t.Logf("%d daemons, %d cuts, %d edits in %v: one document and one health %v after the last heal; %d of the last 20 lost, and every node says so",
		len(r.hosts), cuts, number-1, *partitionTime, took.Round(10*time.Millisecond), r.accountForEdits())

	// One that was away gets what was edited meanwhile; so does one that was killed.
	away, killed := r.hosts[len(r.hosts)-1], r.hosts[len(r.hosts)-2]
	away.daemon.Process.Signal(syscall.SIGTERM)
	killed.daemon.Process.Kill()
	for _, h := range []*host{away, killed} {
		h.until("it is gone", func() bool { return syscall.Kill(h.daemon.Process.Pid, 0) == syscall.ESRCH })
	}
	if _, err := r.hosts[0].api().Apply(t.Context(), []byte(r.objects(1000)), "", admin.Ask{}); err != nil {
		t.Error(err)
	}
	away.daemon, killed.daemon = away.start(), killed.start()
	t.Logf("one that was away and one that was killed caught up %v after their start", r.agree().Round(10*time.Millisecond))
	r.rotate(key)
	r.lonely()
	load.stop()
	for i := range load.failed {
		if n := load.failed[i].Load(); r.hosts[i] != away && n > 0 {
			t.Errorf("%s: %d of %d requests failed; one: %v", r.hosts[i].name, n, load.sent[i].Load(), load.why.Load())
		}
	}
	for _, h := range r.hosts {
		for id, why := range h.kinds("backend.down") {
			if id != "app/"+r.backends[last] {
				t.Errorf("%s took %s for down: %s", h.name, id, why)
			}
		}
	}
	t.Logf("%d requests", load.total())
}

// rotate replaces the cluster's key, node by node, whatever their clocks say. The
// last host is away while that ends: it is named, it cannot come back with the key
// of then, both sides say so, and it is here again once it has the new one.
func (r *rack) rotate(older cluster.Key) {
	r.t.Helper()
	ctx, newer := r.t.Context(), cluster.NewKey()
	all := func(hosts []*host, o admin.KeyOrder) {
		for _, h := range hosts {
			h.until(o.Action+" on "+h.name, func() bool { return h.api().ChangeKey(ctx, o, admin.Ask{}) == nil })
		}
	}
	here, away := r.hosts[:len(r.hosts)-1], r.hosts[len(r.hosts)-1]
	for _, h := range here {
		r.cut(len(here), slices.Index(r.hosts, h), true)
	}
	r.hosts[0].until(away.name+" is found dead", func() bool { return r.stateOf(away.name) == "dead" })
	all(here, admin.KeyOrder{Action: "add", Key: newer.String()})
	err := here[0].api().ChangeKey(ctx, admin.KeyOrder{Action: "use", Key: newer.Name()}, admin.Ask{})
	if err == nil || !strings.Contains(err.Error(), away.name+" (away) would not understand us") {
		r.t.Errorf("a key that %s does not have is used: %v", away.name, err)
	}
	all(here, admin.KeyOrder{Action: "use", Key: newer.Name(), Force: true})
	all(here, admin.KeyOrder{Action: "remove", Key: older.Name(), Force: true})
	r.heal()
	for _, h := range []*host{here[0], away} {
		h.until(h.name+" tells of another key", func() bool { return strings.Contains(h.kinds("gossip.refused")["wrong key"], "decrypt") })
	}
	if got := r.stateOf(away.name); got != "dead" {
		r.t.Errorf("with the old key %s is %s", away.name, got)
	}
	all([]*host{away}, admin.KeyOrder{Action: "add", Key: newer.String()})
	all([]*host{away}, admin.KeyOrder{Action: "use", Key: newer.Name(), Force: true})
	all([]*host{away}, admin.KeyOrder{Action: "remove", Key: older.Name(), Force: true})
	r.t.Logf("the key is another one on all, %v after the last had it", r.agree().Round(10*time.Millisecond))
}

// lonely takes the way to a backend from one host: it says in its status that it
// is alone with what it sees, and the others go on.
func (r *rack) lonely() {
	r.t.Helper()
	h, port := r.hosts[1], 8000+len(r.backends)
	subject := "backend app/" + r.backends[len(r.backends)-1]
	problem := func(of *host) (text string) {
		s, err := of.api().Status(r.t.Context())
		if err != nil {
			r.t.Fatal(err)
		}
		for _, p := range s.Problems {
			if p.Subject == subject {
				text = p.Text
			}
		}
		return text
	}
	h.space.do("ip rule add to 10.77.0.254 ipproto tcp dport %d blackhole", port)
	h.until("it alone finds it down", func() bool { return strings.Contains(problem(h), "is down as this node alone sees it") })
	if text := problem(r.hosts[0]); text != "" {
		r.t.Errorf("%s finds that the %s %s", r.hosts[0].name, subject, text)
	}
	r.t.Logf("%s: %s %s", h.name, subject, problem(h))
	h.space.do("ip rule del to 10.77.0.254 ipproto tcp dport %d blackhole", port)
	h.until("it is up again", func() bool { return problem(h) == "" })
}

func (r *rack) stateOf(name string) string {
	s, err := r.hosts[0].api().Status(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	for _, n := range s.Nodes {
		if n.Name == name {
			return n.State
		}
	}
	return "unknown"
}

// accountForEdits wants of each edit that was acknowledged that the last one
// follows it, or that every host says that it lost. It counts those. The last 20
// are in everybody's history, which has 50 entries and keeps those that lost, too.
func (r *rack) accountForEdits() (lost int) {
	r.t.Helper()
	follows := map[string]bool{}
	reported := make([]map[string]string, len(r.hosts))
	for i, h := range r.hosts {
		reported[i] = h.kinds("config.lost")
	}
	past, err := r.past()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, g := range past {
		follows[g] = true
	}
	for _, done := range r.acked[max(0, len(r.acked)-20):] {
		if follows[done.Generation] {
			continue
		}
		lost++
		author := done.Generation[strings.LastIndex(done.Generation, "@")+1:]
		said := 0
		for i, h := range r.hosts {
			if _, ok := reported[i][done.Generation]; ok {
				said++
			} else if h.name == author && !r.explained(done.Generation, reported) {
				r.t.Errorf("%s was made by %s and lost, and it does not say so: %v", done.Generation, h.name, reported[i])
			}
		}
		if said == 0 && !r.explained(done.Generation, reported) {
			r.t.Errorf("%s lost, and nobody says so", done.Generation)
		}
	}
	// What was lost at last is known everywhere.
	for i := range reported {
		for g := range reported[0] {
			if _, ok := reported[i][g]; !ok {
				r.t.Logf("%s does not tell of %s", r.hosts[i].name, g)
			}
		}
	}
	return lost
}

// past are the generations that the document follows, itself first, as the
// first host keeps them.
func (r *rack) past() ([]string, error) {
	h := r.hosts[0]
	s, err := h.api().Status(r.t.Context())
	if err != nil {
		return nil, err
	}
	var document string
	for _, n := range s.Nodes {
		if n.Self {
			document = n.Document
		}
	}
	return h.pastOf(document)
}

// pastOf reads what a record of the history says that its edit follows.
func (h *host) pastOf(document string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(h.dir, "data", "generations", "*.json"))
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			continue // pruned
		}
		_, body, _ := strings.Cut(string(text), "\n")
		var record struct {
			Edition struct {
				Generation string
				Past       []string
			}
		}
		if json.Unmarshal([]byte(body), &record) == nil && record.Edition.Generation == document {
			return append(record.Edition.Past, document), nil
		}
	}
	return nil, fmt.Errorf("%s keeps no record of %s", h.name, document)
}

// explained reports whether a lost edit is on the way to one that is reported:
// the last of a branch speaks for those before it.
func (r *rack) explained(g string, reported []map[string]string) bool {
	for i, h := range r.hosts {
		for one := range reported[i] {
			if past, err := h.pastOf(one); err == nil && slices.Contains(past, g) {
				return true
			}
		}
	}
	return false
}

// rackLoad asks every host all the time.
type rackLoad struct {
	stop         func()
	sent, failed []atomic.Int64
	why          atomic.Value
}

func (r *rack) load() *rackLoad {
	l := &rackLoad{sent: make([]atomic.Int64, len(r.hosts)), failed: make([]atomic.Int64, len(r.hosts))}
	ctx, cancel := context.WithCancel(context.Background())
	var clients sync.WaitGroup
	for i := range r.hosts {
		clients.Go(func() {
			client := r.client()
			defer client.CloseIdleConnections()
			for ctx.Err() == nil {
				l.sent[i].Add(1)
				res, err := client.Get(fmt.Sprintf("http://10.77.0.%d:8080/", i+1))
				if err == nil {
					_, err = io.Copy(io.Discard, res.Body)
					res.Body.Close()
					if err == nil && res.StatusCode != 200 && res.StatusCode != 503 {
						err = errors.New(res.Status)
					}
				}
				if err != nil {
					l.failed[i].Add(1)
					l.why.Store(err.Error())
				}
				time.Sleep(5 * time.Millisecond) // a load, not a bench
			}
		})
	}
	l.stop = func() { cancel(); clients.Wait() }
	return l
}

func (l *rackLoad) total() (n int64) {
	for i := range l.sent {
		n += l.sent[i].Load()
	}
	return n
}

// skewSeconds is by how much a process's clock is ahead. A binary whose package
// time knows it (make partitions) is ahead in all that it does; else it is what
// the node reads that is.
const skewSeconds = "LBD_TEST_SKEW"

func skewClock() {
	var seconds int64
	if _, err := fmt.Sscan(os.Getenv(skewSeconds), &seconds); err != nil {
		return
	}
	var real unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_REALTIME, &real); err != nil {
		panic(err)
	}
	if ahead := time.Now().Unix() - real.Sec; (ahead-seconds)*(ahead-seconds) > 1 {
		wallClock = func() time.Time { return time.Now().Add(time.Duration(seconds) * time.Second) }
	}
}

// clock is how far the host's clock is from ours.
func (h *host) clock() time.Duration {
	now, err := h.api().Traffic(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	return time.Until(now.Time.Round(0))
}
