package filter

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7"
	"github.com/cirque-lb/lb/l7/l7test"
)

// hashed is a password as users of a file have it, cheap for tests.
func hashed(t testing.TB, password string) string {
	t.Helper()
	h, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return string(h)
}

func basic(name, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(name+":"+password))
}

func TestBasicAuth(t *testing.T) {
	files := map[string][]byte{"users": []byte("# staff\n\nbob:" + hashed(t, "b:ob") + "\n")}
	users := make(chan string, 1)
	backend := origin(t, func(w http.ResponseWriter, r *http.Request) { users <- strings.Join(r.Header["X-User"], "|") })
	p := l7test.StartWithFiles(t, All, files, through(
		fmt.Sprintf("basic_auth: { realm: shop, users: { alice: %q }, file: users, header: x-user }", hashed(t, "secret")), backend))
	for range 2 { // verified, then remembered
		for _, c := range []struct{ name, authorization, user string }{
			{"right", basic("alice", "secret"), "alice"},
			{"right, of the file, with a colon", basic("bob", "b:ob"), "bob"},
			{"the scheme in any case", strings.Replace(basic("alice", "secret"), "Basic", "bASIC", 1), "alice"},
			{"wrong password", basic("alice", "sesame"), ""},
			{"another's password", basic("bob", "secret"), ""},
			{"unknown name", basic("carol", "secret"), ""},
			{"empty", basic("", ""), ""},
			{"no colon", "Basic " + base64.StdEncoding.EncodeToString([]byte("alice")), ""},
			{"not base64", "Basic ***", ""},
			{"too long", basic("alice", strings.Repeat("x", 2000)), ""},
			{"another scheme", "Bearer abc", ""},
			{"nothing", "", ""},
		} {
			res := get(t, p.URL, "Authorization", c.authorization, "X-User", "root")
			if c.user != "" {
				if got := <-users; res.StatusCode != 200 || got != c.user {
					t.Errorf("%s: got %d, the backend knows %q", c.name, res.StatusCode, got)
				}
				continue
			}
			if res.StatusCode != 401 || res.Header.Get("WWW-Authenticate") != `Basic realm="shop", charset="UTF-8"` {
				t.Errorf("%s: got %d, %q", c.name, res.StatusCode, res.Header.Get("WWW-Authenticate"))
			}
		}
	}
	if len(users) > 0 {
		t.Error("a request that was refused reached the backend")
	}
}

func TestBasicAuthRemembersVerdicts(t *testing.T) {
	g := newGuard("x")
	if err := g.add("alice", hashed(t, "secret")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		password string
		ok       bool
	}{{"secret", true}, {"sesame", false}} {
		for again := range 3 {
			s := &l7.Session{Request: &l7.Request{Header: l7.Header{{Name: "Authorization", Value: basic("alice", c.password)}}}}
			if known := g.known(s); known != (again > 0) {
				t.Errorf("%s, time %d: known %v", c.password, again, known)
			}
			if _, err := g.request(s); (err == nil) != c.ok {
				t.Errorf("%s: got %v", c.password, err)
			}
		}
	}
}

func TestVerdictsAreBounded(t *testing.T) {
	var v verdicts
	for i := range maxVerdicts + 100 {
		digest := [32]byte{byte(i), byte(i >> 8)}
		if v.note(&digest); !v.has(&digest) {
			t.Fatalf("the newest of %d is not there", i+1)
		}
	}
	if len(v.seen) != maxVerdicts {
		t.Errorf("%d are kept", len(v.seen))
	}
}

// Many at once with a new password make one bcrypt, or a few; those beyond the
// queue are told to come again.
func TestBasicAuthUnderAttack(t *testing.T) {
	g := newGuard("x")
	if err := g.add("alice", hashed(t, "secret")); err != nil {
		t.Fatal(err)
	}
	for range cap(hashing) { // all cores are at it
		hashing <- struct{}{}
	}
	var all sync.WaitGroup
	refused := make(chan error, 3*maxWaiting)
	for i := range 3 * maxWaiting {
		all.Go(func() {
			s := &l7.Session{Request: &l7.Request{Header: l7.Header{{Name: "Authorization", Value: basic("alice", fmt.Sprint(i))}}}}
			g.known(s)
			_, err := g.request(s)
			refused <- err
		})
	}
	for range 2 * maxWaiting {
		if e := (<-refused).(*l7.Error); e.Status != 503 || e.Reason != lb.Overload {
			t.Errorf("got %v", e)
		}
	}
	for range cap(hashing) {
		<-hashing
	}
	all.Wait()
	for range maxWaiting {
		if e := (<-refused).(*l7.Error); e.Status != 401 {
			t.Errorf("got %v", e)
		}
	}
	if n := g.waiting.Load(); n != 0 {
		t.Errorf("%d still wait", n)
	}
}

func TestBasicAuthRefuses(t *testing.T) {
	hash := hashed(t, "x")
	refuses(t, basicAuth, []refusal{
		{`{ realm: x }`, `wants users, or a file of them`},
		{`{ users: { alice: secret } }`, `user "alice": its hash is not of bcrypt`},
		{fmt.Sprintf(`{ users: { "a:b": %q } }`, hash), `a name has no colon`},
		{fmt.Sprintf(`{ users: { a: %q }, realm: 'a"b' }`, hash), `has a quote`},
		{fmt.Sprintf(`{ users: { a: %q }, header: "x y" }`, hash), `not a field name`},
		{`{ users: { alice: "$2y$20$1234567890123456789012uvwxyzuvwxyzuvwxyzuvwxyzuvwxyzuv" } }`, `has cost 20; at most 14`},
	})
	for _, c := range []struct{ content, want string }{
		{"", "users names no user"},
		{"alice", "users:1: not name:hash"},
		{"# x\nalice:secret", `users:2: user "alice": its hash is not of bcrypt`},
		{"a:" + hash + "\na:" + hash, `users:2: user "a": it stands twice`},
	} {
		n := node(t, "{ file: users }")
		if _, err := basicAuth(n); err != nil {
			t.Errorf("checked without the file: %v", err)
		}
		if _, err := basicAuth(n.WithFiles(map[string][]byte{"users": []byte(c.content)})); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: got %v, want %q", c.content, err, c.want)
		}
	}
	if _, err := basicAuth(node(t, "{ file: users }").WithFiles(nil)); err == nil {
		t.Error("built without its file")
	}
}

func BenchmarkBasicAuthRemembered(b *testing.B) {
	f := built(b, basicAuth, fmt.Sprintf(`{ users: { alice: %q } }`, hashed(b, "secret")))
	s := &l7.Session{Request: &l7.Request{Header: l7.Header{{Name: "Authorization", Value: basic("alice", "secret")}}}}
	f.Inline(s)
	f.Request(s)
	b.ReportAllocs()
	for b.Loop() {
		if !f.Inline(s) {
			b.Fatal("forgotten")
		}
		f.Request(s)
	}
}
