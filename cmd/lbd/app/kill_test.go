package app

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cirque-lb/lb/cluster"
)

var kills = flag.Int("kills", 8, "how often lbd is killed while its state changes")

// ledger is what a node was told, and whether it said that it has it.
type ledger struct {
	site     *site
	document int      // the newest that was acknowledged
	drained  bool     // the backend, as was acknowledged
	keys     []string // the cluster's, the one that signs first, as was acknowledged
	older    string   // the key that the rotation under way takes away
	steps    int      // of rotations, acknowledged

	// What is under way: it may be there after a kill, or not.
	nextDocument int
	nextDrained  bool
	nextKeys     []string
}

// objects is the n-th document: one route tells which it is.
func (l *ledger) objects(n int) string {
	return fmt.Sprintf(`
listeners:
  web: { bind: "127.0.0.1:%d" }
routes:
  - match: { path: /which }
    respond: { status: 200, body: "%d" }
  - pool: app
pools:
  app: { backends: [%q, %q] }
`, l.site.port, n, l.site.pool[0], l.site.pool[1])
}

// settings have a cluster of one, whose keys rotate.
func (l *ledger) settings() string {
	return fmt.Sprintf(`
node: { name: test, address: 127.0.0.1, run_dir: %[1]s/run, data_dir: %[1]s/data }
workers: { processes: 2, threads: 1 }
fastpath: { mode: "off" }
log: { access: "off" }
admin: { http: "" }
cluster: { name: test, bind: "127.0.0.1:%[2]d", key_file: %[1]s/key }
`, l.site.dir, freePort(l.site.t))
}

func (l *ledger) call(method, path, body string) error {
	req, err := http.NewRequest(method, "http://lbd"+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	c := l.site.admin()
	c.Timeout = 20 * time.Second
	r, err := c.Do(req)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err == nil && r.StatusCode/100 != 2 {
		err = fmt.Errorf("%s: %s", r.Status, text)
	}
	return err
}

// change makes one change, of the kind that comes next; an error leaves it open
// whether it was made.
func (l *ledger) change(kind int) error {
	switch kind % 3 {
	case 0:
		l.nextDocument = l.document + 1
		if err := l.call("PUT", "/v1/config", l.objects(l.nextDocument)); err != nil {
			return err
		}
		l.document = l.nextDocument
	case 1:
		l.nextDrained = !l.drained
		if err := l.call("POST", "/v1/backends/order", fmt.Sprintf(`{"id":"app/%s","drain":%v}`, l.site.pool[0], l.nextDrained)); err != nil {
			return err
		}
		l.drained = l.nextDrained
	default:
		return l.rotate()
	}
	return nil
}

// rotate takes the next step of a rotation: another key is added, used, and then
// the old one is removed.
func (l *ledger) rotate() error {
	action, key := "add", ""
	switch {
	case len(l.keys) == 1:
		key, l.older = cluster.NewKey().String(), l.keys[0]
		l.nextKeys = []string{l.keys[0], key}
	case l.keys[0] == l.older:
		action, key = "use", keyName(l.keys[1])
		l.nextKeys = []string{l.keys[1], l.keys[0]}
	default:
		action, key = "remove", keyName(l.keys[1])
		l.nextKeys = l.keys[:1]
	}
	if err := l.call("POST", "/v1/cluster/keys", fmt.Sprintf(`{"action":%q,"key":%q}`, action, key)); err != nil {
		return err
	}
	l.keys = l.nextKeys
	l.steps++
	return nil
}

func keyName(text string) string {
	keys, err := cluster.ParseKeys([]byte(text))
	if err != nil {
		panic(err) // it is one of ours
	}
	return keys[0].Name()
}

// ring is the keys of a node that was started again: what it opens messages with
// has to be what its file has.
func (l *ledger) ring() ([]string, error) {
	text, err := os.ReadFile(filepath.Join(l.site.dir, "key"))
	if err != nil {
		return nil, err
	}
	in := strings.Fields(string(text))
	r, err := l.site.admin().Get("http://lbd/v1/cluster/keys")
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	var rings []struct{ Keys []string }
	if err := json.NewDecoder(r.Body).Decode(&rings); err != nil || len(rings) != 1 {
		return nil, fmt.Errorf("the rings are %v, %v", rings, err)
	}
	var names []string
	for _, key := range in {
		names = append(names, keyName(key))
	}
	if !slices.Equal(names, rings[0].Keys) {
		return nil, fmt.Errorf("the file has the keys %v, lbd has %v", names, rings[0].Keys)
	}
	return in, nil
}

// found is what a node that was started again has: the newest document as it
// tells it and as its workers serve it, and the overlay.
func (l *ledger) found() (document int, drained bool, err error) {
	get := func(c *http.Client, url string) ([]byte, error) {
		r, err := c.Get(url)
		if err != nil {
			return nil, err
		}
		defer r.Body.Close()
		return io.ReadAll(r.Body)
	}
	text, err := get(l.site.admin(), "http://lbd/v1/config")
	if err != nil {
		return 0, false, err
	}
	_, after, _ := bytes.Cut(text, []byte(`body: "`))
	if _, err := fmt.Sscan(string(after), &document); err != nil {
		return 0, false, fmt.Errorf("the document is %q", text)
	}
	if want := l.objects(document); string(text) != want {
		return 0, false, fmt.Errorf("the document is %q, which is not number %d", text, document)
	}
	served, err := get(&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, l.site.url()+"which")
	if err != nil || string(served) != fmt.Sprint(document) {
		return 0, false, fmt.Errorf("the document is number %d and the workers serve %q (%v)", document, served, err)
	}
	text, err = get(l.site.admin(), "http://lbd/v1/backends")
	var all []struct {
		Address string
		Drain   bool
	}
	if err = errors.Join(err, json.Unmarshal(text, &all)); err != nil {
		return 0, false, err
	}
	for _, b := range all {
		drained = drained || b.Drain
		if b.Drain && b.Address != l.site.pool[0] {
			return 0, false, fmt.Errorf("%s drains", b.Address)
		}
	}
	return document, drained, nil
}

// compare holds what a node has that was started again against what it said, and
// takes that for what is so from now on. It reports whether what was under way was
// made without a word.
func (l *ledger) compare(when string) (open bool) {
	t := l.site.t
	t.Helper()
	document, drained, err := l.found()
	ring, err2 := l.ring()
	switch err := errors.Join(err, err2); {
	case err != nil:
		t.Fatalf("%s: %v", when, err)
	case !slices.Equal(ring, l.keys) && !slices.Equal(ring, l.nextKeys):
		t.Fatalf("%s: the keys are %v, %v were acknowledged", when, ring, l.keys)
	case document != l.document && document != l.nextDocument:
		t.Fatalf("%s: document %d runs, %d was acknowledged and %d under way", when, document, l.document, l.nextDocument)
	case drained != l.drained && drained != l.nextDrained:
		t.Fatalf("%s: drained %v, %v was acknowledged", when, drained, l.drained)
	}
	open = document != l.document || drained != l.drained || !slices.Equal(ring, l.keys)
	l.document, l.drained, l.keys = document, drained, ring
	return open
}

// Killed at any point of applies, drains and key rotations, lbd comes back with
// what it said it has; what was under way is there whole or not at all. -kills
// 1000 takes its time.
func TestKilledWhileItChangesLbdKeepsWhatItSaidItHas(t *testing.T) {
	if testing.Short() {
		t.Skip("starts many processes")
	}
	seed := uint64(time.Now().UnixNano())
	random := mathrand.New(mathrand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	s := newSite(t)
	l := &ledger{site: s}
	l.keys = []string{cluster.NewKey().String()}
	if err := errors.Join(os.WriteFile(filepath.Join(s.dir, "key"), []byte(l.keys[0]+"\n"), 0o600), os.WriteFile(s.file(), []byte(l.settings()+l.objects(0)), 0o644)); err != nil {
		t.Fatal(err)
	}
	c := s.start()
	if err := errors.Join(l.call("POST", "/v1/config/adopt", ""), l.call("PUT", "/v1/config", l.objects(0))); err != nil {
		t.Fatal(err)
	}
	traffic := s.load(1)
	made, open := 0, 0
	for k := range *kills {
		killed := make(chan bool)
		go func(c *exec.Cmd, after time.Duration) {
			time.Sleep(after) // the moment is the test: a change takes a few milliseconds
			c.Process.Kill()
			close(killed)
		}(c, time.Duration(random.Int64N(int64(60*time.Millisecond))))
		l.nextDocument, l.nextDrained, l.nextKeys = l.document, l.drained, l.keys
		for kind := random.IntN(3); ; kind++ {
			if err := l.change(kind); err != nil {
				break
			}
			made++
		}
		<-killed
		c = s.restart(c)
		if l.compare(fmt.Sprint("kill ", k+1)) {
			open++
		}
	}
	traffic.endUnfailed(t)
	t.Logf("%d kills: %d changes acknowledged, %d of them steps of key rotations, none lost; %d more were made that nobody was told of; %d requests, %d failed",
		*kills, made, l.steps, open, traffic.sent.Load(), traffic.failed.Load())
}
