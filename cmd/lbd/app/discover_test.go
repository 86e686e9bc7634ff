package app

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/cirque-lb/lb/cmd/internal/admin"
)

// nameserver is a DNS server on loopback that can be away.
type nameserver struct {
	address string
	asked   atomic.Int64

	mu      sync.Mutex // guards what follows
	server  *dns.Server
	records map[string][]string // by "name. TYPE"
	rcode   int                 // what is said instead
}

func newNameserver(t *testing.T) *nameserver {
	z := &nameserver{records: map[string][]string{}}
	l, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	z.address = l.LocalAddr().String()
	l.Close() // nobody answers yet
	t.Cleanup(func() { z.stop() })
	return z
}

func (z *nameserver) start(t *testing.T) {
	t.Helper()
	l, err := net.ListenPacket("udp", z.address)
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan struct{})
	z.mu.Lock()
	defer z.mu.Unlock()
	z.server = &dns.Server{PacketConn: l, Handler: z, NotifyStartedFunc: func() { close(started) }}
	go z.server.ActivateAndServe()
	<-started
}

func (z *nameserver) stop() {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.server != nil {
		z.server.Shutdown()
		z.server = nil
	}
}

func (z *nameserver) set(key string, records ...string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.rcode = dns.RcodeSuccess
	z.records[key] = records
}

func (z *nameserver) fail(rcode int) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.rcode = rcode
}

func (z *nameserver) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	z.asked.Add(1)
	z.mu.Lock()
	reply := new(dns.Msg).SetReply(q)
	reply.Rcode = z.rcode
	if reply.Rcode == dns.RcodeSuccess {
		for _, text := range z.records[q.Question[0].Name+" "+dns.TypeToString[q.Question[0].Qtype]] {
			rr, err := dns.NewRR(text)
			if err != nil {
				panic(err)
			}
			reply.Answer = append(reply.Answer, rr)
		}
	}
	z.mu.Unlock()
	w.WriteMsg(reply)
}

// family is backends that have one port and an address of loopback each.
type family struct{ port string }

func newFamily(t *testing.T, addresses ...string) family {
	t.Helper()
	for range 20 {
		port := fmt.Sprint(freePort(t))
		var all []net.Listener
		for _, a := range addresses {
			l, err := net.Listen("tcp", net.JoinHostPort(a, port))
			if err == nil {
				all = append(all, l)
			}
		}
		if len(all) < len(addresses) { // somebody has it, or there is no IPv6
			for _, l := range all {
				l.Close()
			}
			continue
		}
		for i, l := range all {
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "backend "+addresses[i]) }))
			s.Listener.Close()
			s.Listener = l
			s.Start()
			t.Cleanup(s.Close)
		}
		return family{port}
	}
	t.Skipf("no port is free on %v", addresses)
	return family{}
}

// answering lists who answers at a path within so many requests; a status that
// is not 200 is one of them.
func (s *site) answering(path string, requests int) string {
	seen := map[string]bool{}
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for range requests {
		r, err := client.Get(s.url() + path)
		if err != nil {
			s.t.Fatal(err)
		}
		body, _ := io.ReadAll(r.Body)
		r.Body.Close()
		text := strings.TrimPrefix(string(body), "backend ")
		if r.StatusCode != http.StatusOK {
			text = fmt.Sprint(r.StatusCode)
		}
		seen[text] = true
	}
	var all []string
	for text := range seen {
		all = append(all, text)
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// answers waits until exactly these answer.
func (s *site) answers(path, want string) {
	s.t.Helper()
	var got string
	defer func() {
		if s.t.Failed() {
			s.t.Logf("%s is answered by %q, want %q", path, got, want)
		}
	}()
	s.until(fmt.Sprintf("%s is answered by %s", path, want), func() bool { got = s.answering(path, 12); return got == want })
}

func (s *site) problems() string {
	status, err := admin.Dial(s.socket()).Status(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	var all strings.Builder
	for _, p := range status.Problems {
		fmt.Fprintf(&all, "%s: %s\n", p.Subject, p.Text)
	}
	return all.String()
}

// A live lbd with workers finds backends by addresses, by SRV records and in a
// file. It starts when no source answers; a source that fails takes nobody
// away, not even over restarts; and no request of a pool that has backends fails
// meanwhile.
func TestBackendsAreDiscoveredUnderTraffic(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	z := newNameserver(t)
	b := newFamily(t, "127.0.0.1", "127.0.0.2", "127.0.0.3", "::1")
	s := newSite(t)
	list := filepath.Join(s.dir, "list.yaml")
	routes := `
  - match: { path: /dns }
    pool: named
  - match: { path: /srv }
    pool: service
  - match: { path: /file }
    pool: listed
`
	s.configure(routes)
	text, _ := os.ReadFile(s.file())
	text = fmt.Appendf(text, `
  named: { discover: { dns: "app.test:%s", servers: [%q] } }
  service: { discover: { srv: _http._tcp.app.test, servers: [%q] } }
  listed: { discover: { file: %s } }
`, b.port, z.address, z.address, list)
	if err := os.WriteFile(s.file(), text, 0o644); err != nil {
		t.Fatal(err)
	}

	began := time.Now()
	c := s.start() // and no source answers
	t.Logf("started in %v without any source", time.Since(began).Round(time.Millisecond))
	if got := s.answering("", 4); !strings.Contains(got, "0") {
		t.Errorf("the pool that is listed: %q", got)
	}
	s.answers("dns", "503")
	for _, want := range []string{"discovery dns app.test", "discovery srv _http._tcp.app.test", "discovery file " + list, "never answered"} {
		if got := s.problems(); !strings.Contains(got, want) {
			t.Errorf("problems lack %q:\n%s", want, got)
		}
	}

	z.set("app.test. A", "app.test. 1 IN A 127.0.0.2")
	z.set("_http._tcp.app.test. SRV", "_http._tcp.app.test. 1 IN SRV 1 10 "+b.port+" one.test.", "_http._tcp.app.test. 1 IN SRV 9 10 "+b.port+" spare.test.")
	z.set("one.test. A", "one.test. 1 IN A 127.0.0.1")
	z.set("spare.test. A", "spare.test. 1 IN A 127.0.0.3")
	z.start(t)
	replace(t, list, "[\"127.0.0.1:"+b.port+"\"]")
	s.answers("dns", "127.0.0.2")
	s.answers("srv", "127.0.0.1") // the other one is a backup
	s.answers("file", "127.0.0.1")
	loads := []*load{s.loadAt("dns"), s.loadAt("srv"), s.loadAt("file")}

	// Answers change with their TTL; both families count.
	z.set("app.test. A", "app.test. 1 IN A 127.0.0.2", "app.test. 1 IN A 127.0.0.3")
	z.set("app.test. AAAA", "app.test. 1 IN AAAA ::1")
	s.answers("dns", "127.0.0.2 127.0.0.3 ::1")
	z.set("_http._tcp.app.test. SRV", "_http._tcp.app.test. 1 IN SRV 1 10 "+b.port+" spare.test.")
	s.answers("srv", "127.0.0.3")

	// A file that is being written waits; one that is renamed there is taken.
	f, err := os.OpenFile(list, os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(f, "- \"127.0.0.2:%s\"\n- \"127.0", b.port) // torn
	f.Close()
	s.until("the torn file is a problem", func() bool { return strings.Contains(s.problems(), "list.yaml:2:") })
	s.answers("file", "127.0.0.1")
	replace(t, list, "- 127.0.0.2:"+b.port+"\n- { address: \"127.0.0.3:"+b.port+"\", weight: 2 }\n")
	s.answers("file", "127.0.0.2 127.0.0.3")

	// Every source fails: a server that refuses, one that is silent, no file.
	os.Remove(list)
	z.fail(dns.RcodeServerFailure)
	s.until("they are problems", func() bool {
		p := s.problems()
		return strings.Contains(p, "SERVFAIL; its last answer holds: 3 backends") && strings.Contains(p, "no such file or directory; its last answer holds: 2 backends")
	})
	z.stop()
	keeps := func(when string) {
		t.Helper()
		for path, want := range map[string]string{"dns": "127.0.0.2 127.0.0.3 ::1", "srv": "127.0.0.3", "file": "127.0.0.2 127.0.0.3"} {
			if got := s.answering(path, 24); got != want {
				t.Errorf("%s: %s is answered by %q, want %q", when, path, got, want)
			}
		}
	}
	keeps("while all fail")
	if err := s.order("POST", "/v1/config/reload", ""); err != nil {
		t.Error(err)
	}
	keeps("after a reload")
	c = s.restart(c)
	keeps("after the supervisor's death")
	for _, l := range loads {
		l.endUnfailed(t)
	}
	crew := s.pids()
	c.Process.Signal(syscall.SIGTERM)
	s.until("it is gone with its workers", func() bool {
		left, _ := filepath.Glob(filepath.Join(s.dir, "run", "*.sock"))
		return len(left) == 0 && syscall.Kill(c.Process.Pid, 0) == syscall.ESRCH
	})
	s.start()
	if slices.Equal(crew, s.pids()) {
		t.Error("the workers are the old ones")
	}
	keeps("after an end and a start")

	// And they mend.
	z.set("app.test. A", "app.test. 1 IN A 127.0.0.1")
	z.set("app.test. AAAA")
	z.start(t)
	replace(t, list, "[]")
	s.answers("dns", "127.0.0.1")
	s.answers("file", "503") // decidedly nobody
	s.until("nothing is a problem but the pool without backends", func() bool { return !strings.Contains(s.problems(), "fails") })
	events, err := admin.Dial(s.socket()).Events(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, e := range events {
		kinds = append(kinds, e.Kind)
	}
	for _, want := range []string{"discover.failed", "discover.mended", "pool.discovered"} {
		if !slices.Contains(kinds, want) {
			t.Errorf("no event says %s: %v", want, kinds)
		}
	}

	// A long TTL is kept to.
	z.set("app.test. A", "app.test. 3600 IN A 127.0.0.2")
	s.answers("dns", "127.0.0.2")
	s.order("POST", "/v1/config/reload", "")
	z.set("app.test. A", "app.test. 3600 IN A 127.0.0.3")
	z.set("_http._tcp.app.test. SRV", "_http._tcp.app.test. 3600 IN SRV 1 10 "+b.port+" one.test.")
	z.set("one.test. A", "one.test. 3600 IN A 127.0.0.1")
	s.answers("srv", "127.0.0.1")
	if got := s.answering("dns", 8); got != "127.0.0.2" {
		t.Errorf("a TTL of an hour was over at once: %s", got)
	}
}

// replace puts a text in a file's place, at once.
func replace(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}
