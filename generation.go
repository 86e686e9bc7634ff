package lb

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// Generation names one edit of the configuration: a counter and the node that
// made it. Its text form is "42@edge-1".
type Generation struct {
	Counter uint64
	Node    string
}

func (g Generation) String() string { return strconv.FormatUint(g.Counter, 10) + "@" + g.Node }

// IsZero reports whether g names nothing.
func (g Generation) IsZero() bool { return g == Generation{} }

// Compare orders generations: the last writer wins, ties go by name.
func (g Generation) Compare(o Generation) int {
	return cmp.Or(cmp.Compare(g.Counter, o.Counter), cmp.Compare(g.Node, o.Node))
}

// MarshalText writes "42@edge-1".
func (g Generation) MarshalText() ([]byte, error) { return []byte(g.String()), nil }

// UnmarshalText reads "42@edge-1".
func (g *Generation) UnmarshalText(b []byte) error {
	counter, node, ok := strings.Cut(string(b), "@")
	n, err := strconv.ParseUint(counter, 10, 64)
	if !ok || node == "" || err != nil {
		return fmt.Errorf("%q is not a generation such as 42@edge-1", b)
	}
	*g = Generation{n, node}
	return nil
}
