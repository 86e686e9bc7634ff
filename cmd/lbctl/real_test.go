package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cirque-lb/lb/cmd/internal/admin"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// patience bounds what a script waits for; nothing here takes that long.
const patience = 30 * time.Second

// TestRealDaemon runs transcripts against an lbd with workers and backends, all
// on loopback.
func TestRealDaemon(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a build of lbd and starts processes")
	}
	// Workers that start as root become somebody who must reach the binary.
	dir, err := os.MkdirTemp("", "lbctl-real-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	lbd := filepath.Join(dir, "lbd")
	if out, err := exec.Command("go", "build", "-o", lbd, "github.com/cirque-lb/lb/cmd/lbd").CombinedOutput(); err != nil {
		t.Fatalf("build lbd: %v\n%s", err, out)
	}
	r := &rigs{lbd: lbd, all: map[string]*rig{}}
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/real",
		WorkdirRoot:   dir,
		UpdateScripts: os.Getenv("UPDATE") != "",
		Setup:         r.setup,
		Condition: func(name string) (bool, error) {
			if name != "root" {
				return false, fmt.Errorf("no condition %s", name)
			}
			return os.Getuid() == 0, nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status":      exits,
			"backend":     r.cmd((*rig).backend),
			"port":        r.cmd((*rig).port),
			"write":       r.cmd((*rig).write),
			"start":       r.cmd((*rig).start),
			"start-apart": r.cmd((*rig).startApart),
			"datagrams":   r.cmd((*rig).datagrams),
			"pins":        r.cmd((*rig).pins),
			"halt":        r.cmd((*rig).halt),
			"crash":       r.cmd((*rig).crash),
			"signal":      r.cmd((*rig).signal),
			"fetch":       r.cmd((*rig).fetch),
			"becomes":     r.cmd((*rig).becomes),
			"hold":        r.cmd((*rig).hold),
			"release":     r.cmd((*rig).release),
			"lost":        r.cmd((*rig).lost),
			"pids":        r.cmd((*rig).pids),
			"await":       r.cmd((*rig).await),
			"lint":        r.cmd((*rig).lint),
			"match":       r.cmd((*rig).match),
			"watch":       r.cmd((*rig).watch),
			"name":        r.cmd((*rig).name),
			"send":        r.cmd((*rig).send),
			"within":      r.cmd((*rig).within),
		},
	})
}

// rigs are the daemons and backends of all scripts, by work directory.
type rigs struct {
	lbd string
	mu  sync.Mutex // guards all
	all map[string]*rig
}

// rig is one script's daemons with their backends.
type rig struct {
	ts      *testscript.TestScript
	lbd     string
	work    string
	daemons map[string]*exec.Cmd     // by run directory; the first is run
	gates   map[string]chan struct{} // what backends wait for before they answer /hold
	asked   chan struct{}            // a request is held
	held    sync.WaitGroup
	failed  chan error
}

func (r *rigs) setup(e *testscript.Env) error {
	e.Setenv("LBCTL_ADDR", filepath.Join(e.WorkDir, "run", "lbd.sock"))
	e.Setenv("lbd", r.lbd)
	r.mu.Lock()
	defer r.mu.Unlock()
	one := &rig{lbd: r.lbd, work: e.WorkDir, daemons: map[string]*exec.Cmd{}, gates: map[string]chan struct{}{}, asked: make(chan struct{}, 8), failed: make(chan error, 8)}
	r.all[e.WorkDir] = one
	e.Defer(func() {
		for _, g := range one.gates {
			close(g)
		}
		for dir := range one.daemons {
			one.end([]string{dir}, syscall.SIGTERM)
		}
		one.held.Wait()
	})
	return os.Chmod(e.WorkDir, 0o755)
}

func (r *rigs) cmd(do func(*rig, []string)) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, _ bool, args []string) {
		r.mu.Lock()
		one := r.all[ts.Getenv("WORK")]
		r.mu.Unlock()
		one.ts = ts
		do(one, args)
	}
}

// backend NAME serves HTTP on loopback; $NAME is its address. /hold answers
// after release NAME.
func (r *rig) backend(args []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	r.ts.Check(err)
	gate := make(chan struct{})
	r.gates[args[0]] = gate
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/hold" {
			r.asked <- struct{}{}
			<-gate
		}
		fmt.Fprintln(w, args[0])
	})}
	go s.Serve(l)
	r.ts.Defer(func() { s.Close() })
	r.ts.Setenv(args[0], l.Addr().String())
}

// port NAME finds a free port of loopback, of those that the kernel gives to
// nobody by itself.
func (r *rig) port(args []string) {
	for range 100 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 10000+rand.IntN(20000)))
		if err == nil {
			r.ts.Setenv(args[0], l.Addr().String())
			l.Close()
			return
		}
	}
	r.ts.Fatalf("no free port")
}

var variable = regexp.MustCompile(`\$\w+`)

// write FROM TO expands $names.
func (r *rig) write(args []string) {
	text := variable.ReplaceAllStringFunc(r.ts.ReadFile(args[0]), func(v string) string { return r.ts.Getenv(v[1:]) })
	r.ts.Check(os.WriteFile(r.ts.MkAbs(args[1]), []byte(text), 0o644))
}

// start FILE [DIR] runs lbd and returns when it serves; DIR is its run directory.
func (r *rig) start(args []string) { r.run(args, r.lbd) }

// startApart does so in a network of its own, which has eth0 with 10.0.0.1/24.
func (r *rig) startApart(args []string) {
	r.run(args, "unshare", "-n", "sh", "-ec", `ip link set lo up; ip link add eth0 type veth peer name other; ip addr add 10.0.0.1/24 dev eth0; ip link set other up; ip link set eth0 up; exec "$0" "$@"`, r.lbd)
}

// datagrams ADDRESS PORT has frames with UDP arrive at the daemon that started
// apart, for 2 s.
func (r *rig) datagrams(args []string) {
	to, err := netip.ParseAddr(args[0])
	r.ts.Check(err)
	port, err := strconv.ParseUint(args[1], 10, 16)
	r.ts.Check(err)
	sent := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread's network is another one
		sent <- r.sendFrames(to.As4(), uint16(port))
	}()
	r.ts.Check(<-sent)
}

func (r *rig) sendFrames(to [4]byte, port uint16) error {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", r.daemons["run"].Process.Pid))
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return err
	}
	near, err := net.InterfaceByName("eth0")
	if err != nil {
		return err
	}
	far, err := net.InterfaceByName("other")
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	frame := slices.Concat(near.HardwareAddr, far.HardwareAddr, []byte{8, 0,
		0x45, 0, 0, 32, 0, 1, 0, 0, 64, unix.IPPROTO_UDP, 0, 0, 10, 0, 0, 9}, to[:],
		[]byte{0x30, 0x39, byte(port >> 8), byte(port), 0, 12, 0, 0, 'p', 'i', 'n', 'g'})
	var sum uint32
	for i := 14; i < 34; i += 2 {
		sum += uint32(frame[i])<<8 | uint32(frame[i+1])
	}
	sum = ^(sum&0xffff + sum>>16)
	frame[24], frame[25] = byte(sum>>8), byte(sum)
	for range 100 {
		if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: far.Index}); err != nil {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
	return nil
}

// pins makes a name for pinned objects, $PINS, that no other run has.
func (r *rig) pins([]string) {
	r.ts.Setenv("PINS", fmt.Sprintf("/sys/fs/bpf/lbctl-test-%d", os.Getpid()))
}

func (r *rig) run(args []string, command ...string) {
	dir := first(args[1:])
	log, err := os.OpenFile(filepath.Join(r.work, "lbd.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	r.ts.Check(err)
	defer log.Close()
	daemon := exec.Command(command[0], append(command[1:], "run", "-c", r.ts.MkAbs(args[0]))...)
	daemon.Stdout, daemon.Stderr = log, log
	r.ts.Check(daemon.Start())
	r.daemons[dir] = daemon
	r.until("lbd serves", func() bool {
		s, err := admin.Dial(filepath.Join(r.work, dir, "lbd.sock")).Status(context.Background())
		return err == nil && s.State != "starting"
	})
}

func first(dir []string) string {
	if len(dir) == 0 {
		return "run"
	}
	return dir[0]
}

func (r *rig) client() *admin.Client { return admin.Dial(filepath.Join(r.work, "run", "lbd.sock")) }

// until looks again and again: what it waits for happens in another process.
func (r *rig) until(what string, done func() bool) {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if done() {
			return
		}
	}
	log, _ := os.ReadFile(filepath.Join(r.work, "lbd.log"))
	r.ts.Fatalf("waiting until %s\n%s", what, log)
}

func (r *rig) end(dir []string, s os.Signal) {
	daemon := r.daemons[first(dir)]
	daemon.Process.Signal(s)
	daemon.Wait()
	delete(r.daemons, first(dir))
}

func (r *rig) halt(dir []string)  { r.end(dir, syscall.SIGTERM) }
func (r *rig) crash(dir []string) { r.end(dir, syscall.SIGKILL) }

// signal sends HUP or USR2.
func (r *rig) signal(args []string) {
	r.ts.Check(r.daemons["run"].Process.Signal(map[string]os.Signal{"HUP": syscall.SIGHUP, "USR2": syscall.SIGUSR2}[args[0]]))
}

// watch PATTERN ARGS… runs lbctl until what it prints matches, then interrupts
// it.
func (r *rig) watch(args []string) {
	want, err := regexp.Compile(args[0])
	r.ts.Check(err)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out := &watched{want: want, seen: cancel}
	var errs strings.Builder
	code := run(ctx, scripted(r.ts, args[1:]), strings.NewReader(""), out, &errs)
	if code != exitOK || !want.MatchString(out.text.String()) {
		r.ts.Fatalf("lbctl %v: exit %d, %s\n%s", args[1:], code, &errs, &out.text)
	}
}

// watched is what lbctl prints until it is enough.
type watched struct {
	want *regexp.Regexp
	seen func()
	text strings.Builder
}

func (w *watched) Write(p []byte) (int, error) {
	n, err := w.text.Write(p)
	if w.want.MatchString(w.text.String()) {
		w.seen()
	}
	return n, err
}

// name OLD NEW remembers the names of the keys of rings.json's first node.
func (r *rig) name(args []string) {
	var rings []admin.KeyRing
	r.ts.Check(json.Unmarshal([]byte(r.ts.ReadFile("rings.json")), &rings))
	for i, name := range args {
		r.ts.Setenv(name, rings[0].Keys[i])
	}
}

// send ADDRESS TEXT sends bytes and reads to the end.
func (r *rig) send(args []string) {
	c, err := net.Dial("tcp", args[0])
	r.ts.Check(err)
	defer c.Close()
	io.WriteString(c, strings.NewReplacer(`\r`, "\r", `\n`, "\n").Replace(args[1]))
	io.Copy(io.Discard, c)
}

// within PATTERN ARGS… runs lbctl again and again until it prints that.
func (r *rig) within(args []string) {
	want, err := regexp.Compile(args[0])
	r.ts.Check(err)
	var out strings.Builder
	r.until(fmt.Sprintf("lbctl %v prints %s", args[1:], args[0]), func() bool {
		out.Reset()
		run(context.Background(), scripted(r.ts, args[1:]), strings.NewReader(""), &out, &out)
		return want.MatchString(out.String())
	})
}

// fetch URL CODE [BODY] asks through the balancer.
func (r *rig) fetch(args []string) {
	code, body, err := get(args[0])
	r.ts.Check(err)
	if strconv.Itoa(code) != args[1] || len(args) > 2 && strings.TrimSpace(body) != args[2] {
		r.ts.Fatalf("GET %s: %d %s, want %v", args[0], code, body, args[1:])
	}
}

// becomes URL CODE [BODY] asks until the answer is that: workers hear of orders soon.
func (r *rig) becomes(args []string) {
	r.until(fmt.Sprintf("GET %s: %s", args[0], args[1]), func() bool {
		code, body, err := get(args[0])
		return err == nil && strconv.Itoa(code) == args[1] && (len(args) < 3 || strings.TrimSpace(body) == args[2])
	})
}

func get(url string) (int, string, error) {
	c := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := c.Get(url)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return res.StatusCode, string(body), err
}

// hold URL begins a request that its backend does not answer yet.
func (r *rig) hold(args []string) {
	r.held.Go(func() {
		code, body, err := get(args[0] + "/hold")
		if err == nil && code != 200 {
			err = fmt.Errorf("held request: %d %s", code, body)
		}
		r.failed <- err
	})
	select {
	case <-r.asked:
	case <-time.After(patience):
		r.ts.Fatalf("no backend got the request")
	}
}

// release NAME lets a backend answer, and wants the answer to arrive.
func (r *rig) release(args []string) {
	close(r.gates[args[0]])
	delete(r.gates, args[0])
	r.ts.Check(<-r.failed)
}

// lost NAME wants the held request to have failed: its connection was closed.
func (r *rig) lost(args []string) {
	err := <-r.failed
	close(r.gates[args[0]])
	delete(r.gates, args[0])
	if err == nil {
		r.ts.Fatalf("the held request was answered")
	}
}

// pids NAME remembers the processes of the crew.
func (r *rig) pids(args []string) {
	s, err := r.client().Status(context.Background())
	r.ts.Check(err)
	var all []string
	for _, w := range s.Workers {
		all = append(all, fmt.Sprint(w.PID))
	}
	r.ts.Setenv(args[0], strings.Join(all, " "))
}

// lint wants metrics of these names, soon, and all to be as Prometheus likes them.
func (r *rig) lint(args []string) {
	var text []byte
	for _, want := range args {
		r.until("there is a metric "+want, func() bool {
			text = r.scrape()
			return bytes.Contains(text, []byte("\n"+want))
		})
	}
	problems, err := promlint.New(bytes.NewReader(text)).Lint()
	r.ts.Check(err)
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "lbd_") {
			r.ts.Fatalf("%s: %s", p.Metric, p.Text)
		}
	}
}

func (r *rig) scrape() []byte {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", r.ts.Getenv("LBCTL_ADDR"))
	}
	c := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true, DialContext: dial}}
	res, err := c.Get("http://lbd/metrics")
	r.ts.Check(err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	r.ts.Check(err)
	return text
}

// await CODE ARGS… runs lbctl until it exits so.
func (r *rig) await(args []string) {
	var out strings.Builder
	r.until(fmt.Sprintf("lbctl %v", args), func() bool {
		out.Reset()
		all := scripted(r.ts, args[1:])
		return strconv.Itoa(run(context.Background(), all, strings.NewReader(""), &out, &out)) == args[0]
	})
}

// match TEXT PATTERN… wants ARGS… to be in a remembered text, !ARG not to be.
func (r *rig) match(args []string) {
	for _, want := range args[1:] {
		want, not := strings.CutPrefix(want, "!")
		if strings.Contains(args[0], want) == not {
			r.ts.Fatalf("%q: %v", args[0], args[1:])
		}
	}
}
