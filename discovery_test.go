package lb

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFoundBackendsStandBesideTheListedOnes(t *testing.T) {
	c, err := Parse([]byte(`
pools:
  app: { discover: { dns: "app.internal:80" }, backends: [{ address: "10.0.0.1:80", weight: 7 }] }
  plain: { backends: ["10.0.0.9:80"] }
  none: { discover: { file: /f } }
`), Options{Host: testHost})
	if err != nil {
		t.Fatal(err)
	}
	text := EncodeFound(map[string][]Backend{
		"app":   {{Address: "10.0.0.1:80", Weight: 1}, {Address: "10.0.0.2:80", Weight: 1, Backup: true}, {Address: "10.0.0.2:80", Weight: 2}},
		"plain": {{Address: "10.0.0.3:80", Weight: 1}},
		"gone":  {{Address: "10.0.0.4:80", Weight: 1}},
	})
	found, err := DecodeFound(text)
	if err != nil {
		t.Fatal(err)
	}
	with := c.WithFound(found)
	want := []*Backend{{Address: "10.0.0.1:80", Weight: 7}, {Address: "10.0.0.2:80", Weight: 1, Backup: true, Found: true}}
	if d := cmp.Diff(want, with.Pool("app").Backends); d != "" {
		t.Errorf("pool app (-want +got):\n%s", d)
	}
	if n := len(with.Pool("plain").Backends); n != 1 {
		t.Errorf("a pool that discovers nothing has %d backends, want its 1", n)
	}
	if n := len(c.Pool("app").Backends); n != 1 {
		t.Errorf("the configuration itself has %d backends now, want 1 as before", n)
	}
	if changes := Diff(c, with); len(changes) != 1 || changes[0].Backend == nil {
		t.Errorf("the difference is %v, want one backend added", changes)
	}
	if c.WithFound(nil) != c {
		t.Error("nothing found makes another configuration")
	}
}

func TestTheNameAskedForVerifiesWhatItFinds(t *testing.T) {
	c, err := Parse([]byte(`pools: { app: { tls: {}, discover: { dns: "app.internal:443" } } }`), Options{Host: testHost})
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Pool("app").TLS.ServerName; got != "app.internal" {
		t.Errorf("server name %q, want app.internal", got)
	}
}

func TestAFileOfBackendsReadsAsAPoolDoes(t *testing.T) {
	got, err := ParseBackends("f.yaml", []byte("# two\n- \"10.0.0.1:80\"\n- { address: \"[::ffff:10.0.0.2]:80\", weight: 3, backup: true }\n"))
	want := []Backend{{Address: "10.0.0.1:80", Weight: 1}, {Address: "10.0.0.2:80", Weight: 3, Backup: true}}
	if err != nil || cmp.Diff(want, got) != "" {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
	if got, err := ParseBackends("f.yaml", []byte(`["10.0.0.1:80"]`)); err != nil || len(got) != 1 {
		t.Errorf("JSON: %v, %v", got, err)
	}
	if got, err := ParseBackends("f.yaml", []byte("[]\n")); err != nil || len(got) != 0 {
		t.Errorf("no backends: %v, %v", got, err)
	}
	for _, c := range []struct{ name, text, want string }{
		{"an empty file", "# nothing\n", "f.yaml: LB1009 the file lists nothing\n     | write [] for no backends"},
		{"a mapping", "a: b\n", "f.yaml:1:1: LB1007 the file is a mapping; it wants a list\n   1 | a: b\n     | ^"},
		{"a name", "- app.internal:80\n", "f.yaml:1:3: LB1015 backend \"app.internal:80\" is not an address with a port\n   1 | - app.internal:80\n     |   ^^^^^^^^^^^^^^^ a pool finds them by name: discover: { dns: \"app.internal:80\" }"},
		{"twice", "[\"10.0.0.1:80\", \"10.0.0.1:80\"]\n", "f.yaml:1:17: LB1303 backend 10.0.0.1:80 stands twice\n   1 | [\"10.0.0.1:80\", \"10.0.0.1:80\"]\n     |                 ^^^^^^^^^^^^^ raise its weight instead"},
	} {
		if _, err := ParseBackends("f.yaml", []byte(c.text)); err == nil || err.Error() != c.want {
			t.Errorf("%s:\n%v\nwant\n%s", c.name, err, c.want)
		}
	}
}

func TestASourceHasOneName(t *testing.T) {
	for want, text := range map[string]string{
		"dns app.internal:80":                          `{ dns: "app.internal:80" }`,
		"srv _http._tcp.x at 10.0.0.53:53,[fd00::1]:5": `{ srv: _http._tcp.x, servers: ["10.0.0.53:53", "[fd00::1]:5"] }`,
		"file /etc/lbd/app.yaml":                       `{ file: /etc/lbd/app.yaml }`,
	} {
		c, err := Parse([]byte("pools: { app: { discover: "+text+" } }"), Options{Host: testHost})
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Pool("app").Discover.String(); got != want {
			t.Errorf("%s is called %q, want %q", text, got, want)
		}
	}
}
