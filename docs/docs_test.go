// Package docs_test runs what the docs tell people to run.
package docs_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// A block of a page. What a comment before it says is how it is run:
//
//	<!-- with: FILE -->       the node runs this configuration from here on
//	<!-- cluster -->          two more nodes join it
//	<!-- on: HOST -->         not on the node edge-1 but on this host
//	<!-- needs: PROGRAM -->   only where this is installed
//	<!-- stays: TEXT -->      it is left running once it printed this
//	<!-- run by: TEST -->     another test runs it
//	<!-- not run: REASON -->  nobody does, and why
type block struct {
	page     string
	line     int
	language string
	text     string
	with, on string
	needs    string
	stays    string
	runBy    string
	notRun   string
	cluster  bool
}

var directive = regexp.MustCompile(`^<!-- (with|on|needs|stays|cluster|run by|not run)(?:: (.*))? -->$`)

// blocks reads a page.
func blocks(t *testing.T, page string) (all []block) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var next block
	var inside bool
	for i, line := range strings.Split(string(text), "\n") {
		switch {
		case inside && line == "```":
			all, next, inside = append(all, next), block{}, false
		case inside:
			next.text += line + "\n"
		case strings.HasPrefix(line, "```"):
			next.page, next.line, next.language, inside = page, i+1, line[3:], true
		default:
			m := directive.FindStringSubmatch(line)
			if m == nil {
				continue
			}
			switch m[1] {
			case "with":
				next.with = m[2]
			case "needs":
				next.needs = m[2]
			case "on":
				next.on = m[2]
			case "stays":
				next.stays = m[2]
			case "cluster":
				next.cluster = true
			case "run by":
				next.runBy = m[2]
			case "not run":
				next.notRun = m[2]
			}
		}
	}
	return all
}

// commands are what a block has to run: all of a script, what follows the
// prompts of a dialogue.
func (b block) commands() string {
	switch b.language {
	case "sh":
		return b.text
	case "console":
		var s strings.Builder
		for line := range strings.Lines(b.text) {
			if command, ok := strings.CutPrefix(line, "$ "); ok {
				s.WriteString(command)
			}
		}
		return s.String()
	}
	return ""
}

func pages(t *testing.T) []string {
	t.Helper()
	guides, _ := filepath.Glob("*.md")
	all := append(guides, "../README.md", "../examples/README.md")
	if len(all) < 7 {
		t.Fatalf("found %v", all)
	}
	return all
}

// mayNotRun is how many blocks may be marked as not run.
const mayNotRun = 3

func TestEveryCommandIsMarkedOrRuns(t *testing.T) {
	var marked []string
	for _, page := range pages(t) {
		for _, b := range blocks(t, page) {
			if b.notRun != "" {
				marked = append(marked, fmt.Sprintf("%s:%d: %s", b.page, b.line, b.notRun))
			}
			if b.runBy != "" && b.runBy != "TestAVIPIsAnnouncedWhileTheNodeIsReady" {
				t.Errorf("%s:%d: no test %s", b.page, b.line, b.runBy)
			}
			if b.language == "" && strings.Contains(b.text, "\n$ ") {
				t.Errorf("%s:%d: commands in a block that is not called console", b.page, b.line)
			}
		}
	}
	t.Logf("%d blocks are not run here:\n%s", len(marked), strings.Join(marked, "\n"))
	if len(marked) > mayNotRun {
		t.Errorf("%d blocks are not run, at most %d may be", len(marked), mayNotRun)
	}
}

// programs builds what the docs call.
func programs(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	build := exec.Command("go", "build", "-o", dir+"/", "../cmd/lbd", "../cmd/lbctl", "../bench/lab")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir
}

// inWorld runs a script where testdata/world says; it returns what was not well.
func inWorld(t *testing.T, bin, script string) (ok int, failures []string) {
	t.Helper()
	work, err := os.MkdirTemp("", "lbd-docs-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(work)
	repo, _ := filepath.Abs("..")
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, "unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private", "bash", "testdata/world")
	c.Env = append(os.Environ(), "BIN="+bin, "REPO="+repo, "WORK="+work)
	c.Stdin = strings.NewReader(script)
	out, err := c.CombinedOutput()
	if _, why, ok := bytes.Cut(out, []byte("FAIL world: ")); ok {
		t.Skipf("no world here: %s", why)
	}
	if !bytes.HasSuffix(out, []byte("END\n")) {
		t.Fatalf("the world did not come to its end: %v\n%s", err, out)
	}
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		line := lines.Text()
		if strings.HasPrefix(line, "ok ") {
			ok++
		} else if line != "END" {
			failures = append(failures, line)
		}
	}
	return ok, failures
}

// needs skips a test on a machine that has no world for it.
func needs(t *testing.T, programs ...string) {
	t.Helper()
	if os.Geteuid() != 0 || testing.Short() {
		t.Skip("namespaces and a copy of the root need root")
	}
	for _, program := range append(programs, "unshare", "nsenter", "ip", "bash") {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not here", program)
		}
	}
}

func TestEveryCommandOfTheDocsRuns(t *testing.T) {
	needs(t, "curl", "openssl", "make")
	bin := programs(t)
	for _, page := range pages(t) {
		var s strings.Builder
		want := 0
		for _, b := range blocks(t, page) {
			if b.with != "" {
				fmt.Fprintf(&s, "with %s\n", b.with)
			}
			if b.cluster {
				s.WriteString("cluster\n")
			}
			commands := b.commands()
			if commands == "" || b.notRun != "" || b.runBy != "" {
				continue
			}
			if _, err := exec.LookPath(b.needs); b.needs != "" && err != nil {
				t.Logf("%s:%d is not run: no %s here", b.page, b.line, b.needs)
				continue
			}
			want++
			host, mode := "edge-1", "wait"
			if b.on != "" {
				host = b.on
			}
			if b.stays != "" {
				mode = b.stays
			}
			fmt.Fprintf(&s, "run %s:%d %s %q <<'BLOCK'\n%sBLOCK\n", filepath.Base(page), b.line, host, mode, commands)
		}
		if want == 0 {
			continue
		}
		t.Run(strings.NewReplacer("../", "", "/", "-").Replace(page), func(t *testing.T) {
			ok, failures := inWorld(t, bin, s.String())
			if ok != want || len(failures) > 0 {
				t.Errorf("%d of %d blocks ran:\n%s", ok, want, strings.Join(failures, "\n"))
			}
		})
	}
}

// routers says what checks a router's configuration, and where Debian has it.
var routers = map[string][]string{
	"bird": {"bird", "-p", "-c"},
	"frr":  {"vtysh", "-C", "-f"},
}

func TestRoutersUnderstandWhatTheDocsTellThem(t *testing.T) {
	found := map[string]bool{}
	for _, page := range pages(t) {
		for _, b := range blocks(t, page) {
			check := routers[b.language]
			if check == nil {
				continue
			}
			found[b.language] = true
			if _, err := exec.LookPath(check[0]); err != nil {
				t.Logf("%s:%d is not checked: no %s here (Debian: bird2, frr)", b.page, b.line, check[0])
				continue
			}
			file := filepath.Join(t.TempDir(), "conf")
			if err := os.WriteFile(file, []byte(b.text), 0o644); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command(check[0], append(slices.Clone(check[1:]), file)...).CombinedOutput(); err != nil {
				t.Errorf("%s:%d: %v\n%s", b.page, b.line, err, out)
			}
		}
	}
	if len(found) != len(routers) {
		t.Errorf("the docs have configurations for %v only", found)
	}
}

// announce is a script: the page's router configuration and loop on edge-1, BIRD
// on the router; the route is there while the node is ready, and only then.
const announce = `
on edge-1 bash -c 'umask 077; lbctl cluster key new >/etc/lbd/cluster.key'
with examples/cluster.yaml
cat >"$root/etc/tor.conf" <<'CONF'
router id 10.0.0.1;
protocol device { }
protocol bgp edge { local 10.0.0.1 as 65000; neighbor 10.0.0.11 as 65011; connect delay time 1; ipv4 { import all; export none; }; }
CONF
on tor bird -c /etc/tor.conf -s /run/tor.ctl -P /run/tor.pid
cat >"$root/etc/%[1]s.conf" <<'CONF'
%[2]sCONF
%[3]s
cat >"$root/loop" <<'LOOP'
%[4]sLOOP
on edge-1 setsid bash /loop >"$root/loop.out" 2>&1 &
becomes() { # WHAT COUNT
	for i in $(seq 240); do
		[ "$(on tor birdc -s /run/tor.ctl show route | grep -c 'via 10.0.0.11 on eth0')" = "$2" ] && { echo "ok $1"; return; }
		sleep 0.25
	done
	echo "FAIL $1"; on tor birdc -s /run/tor.ctl show route; on tor birdc -s /run/tor.ctl show protocols all edge | head -20; tail -3 "$root/loop.out"
}
becomes "announced" 1
on edge-1 lbctl node drain >/dev/null
becomes "withdrawn while it drains" 0
on edge-1 lbctl node undrain >/dev/null
becomes "announced again" 1
`

func TestAVIPIsAnnouncedWhileTheNodeIsReady(t *testing.T) {
	for router, start := range map[string]string{
		"bird": `mkdir -p "$root/run/bird"; on edge-1 bird -c /etc/bird.conf`,
		"frr": `install -d -o frr -g frr "$root/run/frr" "$root/etc/frr"; cp "$root/etc/frr.conf" "$root/etc/frr/frr.conf"
rm -f "$root"/etc/frr/{vtysh,daemons}*; touch "$root/etc/frr/vtysh.conf"
on edge-1 /usr/lib/frr/zebra -d 2>/dev/null && on edge-1 /usr/lib/frr/bgpd -d 2>/dev/null && sleep 1 && on edge-1 vtysh -b >/dev/null 2>&1`,
	} {
		t.Run(router, func(t *testing.T) {
			needs(t, "bird", routers[router][0])
			var config, loop string
			for _, b := range blocks(t, "cluster.md") {
				if b.language == router {
					config = b.text
				} else if b.runBy != "" && config != "" && loop == "" {
					loop = b.text
				}
			}
			if config == "" || loop == "" {
				t.Fatal("the page has no configuration or no loop")
			}
			ok, failures := inWorld(t, programs(t), fmt.Sprintf(announce, router, config, start, loop))
			if ok != 3 || len(failures) > 0 {
				t.Errorf("%s", strings.Join(failures, "\n"))
			}
		})
	}
}
