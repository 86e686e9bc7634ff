package cluster

import (
	"fmt"
	"strings"
	"testing"
)

func TestParseKeys(t *testing.T) {
	one, two := NewKey().String(), NewKey().String()
	for _, test := range []struct{ name, file, err string }{
		{"one key", one + "\n", ""},
		{"without a line end", one, ""},
		{"two while rotating, a comment, blanks", "# new\n" + one + "\r\n\n  " + two + "\n", ""},
		{"nothing", "# nothing\n", "no key in it"},
		{"too short", one[2:], "line 1: a key is 64"},
		{"too long", one + "ab", "line 1: a key is 64"},
		{"not hexadecimal", "\n" + strings.Repeat("xy", 32), "line 2: a key is 64"},
		{"three", one + "\n" + two + "\n" + one, "line 3: a third key"},
	} {
		keys, err := ParseKeys([]byte(test.file))
		if test.err == "" {
			if err != nil || keys[0].String() != one {
				t.Errorf("%s: got %v, %v", test.name, keys, err)
			}
		} else if err == nil || !strings.Contains(err.Error(), test.err) {
			t.Errorf("%s: got %v, want %q", test.name, err, test.err)
		}
		if err != nil && strings.Contains(err.Error(), one[2:12]) {
			t.Errorf("%s: the error shows the key", test.name)
		}
	}
}

func TestWhatIsDerivedFromAKeyNeverChanges(t *testing.T) {
	c := &Cluster{options: Options{Name: "edge", Keys: []Key{{1}, {2}}}}
	if got := c.Tags(); len(got) != 2 || got[0] == got[1] {
		t.Errorf("tags: %x", got)
	}
	// A changed derivation would cut every cluster in two during an upgrade.
	if got, want := fmt.Sprintf("%x %x", c.options.seed(), c.Tags()), "9e5f041f137b99c212597736ff6662f0 [47f4cde7 cc547bbf]"; got != want {
		t.Errorf("seed and tags: got %s, want %s", got, want)
	}
	alone := &Cluster{options: Options{Name: "edge"}}
	if alone.Tags() != nil || alone.options.seed() == c.options.seed() {
		t.Errorf("without a key: tags %x, seed %x", alone.Tags(), alone.options.seed())
	}
}
