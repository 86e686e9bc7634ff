package discover

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cirque-lb/lb"
	"github.com/miekg/dns"
)

// zone is a DNS server on loopback, UDP and TCP.
type zone struct {
	address netip.AddrPort

	mu      sync.Mutex           // guards the fields below
	records map[string][]dns.RR  // by "name type"
	extra   map[string][]dns.RR  // what comes along
	rcodes  map[string]int       // instead of an answer
	asked   map[string]int       // questions, by "name type"
	noEDNS  bool                 // such questions are not understood
	tcp     int                  // questions over TCP
	mangle  func(reply *dns.Msg) // before it is sent
}

func newZone(t *testing.T) *zone {
	t.Helper()
	z := &zone{records: map[string][]dns.RR{}, extra: map[string][]dns.RR{}, rcodes: map[string]int{}, asked: map[string]int{}}
	var packets net.PacketConn
	var streams net.Listener
	var err error
	for range 10 { // one port for both
		if packets, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		if streams, err = net.Listen("tcp", packets.LocalAddr().String()); err == nil {
			break
		}
		packets.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	z.address = netip.MustParseAddrPort(packets.LocalAddr().String())
	for _, s := range []*dns.Server{{PacketConn: packets, Handler: z}, {Listener: streams, Handler: z}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go s.ActivateAndServe()
		<-started
		t.Cleanup(func() { s.Shutdown() })
	}
	return z
}

func (z *zone) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	z.mu.Lock()
	defer z.mu.Unlock()
	key := q.Question[0].Name + " " + dns.TypeToString[q.Question[0].Qtype]
	z.asked[key]++
	reply := new(dns.Msg).SetReply(q)
	limit := dns.MinMsgSize
	if o := q.IsEdns0(); o != nil {
		limit = int(o.UDPSize())
	}
	_, stream := w.RemoteAddr().(*net.TCPAddr)
	switch rcode, refused := z.rcodes[key]; {
	case z.noEDNS && q.IsEdns0() != nil:
		reply.Rcode = dns.RcodeFormatError
	case refused:
		reply.Rcode = rcode
	default:
		reply.Answer, reply.Extra = slices.Clone(z.records[key]), slices.Clone(z.extra[key])
		if len(reply.Answer) == 0 && !z.knows(q.Question[0].Name) {
			reply.Rcode = dns.RcodeNameError
		}
	}
	if stream {
		z.tcp++
	} else {
		reply.Truncate(limit)
	}
	if z.mangle != nil {
		z.mangle(reply)
	}
	w.WriteMsg(reply)
}

func (z *zone) knows(name string) bool {
	for key := range z.records {
		if strings.HasPrefix(key, name+" ") {
			return true
		}
	}
	return false
}

// set makes these the records of "name TYPE".
func (z *zone) set(t *testing.T, key string, records ...string) {
	t.Helper()
	z.mu.Lock()
	defer z.mu.Unlock()
	z.records[key] = parse(t, records)
}

func parse(t *testing.T, records []string) []dns.RR {
	t.Helper()
	var all []dns.RR
	for _, text := range records {
		rr, err := dns.NewRR(text)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, rr)
	}
	return all
}

func (z *zone) fail(key string, rcode int) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.rcodes[key] = rcode
}

// change does something to the zone, alone.
func (z *zone) change(f func()) {
	z.mu.Lock()
	defer z.mu.Unlock()
	f()
}

func (z *zone) heal(key string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	delete(z.rcodes, key)
}

// find asks a source once; the answer is in words.
func find(t *testing.T, s Source) (string, time.Duration, error) {
	t.Helper()
	answer, err := s.Find(t.Context())
	var all []string
	for _, b := range tidy(answer.Backends) {
		text := fmt.Sprintf("%s*%d", b.Address, b.Weight)
		if b.Backup {
			text += " backup"
		}
		all = append(all, text)
	}
	return strings.Join(all, ", "), answer.Good, err
}

func TestAddressesOfBothFamiliesAreFoundForTheirTTL(t *testing.T) {
	z := newZone(t)
	z.set(t, "app.internal. A", "app.internal. 30 IN A 10.0.0.1", "app.internal. 20 IN A 10.0.0.2")
	z.set(t, "app.internal. AAAA", "app.internal. 60 IN AAAA fd00::1")
	s := newHosts(lb.Discovery{DNS: "app.internal:8080", Servers: []netip.AddrPort{z.address}})
	got, good, err := find(t, s)
	if got != "10.0.0.1:8080*1, 10.0.0.2:8080*1, [fd00::1]:8080*1" || good != 20*time.Second || err != nil {
		t.Errorf("found %s for %s, %v", got, good, err)
	}
}

func TestAnAliasIsFollowedAndItsTTLCounts(t *testing.T) {
	z := newZone(t)
	z.set(t, "app.internal. A", "app.internal. 5 IN CNAME real.internal.", "real.internal. 300 IN A 10.0.0.1")
	got, good, err := find(t, newHosts(lb.Discovery{DNS: "app.internal:80", Servers: []netip.AddrPort{z.address}}))
	if got != "10.0.0.1:80*1" || good != 5*time.Second || err != nil {
		t.Errorf("found %s for %s, %v", got, good, err)
	}
}

func TestHalfAFailureTakesNoBackendAway(t *testing.T) {
	z := newZone(t)
	z.set(t, "app.internal. A", "app.internal. 30 IN A 10.0.0.1")
	z.set(t, "app.internal. AAAA", "app.internal. 30 IN AAAA fd00::1")
	s := newHosts(lb.Discovery{DNS: "app.internal:80", Servers: []netip.AddrPort{z.address}})
	find(t, s)
	z.fail("app.internal. AAAA", dns.RcodeServerFailure)
	z.set(t, "app.internal. A", "app.internal. 3600 IN A 10.0.0.2")
	got, good, err := find(t, s)
	if got != "10.0.0.2:80*1, [fd00::1]:80*1" || good != backOffTo || err != nil {
		t.Errorf("with one family: %s for %s, %v; want the other's last answer, soon asked again", got, good, err)
	}
	z.fail("app.internal. A", dns.RcodeServerFailure)
	if _, _, err = find(t, s); err == nil || !strings.Contains(err.Error(), "it answers SERVFAIL") {
		t.Errorf("with none: %v, want an error", err)
	}
	z.heal("app.internal. AAAA")
	z.heal("app.internal. A")
	z.set(t, "app.internal. AAAA")
	if got, _, err = find(t, s); got != "10.0.0.2:80*1" || err != nil {
		t.Errorf("a family that has no address any more: %s, %v", got, err)
	}
}

func TestAnswersWithoutAnAddressAreFailures(t *testing.T) {
	z := newZone(t)
	z.set(t, "empty.internal. TXT", "empty.internal. 30 IN TXT x")
	z.set(t, "any.internal. A", "any.internal. 30 IN A 0.0.0.0")
	for name, want := range map[string]string{
		"gone.internal:80":  "look up gone.internal: there is no such name (NXDOMAIN)",
		"empty.internal:80": "look up empty.internal: it has no address",
		"any.internal:80":   "look up any.internal: it has no address",
	} {
		_, _, err := find(t, newHosts(lb.Discovery{DNS: name, Servers: []netip.AddrPort{z.address}}))
		if err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
	}
}

func TestALongAnswerComesByTCP(t *testing.T) {
	z := newZone(t)
	var many []string
	for i := range 200 {
		many = append(many, fmt.Sprintf("app.internal. 30 IN A 10.0.1.%d", i))
	}
	z.set(t, "app.internal. A", many...)
	answer, err := newHosts(lb.Discovery{DNS: "app.internal:80", Servers: []netip.AddrPort{z.address}}).Find(t.Context())
	z.change(func() {
		if err != nil || len(answer.Backends) != 200 || z.tcp == 0 {
			t.Errorf("%d addresses, %d questions by TCP, %v; want 200 by TCP", len(answer.Backends), z.tcp, err)
		}
	})
}

func TestAServerWithoutEDNSIsAskedWithout(t *testing.T) {
	z := newZone(t)
	z.change(func() { z.noEDNS = true })
	z.set(t, "app.internal. A", "app.internal. 30 IN A 10.0.0.1")
	if got, _, err := find(t, newHosts(lb.Discovery{DNS: "app.internal:80", Servers: []netip.AddrPort{z.address}})); got != "10.0.0.1:80*1" || err != nil {
		t.Errorf("found %s, %v", got, err)
	}
}

func TestTheNextServerIsAskedWhenOneDoesNotKnow(t *testing.T) {
	broken, z := newZone(t), newZone(t)
	broken.fail("app.internal. A", dns.RcodeRefused)
	broken.fail("app.internal. AAAA", dns.RcodeRefused)
	z.set(t, "app.internal. A", "app.internal. 30 IN A 10.0.0.1")
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	silent.Close() // nobody is there
	s := newHosts(lb.Discovery{DNS: "app.internal:80", Servers: []netip.AddrPort{netip.MustParseAddrPort(silent.LocalAddr().String()), broken.address, z.address}})
	if got, _, err := find(t, s); got != "10.0.0.1:80*1" || err != nil {
		t.Errorf("found %s, %v", got, err)
	}
}

func TestAnAnswerToAnotherQuestionIsNone(t *testing.T) {
	z := newZone(t)
	z.set(t, "app.internal. A", "app.internal. 30 IN A 10.0.0.1")
	z.change(func() { z.mangle = func(m *dns.Msg) { m.Question[0].Name = "other.internal." } })
	if _, _, err := find(t, newHosts(lb.Discovery{DNS: "app.internal:80", Servers: []netip.AddrPort{z.address}})); err == nil {
		t.Error("it was taken")
	}
}

func TestServiceRecordsGivePortsWeightsAndBackups(t *testing.T) {
	z := newZone(t)
	const name = "_http._tcp.app.internal. SRV"
	z.set(t, name,
		"_http._tcp.app.internal. 30 IN SRV 10 60000 8080 a.internal.",
		"_http._tcp.app.internal. 30 IN SRV 10 0 8081 a.internal.",
		"_http._tcp.app.internal. 30 IN SRV 20 30000 8080 b.internal.",
		"_http._tcp.app.internal. 30 IN SRV 10 1 8080 gone.internal.")
	z.set(t, "a.internal. A", "a.internal. 10 IN A 10.0.0.1")
	z.set(t, "b.internal. AAAA", "b.internal. 60 IN AAAA fd00::2")
	s := newRecords(lb.Discovery{SRV: "_http._tcp.app.internal", Servers: []netip.AddrPort{z.address}})
	got, good, err := find(t, s)
	if want := "10.0.0.1:8080*1000, 10.0.0.1:8081*1, [fd00::2]:8080*500 backup"; got != want || good != 10*time.Second || err != nil {
		t.Errorf("found %s for %s, %v; want %s", got, good, err, want)
	}
	z.change(func() {
		if n := z.asked["a.internal. A"]; n != 1 {
			t.Errorf("a host with two ports was asked for %d times, want once", n)
		}
	})
	// A target that cannot be asked for leaves the last answer whole.
	z.fail("b.internal. A", dns.RcodeServerFailure)
	z.fail("b.internal. AAAA", dns.RcodeServerFailure)
	if _, _, err := find(t, s); err == nil || !strings.Contains(err.Error(), "look up b.internal. of _http._tcp.app.internal") {
		t.Errorf("with a target that fails: %v", err)
	}
	// Addresses that come along are not asked for.
	along := parse(t, []string{"a.internal. 5 IN A 10.0.0.7", "b.internal. 5 IN A 10.0.0.8", "gone.internal. 5 IN A 10.0.0.9"})
	z.change(func() { z.extra[name] = along })
	got, good, err = find(t, s)
	if want := "10.0.0.7:8080*1000, 10.0.0.7:8081*1, 10.0.0.8:8080*500 backup, 10.0.0.9:8080*1"; got != want || good != 5*time.Second || err != nil {
		t.Errorf("found %s for %s, %v; want %s", got, good, err, want)
	}
}

func TestAServiceThatIsDecidedlyNotThereIsAFailure(t *testing.T) {
	z := newZone(t)
	z.set(t, "app.internal. SRV", "app.internal. 30 IN SRV 0 0 0 .")
	_, _, err := find(t, newRecords(lb.Discovery{SRV: "app.internal", Servers: []netip.AddrPort{z.address}}))
	if err == nil || err.Error() != "look up app.internal: it has no address" {
		t.Errorf("got %v", err)
	}
}

func TestShortNamesAreLookedForInTheSearchList(t *testing.T) {
	z := newZone(t)
	z.set(t, "app.b.internal. A", "app.b.internal. 30 IN A 10.0.0.1")
	c := &dns.ClientConfig{Search: []string{"a.internal", "b.internal"}, Ndots: 1}
	r := &resolver{servers: []string{z.address.String()}, search: c.NameList}
	found, err := r.ask(context.Background(), "app", dns.TypeA)
	if err != nil || len(found.records) != 1 {
		t.Errorf("found %v, %v", found.records, err)
	}
}

func TestASetFollowsDNS(t *testing.T) {
	z := newZone(t)
	z.set(t, "app.internal. A", "app.internal. 1 IN A 10.0.0.1")
	s := New(Options{})
	defer s.Close()
	d := lb.Discovery{DNS: "app.internal:80", Servers: []netip.AddrPort{z.address}}
	s.Await(t.Context(), []lb.Discovery{d})
	if want := []lb.Backend{{Address: "10.0.0.1:80", Weight: 1}}; !slices.Equal(s.Found(d), want) {
		t.Fatalf("found %v, want %v", s.Found(d), want)
	}
	<-s.Changed()
	z.set(t, "app.internal. A", "app.internal. 1 IN A 10.0.0.2")
	select {
	case <-s.Changed():
	case <-time.After(10 * time.Second):
		t.Fatal("the change was not told")
	}
	if want := []lb.Backend{{Address: "10.0.0.2:80", Weight: 1}}; !slices.Equal(s.Found(d), want) {
		t.Errorf("found %v, want %v", s.Found(d), want)
	}
}
