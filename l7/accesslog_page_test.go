package l7

import (
	"encoding/json"
	"errors"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cirque-lb/lb"
)

// The page on the access log has each field that a line may have, and no other.
func TestTheLogsPageNamesEveryField(t *testing.T) {
	full := typicalOutcome()
	full.reason, full.connect, full.err = lb.UpstreamReset, time.Millisecond, errors.New("reset")
	var fields map[string]any
	if err := json.Unmarshal(new(logBuffer).appendLine(nil, full), &fields); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../docs/reference/log.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for line := range strings.Lines(string(page)) {
		if cells := strings.Split(line, "|"); len(cells) > 2 {
			for _, m := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(cells[1], -1) {
				documented = append(documented, m[1])
			}
		}
	}
	for name := range fields {
		if !slices.Contains(documented, name) {
			t.Errorf("%s is not on the page", name)
		}
	}
	for _, name := range documented {
		if _, ok := fields[name]; !ok {
			t.Errorf("no line has %s", name)
		}
	}
}
