package admin

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/cirque-lb/lb/cmd/internal/manual"
)

const moduleRoot = "../../.."

var (
	metricName  = regexp.MustCompile(`"(lbd_[a-z0-9_]*[a-z0-9])"(.*)`)
	metricLabel = regexp.MustCompile(`"([a-z]+)", `)
)

// metricLabels finds every metric that the product's code names, with its labels.
func metricLabels(t *testing.T) map[string][]string {
	t.Helper()
	found := map[string][]string{
		// Made of parts in node/samples.go.
		"lbd_steered_binds": nil, "lbd_steered_vips": nil,
		// Their labels stand in a variable.
		"lbd_requests_total": {"listener", "pool", "code_class"}, "lbd_request_body_bytes_total": {"listener", "pool"}, "lbd_response_body_bytes_total": {"listener", "pool"},
		"lbd_filter_calls_total": {"filter", "phase"}, "lbd_filter_seconds_total": {"filter", "phase"},
		"lbd_service_packets_total": {"service", "backend"}, "lbd_service_bytes_total": {"service", "backend"},
		"lbd_service_connections_total": {"service", "backend"}, "lbd_service_share": {"service", "backend"},
	}
	err := filepath.WalkDir(moduleRoot, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (slices.Contains([]string{"bench", "testdata", "dist", ".git", "packaging", "docs", "vagrant"}, d.Name()) || strings.HasPrefix(d.Name(), ".") && len(d.Name()) > 2) {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.HasSuffix(path, "admin/metrics.go") || strings.HasSuffix(path, "app/traffic.go") || strings.HasSuffix(path, "app/status.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		lines := strings.Split(string(text), "\n")
		for i, line := range lines {
			for _, m := range metricName.FindAllStringSubmatch(line, -1) {
				rest := m[2]
				if i+1 < len(lines) && strings.HasPrefix(strings.TrimSpace(lines[i+1]), "Labels:") {
					rest += lines[i+1]
				}
				for _, l := range metricLabel.FindAllStringSubmatch(rest, -1) {
					if !slices.Contains(found[m[1]], l[1]) {
						found[m[1]] = append(found[m[1]], l[1])
					}
				}
				found[m[1]] = append(found[m[1]], []string{}...)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for name := range helps {
		if _, ok := found[name]; !ok {
			found[name] = nil
		}
	}
	return found
}

func kindOf(name string) string {
	switch {
	case slices.Contains([]string{"lbd_request_duration_seconds", "lbd_upstream_first_byte_seconds"}, name):
		return "histogram"
	case strings.HasSuffix(name, "_total"):
		return "counter"
	}
	return "gauge"
}

func TestThePageOfMetricsListsEachOfTheCode(t *testing.T) {
	found := metricLabels(t)
	if len(found) < 60 {
		t.Fatalf("found %d metrics only", len(found))
	}
	var page strings.Builder
	page.WriteString(`# Metrics

<!-- Made from the code: UPDATE=1 go test ./cmd/internal/admin -run Metrics -->

` + "`http://127.0.0.1:9900/metrics` (`admin.http`) has them in Prometheus' format, beside those of the Go runtime\n" +
		"and the process. A Grafana dashboard and alert rules are in [packaging/monitoring](../../packaging/monitoring);\n" +
		"the package installs them under `/usr/share/lbd`.\n\n| metric | kind | labels | |\n|---|---|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(found)) {
		if helps[name] == "" {
			t.Errorf("nobody says what %s is", name)
		}
		labels := "`" + strings.Join(found[name], "`, `") + "`"
		if len(found[name]) == 0 {
			labels = ""
		}
		fmt.Fprintf(&page, "| `%s` | %s | %s | %s |\n", name, kindOf(name), labels, help(name))
	}
	manual.Check(t, moduleRoot+"/docs/reference/metrics.md", []byte(page.String()))
}
