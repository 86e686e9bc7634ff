package filter

import (
	"errors"
	"net/http"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7"
	"github.com/cirque-lb/lb/l7/l7test"
)

// admits asks a filter whether a client may come in.
func admits(t testing.TB, f *l7.Filter, client string) bool {
	t.Helper()
	addr := netip.AddrPort{}
	if client != "" {
		addr = netip.AddrPortFrom(netip.MustParseAddr(client), 1)
	}
	res, err := f.Request(&l7.Session{Request: &l7.Request{Client: addr}})
	var e *l7.Error
	if res != nil || err != nil && (!errors.As(err, &e) || e.Status != 403 || e.Reason != lb.AccessDenied) {
		t.Errorf("got %v, %v", res, err)
	}
	return err == nil
}

func TestAccess(t *testing.T) {
	for _, c := range []struct {
		name, config string
		in, out      []string
	}{
		{"an allow list shuts others out", `allow: [10.0.0.0/8, "2001:db8::/32"]`,
			[]string{"10.1.2.3", "::ffff:10.1.2.3", "2001:db8::1"}, []string{"11.0.0.1", "2001:db9::1", ""}},
		{"a deny list lets others in", `deny: [10.0.0.0/8]`, []string{"11.0.0.1", "::1", ""}, []string{"10.0.0.1"}},
		{"the narrowest network decides", `{ allow: [10.0.0.0/8, 10.6.6.6/32], deny: [10.6.0.0/16] }`,
			[]string{"10.1.1.1", "10.6.6.6"}, []string{"10.6.6.7", "192.0.2.1"}},
		{"all but some", `{ allow: [0.0.0.0/0], deny: [10.0.0.0/8] }`, []string{"192.0.2.1"}, []string{"10.0.0.1", "::1"}},
	} {
		f := built(t, access, c.config)
		for _, client := range c.in {
			if !admits(t, &f, client) {
				t.Errorf("%s: %s is shut out", c.name, client)
			}
		}
		for _, client := range c.out {
			if admits(t, &f, client) {
				t.Errorf("%s: %s is let in", c.name, client)
			}
		}
	}
}

// The table says what a look at every network would.
func TestNetworksFindTheNarrowest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		addr := rapid.Custom(func(t *rapid.T) netip.Addr {
			if rapid.Bool().Draw(t, "four") {
				return netip.AddrFrom4([4]byte{10, byte(rapid.IntRange(0, 3).Draw(t, "b")), 0, byte(rapid.IntRange(0, 3).Draw(t, "d"))})
			}
			return netip.AddrFrom16([16]byte{0x20, 1, 15: byte(rapid.IntRange(0, 3).Draw(t, "p"))})
		})
		var list networks
		verdicts := map[netip.Prefix]bool{}
		for range rapid.IntRange(0, 12).Draw(t, "networks") {
			a := addr.Draw(t, "network")
			p, _ := a.Prefix(rapid.IntRange(0, a.BitLen()).Draw(t, "bits"))
			if _, twice := verdicts[p]; twice {
				continue
			}
			verdicts[p] = rapid.Bool().Draw(t, "verdict")
			list.add(p, verdicts[p])
		}
		a, others := addr.Draw(t, "address"), rapid.Bool().Draw(t, "others")
		want, bits := others, -1
		for p, v := range verdicts {
			if p.Contains(a) && p.Bits() > bits {
				want, bits = v, p.Bits()
			}
		}
		if got := list.lookup(a, others); got != want {
			t.Fatalf("%v in %v: got %v, want %v", a, verdicts, got, want)
		}
	})
}

func TestAccessGoesByTheClientThatTrustedProxiesName(t *testing.T) {
	p := l7test.Start(t, All, "trusted: [127.0.0.0/8]\nroutes: [ { filters: [ access: { deny: [203.0.113.0/24] } ], respond: { body: in } } ]")
	for client, want := range map[string]int{"203.0.113.9": 403, "203.0.113.9, 198.51.100.1": 200, "198.51.100.1, 203.0.113.9": 403} {
		if res := get(t, p.URL, "X-Forwarded-For", client); res.StatusCode != want {
			t.Errorf("%s: got %d, want %d", client, res.StatusCode, want)
		}
	}
	if res := get(t, p.URL); res.StatusCode != http.StatusOK {
		t.Errorf("got %d", res.StatusCode)
	}
}

func TestAccessRefuses(t *testing.T) {
	refuses(t, access, []refusal{
		{`{}`, `wants networks to allow or to deny`},
		{`{ allow: [10.0.0.0/8], deny: [10.0.0.0/8] }`, `10.0.0.0/8 is both allowed and denied`},
		{`{ allow: [10.0.0.1] }`, `"10.0.0.1" is not a network`},
		{`{ allow: [10.0.0.1/8] }`, `bits beyond its mask`},
		{`{ alow: [10.0.0.0/8] }`, `unknown key "alow"`},
	})
}

func BenchmarkAccess(b *testing.B) {
	f := built(b, access, `{ allow: [10.0.0.0/8, 192.168.0.0/16], deny: [10.6.0.0/16, 10.7.7.0/24] }`)
	s := &l7.Session{Request: &l7.Request{Client: netip.MustParseAddrPort("10.6.1.1:1")}}
	s.Request.Client = netip.MustParseAddrPort("10.8.1.1:1")
	b.ReportAllocs()
	for b.Loop() {
		f.Request(s)
	}
}
