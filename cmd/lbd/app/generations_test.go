package app

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var lives = flag.Int("lives", 12, "how many generations of workers follow each other beside the fast path")

// remains is all that a generation could leave behind.
type remains struct {
	entries   map[string]int // of pinned maps
	pins      []string
	processes []string       // what they are called, sorted
	files     int            // of the supervisor
	run       map[string]int // files of run_dir, without the numbers in their names
	routes    int            // in the node's namespace
}

// kin are the supervisor and its workers, whoever started them.
func (f *field) kin() (supervisor int, all []string) {
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range paths {
		text, _ := os.ReadFile(path)
		var pid int
		fmt.Sscanf(path, "/proc/%d/", &pid)
		words := strings.Split(strings.TrimRight(string(text), "\x00"), "\x00")
		space, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
		if len(words) < 2 || space == "" || space != f.space {
			continue
		}
		if words[1] == "run" && slices.Contains(words, f.file()) {
			supervisor = pid
		}
		all = append(all, words[1])
	}
	slices.Sort(all)
	return supervisor, all
}

func (f *field) remains() (r remains) {
	f.t.Helper()
	r.entries = f.entries()
	f.check(filepath.WalkDir(f.dir+"/bpf/edge", func(path string, d fs.DirEntry, err error) error {
		r.pins = append(r.pins, path)
		return err
	}))
	var supervisor int
	supervisor, r.processes = f.kin()
	r.files = f.footprint(supervisor).files
	r.run = map[string]int{}
	all, err := os.ReadDir(f.dir + "/run")
	f.check(err)
	for _, e := range all {
		name := strings.Map(func(c rune) rune {
			if c >= '0' && c <= '9' {
				return -1
			}
			return c
		}, e.Name())
		if !strings.HasPrefix(name, "crash-") { // what is kept of workers that were killed
			r.run[name]++
		}
	}
	out, err := f.edge.Command("ip", "route", "show", "table", "all").Output()
	f.check(err)
	r.routes = bytes.Count(out, []byte("\n"))
	return r
}

func (r remains) String() string {
	entries := 0
	for _, n := range r.entries {
		entries += n
	}
	return fmt.Sprintf("%d entries of maps, %d pins, %d processes, %d descriptors of the supervisor, %d files of run_dir, %d routes",
		entries, len(r.pins), len(r.processes), r.files, len(r.run), r.routes)
}

// Generations of workers, steered by XDP and sk_lookup into their sockets: one worker
// after another is replaced, every twenty-fifth time the whole crew with its supervisor, and
// now and then both are killed. Of all those nothing is left, in no map, among no
// pins, no process, no descriptor, no route. -lives 1000 takes ten minutes.
func TestGenerationsLeaveNothingInTheKernel(t *testing.T) {
	f := newField(t)
	f.configureServices(fieldServices()[:4], 7)
	text, err := os.ReadFile(f.file())
	f.check(err)
	more := "listeners:\n  web: { bind: \"192.0.2.99:80\" }\n  six: { bind: \"[2001:db8::99]:80\" }\nroutes:\n  - respond: { status: 200, body: backend }\n"
	f.check(os.WriteFile(f.file(), []byte(strings.Replace(string(text), "processes: 1", "processes: 2", 1)+more), 0o644))
	f.startEdge()
	f.check(f.edge.Do(func() (err error) {
		f.space, err = os.Readlink("/proc/thread-self/ns/net")
		return err
	}))
	// The verifier alone takes a starved machine longer than a successor has; then the
	// guard goes on, which is another supervisor, too.
	patiently := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("not within two minutes: " + what)
			}
		}
	}
	next := func() { // a crew, and its supervisor
		t.Helper()
		was, err := f.status()
		f.check(err)
		if code, text := f.upgradeTo(""); code != http.StatusOK {
			t.Fatalf("upgrade: %d %s", code, text)
		}
		patiently("another supervisor has two workers", func() bool {
			now, err := f.status()
			return err == nil && now.After(was) && f.whole()
		})
	}
	replace := func(n int) { // a worker
		t.Helper()
		name := f.workers()[n%2].Name
		order := func(drain bool) {
			f.check(f.site.order("POST", "/v1/workers/order", fmt.Sprintf(`{"name":%q,"drain":%v}`, name, drain)))
		}
		order(true)
		patiently("it has ended", func() bool {
			return slices.ContainsFunc(f.workers(), func(w workerStatus) bool { return w.State == "drained" })
		})
		order(false)
		patiently("another is in its place", f.whole)
	}
	next() // what is made once is made now
	replace(0)
	before := f.remains()
	ended, kills := f.visit(), 0
	began := time.Now()
	for n := range *lives {
		if n%25 == 0 {
			next()
		} else {
			replace(n)
		}
		if n%100 == 3 {
			supervisor, _ := f.kin()
			kills++
			kill := exec.Command("kill", "-9", fmt.Sprint(f.pids()[0]), fmt.Sprint(supervisor))
			f.check(kill.Run())
			syscall.Wait4(supervisor, nil, 0, nil) // a zombie is alive to who starts next
			f.until("it is gone", func() bool { now, _ := f.kin(); return now != supervisor })
			f.startEdge()
			f.until("a whole crew", f.whole)
		}
	}
	took := time.Since(began)
	sent, failed := ended()
	var after remains
	same := func() bool {
		after = f.remains()
		return maps.Equal(after.entries, before.entries) && slices.Equal(after.pins, before.pins) && slices.Equal(after.processes, before.processes) &&
			after.files <= before.files+2 && maps.Equal(after.run, before.run) && after.routes == before.routes
	}
	for end := time.Now().Add(20 * time.Second); !same() && time.Now().Before(end); {
		time.Sleep(100 * time.Millisecond) // connections end, and with them descriptors
	}
	if !same() {
		type all remains // all of it, not String's sums
		t.Errorf("left behind:\n%+v, before\n%+v", all(after), all(before))
	}
	t.Logf("%d generations, %v each; %v; %d kills; %d requests through the fast path, %d failed", *lives, (took / time.Duration(*lives)).Round(time.Millisecond), after, kills, sent, failed)
	if failed > kills { // each may meet the one that is asked
		t.Errorf("%d requests failed, %d workers were killed", failed, kills)
	}
}

// whole: two workers are ready, and nobody else is there.
func (f *field) whole() bool {
	now := f.workers()
	return len(now) == 2 && now[0].State == "ready" && now[1].State == "ready"
}

// visit asks both listeners from the client's namespace until it is told to end.
func (f *field) visit() (end func() (sent, failed int)) {
	stop := make(chan struct{})
	var sent, failed int
	var work sync.WaitGroup
	once := func(address string) error {
		var c net.Conn
		err := f.client.Do(func() (err error) {
			c, err = net.DialTimeout("tcp", address, 10*time.Second)
			return err
		})
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		text, err := io.ReadAll(c)
		if err == nil && !bytes.HasSuffix(text, []byte("backend")) {
			err = fmt.Errorf("%q", text)
		}
		return err
	}
	work.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
			sent++
			if err := once([]string{"192.0.2.99:80", "[2001:db8::99]:80"}[n%2]); err != nil {
				failed++
				f.t.Log(err)
			}
		}
	})
	return func() (int, int) { close(stop); work.Wait(); return sent, failed }
}
