package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7/certtest"
)

// lab is a node with fakes around it, in a bubble with its own clock.
type lab struct {
	t       *testing.T
	dir     string
	file    string
	diary   *diary
	fleet   *fakeFleet
	monitor *fakeMonitor
	path    *fakeDatapath
	cluster *fakeCluster
	finder  *fakeDiscovery
	clock   atomic.Int64 // by how much the wall clock was set
	node    *Node
	state   *State
	stop    func()
}

func TestNodeFollowsTheTranscripts(t *testing.T) {
	transcripts(t, "testdata/node", func(t *testing.T, script func(func(command) string)) {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			l := &lab{t: t, dir: dir, file: filepath.Join(dir, "lbd.yaml"), diary: &diary{}}
			// Its answers are the world's, not the node's.
			l.finder = &fakeDiscovery{diary: l.diary, changed: make(chan struct{}, 1), found: map[string][]lb.Backend{}, failing: map[string]error{}}
			script(l.run)
			l.halt()
		})
	})
}

// run carries out one command and gives what everybody was told meanwhile.
func (l *lab) run(c command) string {
	l.t.Helper()
	answer := l.command(c.words[0], c.words[1:], c.body)
	synctest.Wait()
	answer += l.diary.take()
	answer = strings.ReplaceAll(answer, l.dir, "DIR")
	return answer
}

func (l *lab) command(name string, args []string, body string) string {
	ctx := l.t.Context()
	asked := Asked{By: "test", Match: option(args, "match"), Dry: option(args, "dry") != ""}
	if c := option(args, "confirm"); c != "" {
		asked.Confirm, _ = time.ParseDuration(c)
	}
	switch name {
	case "file":
		body = strings.ReplaceAll(body, "DIR", l.dir)
		if err := os.WriteFile(l.file, []byte(body), 0o600); err != nil {
			l.t.Fatal(err)
		}
	case "write":
		if err := os.WriteFile(filepath.Join(l.dir, args[0]), []byte(body), 0o600); err != nil {
			l.t.Fatal(err)
		}
	case "certificate": // for a name, good for so long from the bubble's now
		l.certificate(args[0], args[1])
	case "certificates":
		for _, c := range l.node.Snapshot().Certificates() {
			l.diary.add("%s %s default %v, %v, %s", c.Where(), c.Title(), c.Default, c.Names, time.Until(c.NotAfter).Round(time.Hour))
		}
	case "counts":
		for _, s := range l.node.Samples() {
			if strings.HasPrefix(s.Name, args[0]) {
				l.diary.add("%s%v %v", s.Name, s.Labels, s.Value)
			}
		}
	case "rm":
		os.RemoveAll(filepath.Join(l.dir, args[0]))
	case "start", "start-alone", "start-cluster":
		return l.start(name)
	case "halt":
		l.halt()
	case "reload":
		return l.applied(l.node.Reload(ctx, asked))
	case "apply":
		return l.applied(l.node.Apply(ctx, []byte(body), "new.yaml", asked))
	case "confirm":
		return l.applied(l.node.Confirm(ctx, asked))
	case "release":
		return l.applied(l.node.Release(ctx, option(args, "discard") != "", asked))
	case "found":
		l.finder.say(strings.ReplaceAll(args[0], "_", " "), nil, args[1:]...)
	case "unfound":
		l.finder.say(strings.ReplaceAll(args[0], "_", " "), errors.New(strings.Join(args[1:], " ")))
	case "diff":
		changes, err := l.node.Diff(ctx, []byte(strings.ReplaceAll(body, "DIR", l.dir)), "new.yaml")
		return l.applied(Applied{Changes: changes, Generation: l.node.Snapshot().Generation}, err)
	case "adopt":
		return l.applied(l.node.Adopt(ctx, asked))
	case "rollback":
		return l.applied(l.node.Rollback(ctx, args[0], asked))
	case "edit":
		e := BackendEdit{Action: args[0], ID: backendID(args[1])}
		if w := option(args, "weight"); w != "" {
			n, _ := strconv.Atoi(w)
			e.Weight = &n
		}
		return l.applied(l.node.EditBackend(ctx, e, asked))
	case "order":
		return l.order(args, asked)
	case "drain", "undrain":
		return failure(l.node.OrderNode(ctx, plain(args), name == "drain", asked))
	case "drain-listener", "undrain-listener":
		return failure(l.node.OrderListener(ctx, args[0], name == "drain-listener", asked))
	case "drain-worker", "undrain-worker":
		return failure(l.node.OrderWorker(ctx, args[0], name == "drain-worker", asked))
	case "leave":
		go func() { l.diary.add("left: %v", l.node.Leave(ctx)) }()
	case "upgrade":
		return failure(l.node.Upgrade(ctx, args[0], asked))
	case "refuse":
		l.fleet.set(func() { l.fleet.refuse = strings.Join(args, " ") })
	case "live":
		l.fleet.set(func() {
			for i, c := range args[0] {
				l.fleet.live[i] = c == '1'
			}
		})
	case "connections":
		n, _ := strconv.Atoi(args[0])
		l.fleet.set(func() {
			l.fleet.stats.Connections = n
			l.fleet.stats.Samples = []lb.Sample{{Name: "lbd_connections", Labels: []string{"listener", "web"}, Gauge: true, Value: float64(n)}}
		})
	case "busy":
		n, _ := strconv.Atoi(args[1])
		l.fleet.set(func() { l.fleet.stats.Backends = []lb.BackendLoad{{ID: backendID(args[0]), Active: n}} })
	case "health":
		h := lb.Unknown
		h.UnmarshalText([]byte(args[1]))
		l.monitor.set(backendID(args[0]), h)
		l.node.Note(lb.Event{Kind: "backend." + args[1], Subject: args[0]})
	case "datapath":
		var err error
		if args[0] != "ok" {
			err = errors.New(strings.Join(args, " "))
		}
		l.path.set(err)
	case "epoch":
		l.cluster.mu.Lock()
		l.cluster.epochs = []lb.Epoch{epoch(args)}
		l.cluster.mu.Unlock()
		l.cluster.changed <- struct{}{}
	case "peer-edit":
		var g Generation
		if err := g.UnmarshalText([]byte(args[0])); err != nil {
			l.t.Fatal(err)
		}
		l.cluster.edit(g, strings.ReplaceAll(body, "DIR", l.dir), option(args, "apart") != "")
	case "peer-says":
		l.cluster.mu.Lock()
		l.cluster.said[args[0]] = []byte(strings.TrimSpace(body))
		l.cluster.mu.Unlock()
		l.cluster.changed <- struct{}{}
	case "set-clock": // by so much; the monotonic one goes on
		d, err := time.ParseDuration(args[0])
		if err != nil {
			l.t.Fatal(err)
		}
		l.clock.Add(int64(d))
	case "wait":
		d, err := time.ParseDuration(args[0])
		if err != nil {
			l.t.Fatal(err)
		}
		time.Sleep(d) // the bubble's clock
	case "status":
		return l.status()
	case "history":
		return l.history()
	case "show":
		text, g, err := l.node.Document(strings.Join(args, ""))
		return fmt.Sprintf("%s\n%s%s", g, text, failure(err))
	case "events":
		return l.events()
	default:
		l.t.Fatalf("no command %q", name)
	}
	return ""
}

// plain is the first argument that is no option.
func plain(args []string) string {
	for _, a := range args {
		if !strings.Contains(a, "=") {
			return a
		}
	}
	return ""
}

// certificate writes NAME.pem and NAME.key.
func (l *lab) certificate(name, good string) {
	d, err := time.ParseDuration(good)
	if err != nil {
		l.t.Fatal(err)
	}
	if err := certtest.SelfSigned(d, name+".example").Write(l.dir, name); err != nil {
		l.t.Fatal(err)
	}
}

func option(args []string, name string) string {
	for _, a := range args {
		if a == name {
			return name
		}
		if v, ok := strings.CutPrefix(a, name+"="); ok {
			return v
		}
	}
	return ""
}

func (l *lab) start(how string) string {
	l.fleet = newFakeFleet(l.diary)
	l.monitor = &fakeMonitor{diary: l.diary, health: map[lb.BackendID]lb.Health{}}
	l.path = &fakeDatapath{diary: l.diary}
	if l.cluster == nil { // the other node remembers
		l.cluster = &fakeCluster{diary: l.diary, changed: make(chan struct{}, 1), said: map[string][]byte{}, saying: map[string][]byte{}}
	}
	l.cluster.epochs = nil
	state, err := Load(l.file, nil)
	if err != nil {
		return failure(err)
	}
	o := Options{
		Now:   l.now,
		State: state, Fleet: l.fleet, Monitor: l.monitor, Discovery: l.finder, Log: slog.New(slog.DiscardHandler),
		Addresses: func() ([]netip.Addr, error) { return []netip.Addr{netip.MustParseAddr("10.0.0.11")}, nil },
	}
	if how != "start-alone" {
		o.Datapath = l.path
	} else {
		o.DatapathError = errors.New("needs CAP_BPF")
	}
	if how == "start-cluster" {
		o.Cluster = l.cluster
	}
	l.state = state
	if l.node, err = New(o); err != nil {
		state.Close()
		return failure(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.node.Run(ctx) }()
	l.stop = func() { cancel(); <-ended; state.Close() }
	synctest.Wait()
	select {
	case err := <-ended:
		ended <- err
		l.halt()
		return failure(err)
	default:
	}
	return ""
}

// now has the wall clock that the script set, and a monotonic one as time.Now has
// outside of a bubble: package time offers no such thing, so it is made by hand.
func (l *lab) now() time.Time {
	t := time.Now()
	wall := t.Unix() + l.clock.Load()/int64(time.Second) - time.Date(1885, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
	raw := (*struct {
		wall uint64
		ext  int64
	})(unsafe.Pointer(&t))
	raw.wall, raw.ext = 1<<63|uint64(wall)<<30|uint64(t.Nanosecond()), t.UnixNano()-time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano()
	return t
}

func (l *lab) halt() {
	if l.stop != nil {
		l.stop()
		l.stop = nil
	}
}

func failure(err error) string {
	if err == nil {
		return ""
	}
	text := "error: " + err.Error() + "\n"
	if e := (*Error)(nil); errors.As(err, &e) && e.Hint != "" {
		text += "hint: " + e.Hint + "\n"
	}
	return text
}

func (l *lab) applied(a Applied, err error) string {
	if err != nil {
		return failure(err)
	}
	text := fmt.Sprintf("generation %s changed %v\n", a.Generation, a.Changed)
	for _, c := range a.Changes {
		text += "  " + c.String() + "\n"
		if c.Breaks != "" {
			text += "    breaks: " + c.Breaks + "\n"
		}
	}
	for _, n := range a.Notes {
		text += "  note: " + n + "\n"
	}
	if a.Trial != nil {
		text += "  on trial: " + a.Trial.Back.String() + " returns\n"
	}
	for _, v := range a.Nodes {
		text += strings.TrimRight(fmt.Sprintf("  %s %s %s", v.Node, v.State, v.Detail), " ") + "\n"
	}
	return text
}

func (l *lab) order(args []string, asked Asked) string {
	o := BackendOrder{ID: backendID(args[1])}
	yes, no := true, false
	switch args[0] {
	case "drain":
		o.Drain = &yes
	case "undrain":
		o.Drain, o.Disable = &no, &no
	case "disable":
		o.Disable = &yes
	case "weight":
		w, _ := strconv.Atoi(args[2])
		o.Weight = &w
	}
	return failure(l.node.OrderBackend(l.t.Context(), o, asked))
}

func (l *lab) status() string {
	s := l.node.Snapshot()
	text := fmt.Sprintf("generation %s owner %s ready %v draining %v empty %v overdue %v\n",
		s.Generation, s.Owner, s.Ready, s.Drain.Draining, s.Drain.Empty, s.Drain.Overdue)
	for _, p := range s.Problems {
		text += fmt.Sprintf("problem %s: %s (%s)\n", p.Subject, p.Text, p.Do)
	}
	for _, n := range s.Notes {
		text += "note " + n + "\n"
	}
	return text
}

func (l *lab) history() string {
	var text string
	for _, p := range l.node.History() {
		text += fmt.Sprintf("%s %s by %s owner %s current %v %s\n", p.Generation, p.Action, p.By, p.Owner, p.Current, p.Trouble)
		if !p.Lost.IsZero() {
			text += "  lost to " + p.Lost.String() + "\n"
		}
	}
	return text
}

func (l *lab) events() string {
	var text string
	list, _ := l.node.Events(0)
	for _, e := range list {
		text += fmt.Sprintf("%d %s %s %s\n", e.Seq, e.Kind, e.Subject, e.Detail)
	}
	return text
}
