package lb

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const editDoc = `# our edge
pools:
  flow: # short
    backends: ["10.0.0.1:80", { address: "10.0.0.2:80", weight: 3 }] # two
  long:
    backends: [
      "10.0.0.1:80", # first
      "10.0.0.2:80",
    ]
  block:
    check: { http: / }
    backends:
      # the old rack
      - "10.0.0.1:80" # leaves soon
      - address: 10.0.0.2:80
        weight: 3
      - { address: "10.0.0.3:80", backup: true }

    balance: random # after
  flat:
    backends:
    - é.sock
    - unix:/run/ö.sock
  one:
    backends:
      - "[::1]:80" # only
  none: { backends: [] }
  commented:
    backends:
      - address: 10.0.0.1:80
        # why so heavy
        weight: 3
  alias: { backends: &b ["10.0.0.1:80"] }
  aliased: { backends: *b }
  empty:
    backends:
`

func TestEditsTouchTheirBackendOnly(t *testing.T) {
	b := func(address string) Backend { return Backend{Address: address, Weight: 1} }
	heavy := Backend{Address: "10.0.0.2:80", Weight: 7, Backup: true}
	add := func(pool string, b Backend) func([]byte) ([]byte, error) {
		return func(d []byte) ([]byte, error) { return AddBackend(d, pool, b) }
	}
	set := func(pool string, b Backend) func([]byte) ([]byte, error) {
		return func(d []byte) ([]byte, error) { return SetBackend(d, pool, b) }
	}
	remove := func(pool, address string) func([]byte) ([]byte, error) {
		return func(d []byte) ([]byte, error) { return RemoveBackend(d, pool, address) }
	}
	for _, c := range []struct {
		name     string
		edit     func([]byte) ([]byte, error)
		old, new string // the lines that change
		err      error
	}{
		{"add to a flow list", add("flow", b("10.0.0.9:80")), `weight: 3 }] # two`, `weight: 3 }, "10.0.0.9:80"] # two`, nil},
		{"add to a long flow list", add("long", heavyAt("10.0.0.9:80")), `"10.0.0.2:80",` + "\n    ]", `"10.0.0.2:80", { address: "10.0.0.9:80", weight: 7, backup: true },` + "\n    ]", nil},
		{"add to a block list", add("block", b("10.0.0.9:80")), "backup: true }\n", "backup: true }\n      - \"10.0.0.9:80\"\n", nil},
		{"add to a flat list", add("flat", b("10.0.0.9:80")), "unix:/run/ö.sock\n", "unix:/run/ö.sock\n    - \"10.0.0.9:80\"\n", nil},
		{"add to an empty list", add("none", b("10.0.0.9:80")), "none: { backends: [] }", `none: { backends: ["10.0.0.9:80"] }`, nil},
		{"set in a flow list", set("flow", heavy), `{ address: "10.0.0.2:80", weight: 3 }]`, `{ address: "10.0.0.2:80", weight: 7, backup: true }]`, nil},
		{"set keeps the comment beside", set("block", b("10.0.0.1:80")), `- "10.0.0.1:80" # leaves`, `- "10.0.0.1:80" # leaves`, nil},
		{"set a mapping of several lines", set("block", heavy), "- address: 10.0.0.2:80\n        weight: 3\n", "- { address: \"10.0.0.2:80\", weight: 7, backup: true }\n", nil},
		{"set to weight 0", set("one", Backend{Address: "[0::1]:80"}), `- "[::1]:80" # only`, `- { address: "[::1]:80", weight: 0 } # only`, nil},
		{"remove the first of a flow list", remove("flow", "10.0.0.1:80"), `["10.0.0.1:80", {`, `[{`, nil},
		{"remove the last of a flow list", remove("flow", "10.0.0.2:80"), `", { address: "10.0.0.2:80", weight: 3 }]`, `"]`, nil},
		{"remove from a block list", remove("block", "10.0.0.2:80"), "      - address: 10.0.0.2:80\n        weight: 3\n", "", nil},
		{"remove the first of a block list", remove("block", "10.0.0.1:80"), "      - \"10.0.0.1:80\" # leaves soon\n", "", nil},
		{"remove the only one", remove("one", "[::1]:80"), "      - \"[::1]:80\" # only\n", "      []\n", nil},

		{"add twice", add("flow", b("10.0.0.1:80")), "", "", ErrBackendExists},
		{"add to no pool", add("flo", b("10.0.0.1:80")), "", "", ErrNoPool},
		{"set what is not there", set("flow", b("10.0.0.8:80")), "", "", ErrNoBackend},
		{"remove what is not there", remove("flow", "10.0.0.8:80"), "", "", ErrNoBackend},
		{"a comment inside", set("commented", b("10.0.0.1:80")), "", "", ErrByHand},
		{"a comment between", remove("long", "10.0.0.1:80"), "", "", ErrByHand},
		{"a list that another pool shares", add("alias", b("10.0.0.9:80")), "", "", ErrByHand},
		{"an alias", add("aliased", b("10.0.0.9:80")), "", "", ErrByHand},
		{"no list", add("empty", b("10.0.0.9:80")), "", "", ErrByHand},
	} {
		for _, ending := range []string{"\n", "\r\n"} {
			t.Run(c.name, func(t *testing.T) {
				doc := strings.ReplaceAll(editDoc, "\n", ending)
				old, new := strings.ReplaceAll(c.old, "\n", ending), strings.ReplaceAll(c.new, "\n", ending)
				got, err := c.edit([]byte(doc))
				if !errors.Is(err, c.err) {
					t.Fatalf("error: got %v, want %v", err, c.err)
				}
				if c.err != nil {
					return
				}
				if strings.Count(doc, old) != 1 {
					t.Fatalf("the case is not unique: %d times %q", strings.Count(doc, old), old)
				}
				if diff := cmp.Diff(strings.Replace(doc, old, new, 1), string(got)); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			})
		}
	}
}

func heavyAt(address string) Backend { return Backend{Address: address, Weight: 7, Backup: true} }

func TestEditsUndoEachOther(t *testing.T) {
	doc := []byte(editDoc)
	for _, pool := range []string{"flow", "block", "flat"} {
		added, err := AddBackend(doc, pool, heavyAt("10.9.9.9:80"))
		if err != nil {
			t.Fatal(err)
		}
		removed, err := RemoveBackend(added, pool, "10.9.9.9:80")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(editDoc, string(removed)); diff != "" {
			t.Errorf("pool %s (-want +got):\n%s", pool, diff)
		}
	}
}

func TestObjectsAndSettingsShareTheDocument(t *testing.T) {
	doc := `# top
node: { name: a } # me

# where clients come in
listeners:
  web: { bind: ":80" } # plain
log:
  level: debug
# what they get
# in order
routes:
  - pool: app
pools: { app: { backends: [] } }
`
	wantObjects := `# where clients come in
listeners:
  web: { bind: ":80" } # plain
# what they get
# in order
routes:
  - pool: app
pools: { app: { backends: [] } }
`
	wantSettings := `# top
node: { name: a } # me

log:
  level: debug
`
	if diff := cmp.Diff(wantObjects, string(Objects([]byte(doc)))); diff != "" {
		t.Errorf("objects (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(wantSettings, string(Settings([]byte(doc)))); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
	flow := `{ node: { name: a }, pools: { app: { backends: ["127.0.0.1:80"] } } }`
	c, err := ParseWith([]byte(flow), Objects([]byte(flow)), Options{})
	if err != nil || c.Node.Name != "a" || c.Pool("app").Backends[0].Address != "127.0.0.1:80" {
		t.Errorf("a document in braces: got %+v, %v", c, err)
	}
}

func TestAdoptedObjectsReplaceThoseOfTheFile(t *testing.T) {
	file := "node: { name: a }\npools: { old: { backends: [] } }\n"
	c, err := ParseWith([]byte(file), []byte("pools: { new: { backends: [] } }"), Options{File: "lbd.yaml", Objects: "objects.yaml"})
	if err != nil {
		t.Fatal(err)
	}
	if c.Node.Name != "a" || c.Pool("old") != nil || c.Pool("new") == nil {
		t.Errorf("got %+v", c)
	}
}
