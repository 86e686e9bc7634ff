package admin

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cirque-lb/lb"
)

// hostile is what an attacker would have the page show: as a host name, a
// backend's answer, a node's name.
const hostile = `"><img src=x onerror=document.title='owned'><script>document.title='owned'</script>`

// busy is a node with load and trouble whose names are hostile.
type busy struct {
	*fake
	began time.Time
}

func newBusy() busy {
	b := busy{newFake(), time.Now()}
	for _, e := range []lb.Event{
		{Kind: "config.start", Subject: "41@edge-1", Detail: "objects are owned by the file"},
		{Kind: "backend.down", Subject: "shop/10.0.1.2:8080", Detail: "status 503 " + hostile},
		{Kind: "epoch.minted", Subject: "7@edge-2", Detail: "edge-3 joined"},
	} {
		e.Time = b.began
		b.tell(e)
	}
	return b
}

func (b busy) Status(context.Context) (Status, error) {
	long := b.began.Add(-26 * time.Hour)
	return Status{
		Node: "edge-1", Version: "1.4.0", Started: long, State: "serving", Generation: "42@edge-1", Owner: "file", File: "/etc/lbd/lbd.yaml",
		Fastpath:    Fastpath{Wanted: "auto", Mode: "native", Interfaces: map[string]string{"eth0": "native"}, Epoch: "7@edge-2", View: 0xbeef},
		Connections: 1204, Requests: 31,
		Listeners: []Listener{{Name: "web", Bind: "192.0.2.10:80", Protocol: "http", Scope: "vip", Slots: 4, Live: 4, Connections: 800},
			{Name: "tls", Bind: "192.0.2.10:443", Protocol: "https", Scope: "vip", Slots: 4, Live: 3, Connections: 404}},
		Services: []Service{{Name: "dns", Bind: "192.0.2.10:53", Protocol: "udp", Forward: "ipip", Pool: "dns", Backends: 2, Usable: 2}},
		Routes: []Route{{Index: 1, Match: "host shop.example, *.shop.example; path /api/", Filters: []string{"rate_limit", "headers"}, Target: "pool shop"},
			{Index: 2, Match: "host " + hostile, Target: "split shop:90 canary:10"}, {Index: 3, Match: "everything", Target: "pool shop"}},
		Pools: []Pool{{Name: "shop", Balance: "least_request", Check: "http /healthz every 2s", Backends: 3, Usable: 2}},
		Workers: []Worker{{Name: "3.0", PID: 4711, State: "ready", Slots: []int{0, 1}, Version: "1.4.0", Since: long},
			{Name: "3.1", PID: 4712, State: "ready", Slots: []int{2, 3}, Version: "1.4.0", Since: long, Restarts: 1, Detail: "killed by signal 9"}},
		Nodes: []Node{{Name: "edge-1", Self: true, State: "serving", Weight: 4, View: 0xbeef, InSync: true},
			{Name: "edge-2", State: "serving", Weight: 4, View: 0xbeef, InSync: true, Address: "10.0.0.12"},
			{Name: hostile, State: "suspect", Weight: 4, View: 0xbeee, Address: "10.0.0.13"}},
		Problems: []Problem{{Subject: "pool shop", Text: "1 of 3 backends is down", Do: "lbctl why backend shop/10.0.1.2:8080"},
			{Subject: "config", Text: "is refused", Do: "mend it, then `lbctl config reload` or SIGHUP"}},
		Notes: []string{}, Sources: []Source{},
	}, nil
}

func (b busy) Backends(context.Context) ([]Backend, error) {
	since := b.began.Add(-3 * time.Minute)
	return []Backend{
		{ID: "shop/10.0.1.1:8080", Pool: "shop", State: "up", Weight: 1, Active: 12, Check: "status 200", Since: since},
		{ID: "shop/10.0.1.2:8080", Pool: "shop", State: "down", Weight: 1, Check: "status 503 " + hostile, Since: since},
		{ID: "shop/10.0.1.3:8080", Pool: "shop", State: "draining", Drain: true, Weight: 2, Active: 3, Check: "status 200", Since: since},
	}, nil
}

// Traffic is what a load with a wave in it would have been counted as.
func (b busy) Traffic(context.Context) (Traffic, error) {
	s := time.Since(b.began).Seconds()
	flow := func(name string, rate float64) Flow {
		n := rate*s + rate/2*math.Sin(s)
		l := &Latency{Count: uint64(n), Sum: n * 0.004}
		for _, x := range []struct{ le, share float64 }{{0.001, 0.3}, {0.002, 0.5}, {0.005, 0.9}, {0.01, 0.98}, {0.1, 1}} {
			l.Buckets = append(l.Buckets, lb.Bucket{Le: x.le, N: uint64(n * x.share)})
		}
		return Flow{Name: name, Requests: n, Errors: n / 500, BytesIn: n * 300, BytesOut: n * 4000, Latency: l}
	}
	return Traffic{Time: time.Now(), Node: "edge-1", State: "serving",
		Listeners: []Flow{flow("web", 8000), flow("tls", 3000)},
		Backends:  []Flow{flow("shop/10.0.1.1:8080", 7000), flow("shop/10.0.1.3:8080", 4000)},
		Packets: []Packets{{Reason: "own", Verdict: "pass", Count: 90000 * s}, {Reason: "other_owner", Verdict: "forward", Count: 60000 * s},
			{Reason: "no_owner", Verdict: "drop", Count: 20 * s}}}, nil
}

func TestTheDashboardMayRunNothingButItself(t *testing.T) {
	h := ReadOnly(newBusy())
	for path, kind := range map[string]string{"/": "text/html", "/dashboard/app.js": "text/javascript", "/dashboard/uplot.js": "text/javascript", "/dashboard/style.css": "text/css"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		got := w.Header()
		if w.Code != http.StatusOK || !strings.HasPrefix(got.Get("Content-Type"), kind) || got.Get("Content-Security-Policy") != policy || got.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("GET %s: %d %v", path, w.Code, got)
		}
	}
	for _, path := range []string{"/dashboard/LICENSE.uplot", "/dashboard/none.js", "/dashboard/..%2fdashboard.go", "/index.html"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code == http.StatusOK {
			t.Errorf("GET %s: %d", path, w.Code)
		}
	}
	for _, file := range []string{"app.js", "index.html"} {
		text, err := dashboardFiles.ReadFile("dashboard/" + file)
		if err != nil {
			t.Fatal(err)
		}
		for _, never := range []string{"innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "new Function", " style=", "onclick", "//cdn", "https://"} {
			if bytes.Contains(text, []byte(never)) {
				t.Errorf("%s has %q", file, never)
			}
		}
	}
}

func TestTheStreamIsBounded(t *testing.T) {
	s := httptest.NewServer(ReadOnly(newBusy()))
	defer s.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for i := range streams + 1 {
		r, _ := http.NewRequestWithContext(ctx, "GET", s.URL+"/dashboard/stream", nil)
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if want := map[bool]int{true: 200, false: 503}[i < streams]; res.StatusCode != want {
			t.Fatalf("stream %d: %d, want %d", i+1, res.StatusCode, want)
		}
	}
	cancel()
}

// browser is Chromium behind its driver, spoken to as WebDriver says.
type browser struct {
	t       *testing.T
	session string
}

func newBrowser(t *testing.T) *browser {
	t.Helper()
	driver, err := exec.LookPath("chromedriver")
	chromium, missing := exec.LookPath("chromium")
	if err != nil || missing != nil || testing.Short() {
		t.Skip("no chromedriver and chromium here (Debian: chromium-driver)")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	c := exec.Command(driver, fmt.Sprintf("--port=%d", port))
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	b := &browser{t: t, session: fmt.Sprintf("http://127.0.0.1:%d/session", port)}
	options := map[string]any{"binary": chromium, "args": []string{"--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars", "--user-data-dir=" + t.TempDir()}}
	var made struct{ SessionID string }
	for end := time.Now().Add(60 * time.Second); made.SessionID == ""; time.Sleep(200 * time.Millisecond) {
		if time.Now().After(end) {
			t.Skip("chromium does not start here")
		}
		if res, err := http.Get(strings.TrimSuffix(b.session, "session") + "status"); err != nil {
			continue
		} else {
			res.Body.Close()
		}
		_ = b.call("", map[string]any{"capabilities": map[string]any{"alwaysMatch": map[string]any{"browserName": "chrome", "goog:chromeOptions": options}}}, &made)
	}
	b.session += "/" + made.SessionID
	t.Cleanup(func() {
		r, _ := http.NewRequest("DELETE", b.session, nil)
		if res, err := http.DefaultClient.Do(r); err == nil {
			res.Body.Close()
		}
	})
	return b
}

// call posts a command and reads its value.
func (b *browser) call(path string, in, out any) error {
	body, _ := json.Marshal(in)
	res, err := http.Post(b.session+path, "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(res.Body)
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %.300s", path, res.Status, text)
	}
	var answer struct{ Value json.RawMessage }
	if err := json.Unmarshal(text, &answer); err != nil || out == nil {
		return err
	}
	return json.Unmarshal(answer.Value, out)
}

func (b *browser) must(path string, in, out any) {
	b.t.Helper()
	if err := b.call(path, in, out); err != nil {
		b.t.Fatal(err)
	}
}

// run evaluates a script in the page.
func (b *browser) run(script string, out any) {
	b.t.Helper()
	b.must("/execute/sync", map[string]any{"script": script, "args": []any{}}, out)
}

func (b *browser) until(what, script string) {
	b.t.Helper()
	for end := time.Now().Add(60 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		var ok bool
		if b.run("return !!("+script+")", &ok); ok {
			return
		}
	}
	var text string
	b.run("return document.body.innerText", &text)
	b.t.Fatalf("not within a minute: %s\n%s", what, text)
}

func (b *browser) devtools(command string, params map[string]any, out any) {
	b.t.Helper()
	b.must("/goog/cdp/execute", map[string]any{"cmd": command, "params": params}, out)
}

// look sets a size and a scheme; then it keeps a picture of the whole page where
// ARTEFACTS says, if it does.
func (b *browser) look(name string, width, height int, scheme string) {
	b.t.Helper()
	b.devtools("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}, nil)
	b.devtools("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}}}, nil)
	b.run("scrollTo({ top: 0, behavior: 'instant' })", nil)
	var wide float64
	for range 50 { // graphs follow a change of size
		b.run("return document.documentElement.scrollWidth - innerWidth", &wide)
		if wide <= 1 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if wide > 1 {
		b.t.Errorf("%s: the page is %v pixels wider than the screen", name, wide)
	}
	dir := os.Getenv("ARTEFACTS")
	if dir == "" {
		return
	}
	time.Sleep(2500 * time.Millisecond) // graphs follow a change of size
	var shot struct{ Data string }
	b.devtools("Page.captureScreenshot", map[string]any{"format": "png", "captureBeyondViewport": true}, &shot)
	png, err := base64.StdEncoding.DecodeString(shot.Data)
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644)
	}
	if err != nil {
		b.t.Error(err)
	}
}

// press types a key, as WebDriver writes those that are no letters.
func (b *browser) press(key string) {
	b.t.Helper()
	b.must("/actions", map[string]any{"actions": []any{map[string]any{"type": "key", "id": "keyboard",
		"actions": []any{map[string]string{"type": "keyDown", "value": key}, map[string]string{"type": "keyUp", "value": key}}}}}, nil)
}

const (
	tab   = "\ue004"
	enter = "\ue007"
)

// walk goes through the page by the keyboard alone: every link and every table that
// scrolls is reached, shows that it is, and a link goes where it says.
func (b *browser) walk() {
	b.t.Helper()
	var want int
	b.run("return document.querySelectorAll('a, .scroll').length", &want)
	reached := map[string]bool{}
	for range want + 5 {
		b.press(tab)
		var at struct {
			Name, Outline string
			Visible       bool
		}
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) { // it scrolls there
			b.run(`const e = document.activeElement; if (e === document.body) return {};
				const box = e.getBoundingClientRect();
				return { name: [...document.querySelectorAll('a, .scroll')].indexOf(e) + " " + e.textContent.slice(0, 20), outline: getComputedStyle(e).outlineStyle,
					visible: box.right > 0 && box.bottom > 0 && box.top < innerHeight }`, &at)
			if at.Name == "" || at.Visible {
				break
			}
		}
		if at.Name == "" {
			break // the end of the page
		}
		if len(reached) == 0 && !strings.Contains(at.Name, "To the content") {
			b.t.Errorf("the first stop is %q", at.Name)
		}
		if at.Outline == "none" || !at.Visible {
			b.t.Errorf("%q has the focus and does not show it: outline %s, on the screen: %v", at.Name, at.Outline, at.Visible)
		}
		reached[at.Name] = true
	}
	if len(reached) < want {
		b.t.Errorf("the Tab key reaches %d of %d: %v", len(reached), want, reached)
	}
	b.run("document.querySelector('nav a[href=\"#backends\"]').focus()", nil)
	b.press(enter)
	b.until("the link goes to the backends", "location.hash === '#backends' && document.getElementById('backends').getBoundingClientRect().top < innerHeight")
}

func TestTheDashboardAnswersTheFiveQuestionsAndRunsNoName(t *testing.T) {
	b := newBrowser(t)
	s := httptest.NewServer(ReadOnly(newBusy()))
	defer s.Close()
	defer s.CloseClientConnections()
	b.must("/url", map[string]any{"url": s.URL + "/"}, nil)
	b.until("graphs are drawn", "document.querySelectorAll('#charts canvas').length === 4 && charts.requests.data[0].length >= 3")
	for table, want := range map[string][]string{
		"exposed":  {"web", "192.0.2.10:443", "3 of 4", "dns"},
		"traffic":  {"web", "tls"},
		"routes":   {"pool shop", "split shop:90", "2 of 3"},
		"backends": {"shop/10.0.1.2:8080", "down", "status 503", "an operator drains it"},
		"nodes":    {"edge-2", "in sync", "out of sync", "suspect"},
		"events":   {"epoch.minted", "backend.down"},
		"problems": {"1 of 3 backends is down", "lbctl why"},
	} {
		var text string
		b.run("return document.getElementById('"+table+"').innerText", &text)
		for _, w := range want {
			if !strings.Contains(text, w) {
				t.Errorf("%s does not say %q:\n%s", table, w, text)
			}
		}
	}

	var commands []string
	if b.run("return [...document.querySelectorAll('#problems code')].map(e => e.textContent)", &commands); strings.Join(commands, "|") != "lbctl why backend shop/10.0.1.2:8080|lbctl config reload" {
		t.Errorf("commands in the problems: %q", commands)
	}

	var title string
	var images int
	b.run("return document.title", &title)
	b.run("return document.querySelectorAll('main img, main script').length", &images)
	if !strings.HasPrefix(title, "edge-1") || images != 0 {
		t.Errorf("a hostile name became more than a text: title %q, %d elements", title, images)
	}
	var shown bool
	if b.run("return document.body.innerText.includes('<img src=x onerror=')", &shown); !shown {
		t.Error("the hostile name is not shown as it is")
	}

	b.walk()
	b.look("dashboard-light", 1280, 900, "light")
	b.look("dashboard-dark", 1280, 900, "dark")
	b.look("dashboard-phone", 390, 844, "light")
}

// TestPicturesOfALiveNode looks at a node that runs, under whatever load it has:
// LIVE is the URL of its dashboard, ARTEFACTS where the pictures go.
func TestPicturesOfALiveNode(t *testing.T) {
	url := os.Getenv("LIVE")
	if url == "" {
		t.Skip("LIVE names no dashboard")
	}
	b := newBrowser(t)
	b.must("/url", map[string]any{"url": url}, nil)
	b.until("half a minute of graphs", "charts.requests && charts.requests.data[0].length >= 30")
	b.look("dashboard", 1280, 900, "light")
	b.look("dashboard-dark", 1280, 900, "dark")
	b.look("dashboard-phone", 390, 844, "light")
}
