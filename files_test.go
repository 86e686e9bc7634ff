package lb

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cirque-lb/lb/l7/certtest"
)

// newPair is a self-signed certificate and its key, in PEM.
func newPair(name string) (cert, key []byte) {
	p := certtest.SelfSigned(time.Hour, name)
	return p.Cert, p.Key
}

const filesDocument = `listeners:
  web:
    bind: ":443"
    protocol: https
    tls:
      certificates: [{ cert: a.pem, key: a.key }, { cert: b.pem, key: b.key }, { cert: b.pem, key: b.key }]
      client_ca: ca.pem
routes: [{ pool: app, filters: [{ users: { file: users } }] }]
pools:
  app:
    tls: { ca: ca.pem, cert: a.pem, key: a.key }
    backends: ["127.0.0.1:1"]
  public:
    tls: { server_name: x }
    backends: ["127.0.0.1:2"]
  blind: { tls: { insecure: true }, backends: [] }
`

// users is a filter whose file must begin with "user".
func users(n Node) error {
	var c struct {
		File File `yaml:"file"`
	}
	if err := n.Decode(&c); err != nil || !c.File.Read {
		return err
	}
	if !strings.HasPrefix(string(c.File.Content), "user") {
		return n.Key("file").Errorf("%s names no users", c.File.Name)
	}
	return nil
}

// disk is files that can be read.
type disk map[string][]byte

func (d disk) read(name string) ([]byte, error) {
	if text, ok := d[name]; ok {
		return text, nil
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: errors.New("no such file or directory")}
}

func goodDisk(t *testing.T) disk {
	d := disk{"users": []byte("user:" + rand.Text())}
	d["a.pem"], d["a.key"] = newPair("a")
	d["b.pem"], d["b.key"] = newPair("b")
	d["ca.pem"], _ = newPair("ca")
	d[SystemCAs], _ = newPair("root")
	return d
}

func parseFiles(t *testing.T) (*Config, map[string]func(Node) error) {
	filters := map[string]func(Node) error{"users": users}
	c, err := Parse([]byte(filesDocument), Options{File: "lbd.yaml", Host: testHost, Filters: filters})
	if err != nil {
		t.Fatal(err)
	}
	return c, filters
}

func TestEveryFileIsReadAndHeldAgainstTheDocument(t *testing.T) {
	c, filters := parseFiles(t)
	d := goodDisk(t)
	got, err := c.ReadFiles(FileOptions{Read: d.read, Filters: filters})
	if err != nil || !maps.EqualFunc(got, d, slices.Equal) {
		t.Errorf("got %v, %v", slices.Sorted(maps.Keys(got)), err)
	}
	for _, test := range []struct {
		name   string
		change func(disk)
		want   string
	}{
		{"nothing is there", func(d disk) { clear(d) }, `
			6:30 LB1501 cannot read a.pem: no such file or directory
			6:42 LB1501 cannot read a.key: no such file or directory
			6:59 LB1501 cannot read b.pem: no such file or directory
			6:71 LB1501 cannot read b.key: no such file or directory
			6:88 LB1501 cannot read b.pem: no such file or directory
			6:100 LB1501 cannot read b.key: no such file or directory
			7:18 LB1501 cannot read ca.pem: no such file or directory
			8:50 LB1501 cannot read users: no such file or directory
			11:16 LB1501 cannot read ca.pem: no such file or directory
			11:30 LB1501 cannot read a.pem: no such file or directory
			11:42 LB1501 cannot read a.key: no such file or directory
			14:10 LB1501 cannot read the system's CAs: no such file or directory`},
		{"another's key", func(d disk) { d["b.key"] = d["a.key"] }, `
			6:71 LB1503 b.key is not the key of the certificate beside it
			6:100 LB1503 b.key is not the key of the certificate beside it`},
		{"no PEM", func(d disk) { d["ca.pem"], d["b.key"] = []byte("hello"), nil }, `
			6:71 LB1502 b.key holds no whole private key: there is no PEM in it
			6:100 LB1502 b.key holds no whole private key: there is no PEM in it
			7:18 LB1502 ca.pem holds no certificate: there is no PEM in it
			11:16 LB1502 ca.pem holds no certificate: there is no PEM in it`},
		{"half-written", func(d disk) {
			d["b.pem"] = d["b.pem"][:len(d["b.pem"])/2]
			d["ca.pem"] = append(slices.Clone(d["ca.pem"]), d["ca.pem"][:100]...)
		}, `
			6:59 LB1502 b.pem holds no whole certificate: a PEM block in it is not whole
			6:88 LB1502 b.pem holds no whole certificate: a PEM block in it is not whole
			7:18 LB1502 ca.pem holds no certificate: its last PEM block is not whole
			11:16 LB1502 ca.pem holds no certificate: its last PEM block is not whole`},
		{"a key for a CA", func(d disk) { d["ca.pem"] = d["a.key"] }, `
			7:18 LB1502 ca.pem holds no certificate
			11:16 LB1502 ca.pem holds no certificate`},
		{"certificate and key exchanged", func(d disk) { d["b.pem"], d["b.key"] = d["b.key"], d["b.pem"] }, `
			6:59 LB1502 b.pem holds no certificate: failed to find certificate PEM data in certificate input, but did find a private key; PEM inputs may have been switched
			6:88 LB1502 b.pem holds no certificate: failed to find certificate PEM data in certificate input, but did find a private key; PEM inputs may have been switched`},
		{"a filter's file", func(d disk) { d["users"] = []byte("nobody") }, `
			8:50 LB1105 users names no users`},
		{"too much", func(d disk) { d["users"] = make([]byte, maxFiles) }, `
			8:50 LB1501 cannot read users: the files of this configuration have more than 67108864 bytes together
			14:10 LB1501 cannot read the system's CAs: the files of this configuration have more than 67108864 bytes together`},
	} {
		t.Run(test.name, func(t *testing.T) {
			bad := maps.Clone(d)
			test.change(bad)
			_, err := c.ReadFiles(FileOptions{Read: bad.read, Filters: filters})
			var all Errors
			errors.As(err, &all)
			var got strings.Builder
			for _, e := range all {
				fmt.Fprintf(&got, "\n\t\t\t%d:%d %s %s", e.Line, e.Column, e.Code, e.Message)
				if e.File != "lbd.yaml" || e.Excerpt == "" {
					t.Errorf("%v has no place", e)
				}
			}
			if diff := cmp.Diff(test.want, got.String()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestWhatIsWrongStaysAsItWas(t *testing.T) {
	c, filters := parseFiles(t)
	old, renewed := goodDisk(t), goodDisk(t)
	for _, test := range []struct {
		name   string
		change func(disk)
		stay   []string // all others are renewed
	}{
		{"all is well", func(disk) {}, nil},
		{"a key is missing", func(d disk) { delete(d, "a.key") }, []string{"a.key", "a.pem"}},
		{"a key is not renewed yet", func(d disk) { d["b.key"] = old["b.key"] }, []string{"b.key", "b.pem"}},
		{"a CA is half-written", func(d disk) { d["ca.pem"] = d["ca.pem"][:50] }, []string{"ca.pem"}},
		{"all is gone", func(d disk) { clear(d) }, slices.Sorted(maps.Keys(old))},
	} {
		t.Run(test.name, func(t *testing.T) {
			now := maps.Clone(renewed)
			test.change(now)
			got, err := c.ReadFiles(FileOptions{Read: now.read, Known: old, Filters: filters})
			if (err != nil) != (len(test.stay) > 0) {
				t.Errorf("error %v", err)
			}
			var stay []string
			for _, name := range slices.Sorted(maps.Keys(got)) {
				if slices.Equal(got[name], old[name]) {
					stay = append(stay, name)
				} else if !slices.Equal(got[name], renewed[name]) {
					t.Errorf("%s is neither old nor new", name)
				}
			}
			if diff := cmp.Diff(test.stay, stay); diff != "" || len(got) != len(old) {
				t.Errorf("stay as they were (-want +got), of %d files:\n%s", len(got), diff)
			}
			if !c.HasFiles(got) {
				t.Error("contents are missing")
			}
		})
	}
}

// Two certificates of one key: when one of them is half-written the key stays
// old, so the other must, too.
func TestFilesThatAreSharedStayTogether(t *testing.T) {
	c, err := Parse([]byte(`listeners: { web: { bind: ":443", protocol: https,
  tls: { certificates: [{ cert: a.pem, key: key }, { cert: b.pem, key: key }, { cert: b.pem, key: other }] } } }
`), Options{Host: testHost})
	if err != nil {
		t.Fatal(err)
	}
	cert := func() disk {
		d := disk{}
		d["a.pem"], d["key"] = newPair("a")
		d["b.pem"], d["other"] = d["a.pem"], d["key"]
		return d
	}
	old, now := cert(), cert()
	now["a.pem"] = now["a.pem"][:100]
	got, err := c.ReadFiles(FileOptions{Read: now.read, Known: old})
	if err == nil || !maps.EqualFunc(got, old, slices.Equal) {
		t.Errorf("something is new: %v", err)
	}
	got, err = c.ReadFiles(FileOptions{Read: now.read})
	if err == nil || c.HasFiles(got) || len(err.(Errors)) != 1 {
		t.Errorf("without known contents: %v", err)
	}
}

func TestUnchangedFilesAreNotJudgedAgain(t *testing.T) {
	c, _ := parseFiles(t)
	old := goodDisk(t)
	old["b.key"] = old["a.key"] // would be refused
	if _, err := c.ReadFiles(FileOptions{Read: old.read, Known: old}); err != nil {
		t.Error(err)
	}
}
