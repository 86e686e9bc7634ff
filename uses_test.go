package lb

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// usingFilters are filters that refer to files and pools.
func usingFilters(got *[]File) map[string]func(Node) error {
	return map[string]func(Node) error{"uses": func(n Node) error {
		var c struct {
			File File    `yaml:"file"`
			More []File  `yaml:"more"`
			Pool PoolRef `yaml:"pool"`
		}
		err := n.Decode(&c)
		*got = append([]File{c.File}, c.More...)
		return err
	}}
}

const usingDocument = `listeners: { web: { bind: ":80" } }
routes:
  - filters: [ { uses: { file: b, more: [a, b], pool: app } } ]
    pool: app
pools: { app: { backends: [] } }
`

func TestFilesOfFiltersAreTheConfigurations(t *testing.T) {
	var got []File
	c, err := Parse([]byte(usingDocument), Options{Host: testHost, Filters: usingFilters(&got)})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a", "b"}, c.Files()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]File{{Name: "b"}, {Name: "a"}, {Name: "b"}}, got); diff != "" {
		t.Errorf("checked: %s", diff)
	}
	build := usingFilters(&got)["uses"]
	if err := build(c.Routes[0].Filters[0].Node.WithFiles(map[string][]byte{"a": []byte("1"), "b": nil})); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]File{{Name: "b", Read: true}, {Name: "a", Content: []byte("1"), Read: true}, {Name: "b", Read: true}}, got); diff != "" {
		t.Errorf("built: %s", diff)
	}
	if err := build(c.Routes[0].Filters[0].Node.WithFiles(nil)); err == nil || !strings.Contains(err.Error(), `file "a" was not read`) {
		t.Errorf("got %v", err)
	}
}

func TestAFilterUsesPoolsThatExist(t *testing.T) {
	var got []File
	_, err := Parse([]byte(strings.Replace(usingDocument, "pool: app }", "pool: ap }", 1)), Options{Host: testHost, Filters: usingFilters(&got)})
	if err == nil || !strings.Contains(err.Error(), `3:55: LB1103 filter uses uses pool "ap", which does not exist`) || !strings.Contains(err.Error(), `did you mean "app"?`) {
		t.Errorf("got %v", err)
	}
}
