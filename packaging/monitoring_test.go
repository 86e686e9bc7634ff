package packaging_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var metricName = regexp.MustCompile(`\blbd_[a-z0-9_]+`)

// known are the metrics of the page, which a test keeps in step with the code.
func known(t *testing.T) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	for _, name := range metricName.FindAllString(read(t, "../docs/reference/metrics.md"), -1) {
		all[name] = true
	}
	return all
}

func unknown(text string, all map[string]bool) (names []string) {
	for _, name := range metricName.FindAllString(text, -1) {
		if !all[name] && !all[strings.TrimSuffix(name, "_bucket")] {
			names = append(names, name)
		}
	}
	return names
}

func TestAlertsFireWhenTheyShould(t *testing.T) {
	if names := unknown(read(t, "monitoring/alerts.yml"), known(t)); names != nil {
		t.Errorf("no metrics of lbd: %v", names)
	}
	promtool := program(t, "promtool", "prometheus")
	for _, args := range [][]string{{"check", "rules", "monitoring/alerts.yml"}, {"test", "rules", "monitoring/alerts_test.yml"}} {
		if out, err := exec.Command(promtool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

func TestTheGrafanaDashboardAsksWhatPrometheusUnderstands(t *testing.T) {
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, "monitoring/dashboard.json")), &board); err != nil {
		t.Fatal(err)
	}
	all, rules := known(t), "groups:\n- name: dashboard\n  rules:\n"
	for i, p := range board.Panels {
		if len(p.Targets) == 0 {
			t.Errorf("%s asks nothing", p.Title)
		}
		for j, target := range p.Targets {
			if names := unknown(target.Expr, all); names != nil {
				t.Errorf("%s: no metrics of lbd: %v", p.Title, names)
			}
			expr := strings.NewReplacer("$__rate_interval", "5m", "$instance", ".*").Replace(target.Expr)
			rules += fmt.Sprintf("  - record: panel:%d:%d\n    expr: %q\n", i, j, expr)
		}
	}
	promtool := program(t, "promtool", "prometheus")
	file := filepath.Join(t.TempDir(), "rules.yml")
	if err := os.WriteFile(file, []byte(rules), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(promtool, "check", "rules", file).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
