package app

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/cluster"
	"github.com/cirque-lb/lb/cmd/lbd/internal/discover"
	"github.com/cirque-lb/lb/cmd/lbd/internal/node"
	"github.com/cirque-lb/lb/cmd/lbd/internal/worker"
	"github.com/cirque-lb/lb/health"
	"github.com/cirque-lb/lb/l4"
)

// fleet is a worker.Fleet in the words of package node. It remembers what was
// applied, for the monitor.
type fleet struct {
	*worker.Fleet

	mu      sync.Mutex // guards what follows
	applied node.Update
}

func (f *fleet) Apply(ctx context.Context, u node.Update) error {
	if err := f.Fleet.Apply(ctx, worker.Update{
		Generation: u.Generation, File: u.File, Document: u.Document, Files: u.Files, Config: u.Config, Drained: u.Drained, Persist: u.Persist, Built: u.Built,
	}); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.applied = u
	return nil
}

func (f *fleet) Adopted() map[string][]byte {
	if u := f.Fleet.Adopted(); u != nil {
		return u.Files
	}
	return nil
}

func (f *fleet) OrderWorker(ctx context.Context, name string, drain bool) error {
	err := f.Fleet.OrderWorker(ctx, name, drain)
	switch {
	case errors.Is(err, worker.ErrNoWorker):
		return node.ErrNoWorker
	case errors.Is(err, worker.ErrLastWorker):
		return node.ErrLastWorker
	}
	return err
}

func (f *fleet) last() node.Update {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.applied
}

func (f *fleet) Crew() []node.Worker {
	crew := f.Fleet.Crew()
	out := make([]node.Worker, len(crew))
	for i, w := range crew {
		out[i] = node.Worker(w)
	}
	return out
}

// monitor is a health.Monitor in the words of package node.
type monitor struct {
	*health.Monitor
	fleet *fleet
	log   *slog.Logger
}

// Update replaces the targets. How a pool speaks TLS is in the configuration
// that the workers were given before.
func (m monitor) Update(targets []node.Target) {
	u := m.fleet.last()
	out := make([]health.Target, len(targets))
	secure := map[string]*tls.Config{} // by pool
	for i, t := range targets {
		out[i] = health.Target{ID: t.ID, Check: t.Check}
		if u.Config == nil {
			continue
		}
		p := u.Config.Pool(t.ID.Pool)
		if p == nil {
			continue
		}
		out[i].Proxy = p.ProxyProtocol != ""
		if p.TLS == nil {
			continue
		}
		if secure[p.Name] == nil {
			c, err := clientTLS(p.TLS, u.Files)
			if err != nil { // the workers have built the same
				m.log.Error("probe over TLS", "pool", p.Name, "err", err)
			}
			secure[p.Name] = c
		}
		out[i].TLS = secure[p.Name]
	}
	m.Monitor.Update(out)
}

// clientTLS is how probes reach a pool's backends over TLS: as requests do. A
// probe knows the name of a backend that the pool does not say.
func clientTLS(t *lb.ClientTLS, files map[string][]byte) (*tls.Config, error) {
	c := &tls.Config{ServerName: t.ServerName, InsecureSkipVerify: t.Insecure}
	if !t.Insecure {
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(files[cmp.Or(t.CA, lb.SystemCAs)]) {
			return c, fmt.Errorf("%s holds no certificate", cmp.Or(t.CA, "the file of the system's CAs"))
		}
	}
	if t.Cert != "" {
		pair, err := tls.X509KeyPair(files[t.Cert], files[t.Key])
		if err != nil {
			return c, fmt.Errorf("%s: %w", t.Cert, err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

func (m monitor) Health() map[lb.BackendID]lb.Health { return m.State() }

func (m monitor) Report() []node.Report {
	details := m.Details()
	out := make([]node.Report, len(details))
	for i, d := range details {
		out[i] = node.Report{ID: d.ID, Health: d.Health, Since: d.Since, Reason: d.Reason, Streak: d.Streak, Probes: d.Probes, Fails: d.Fails,
			Heard: d.Heard, Alone: d.Alone, Others: d.OthersUp + d.OthersDown}
		for _, r := range d.Last {
			out[i].Last = append(out[i].Last, node.Probe(r))
		}
	}
	return out
}

// finder is a discover.Set in the words of package node.
type finder struct{ *discover.Set }

func (f finder) Sources() []node.Source {
	reports := f.Reports()
	out := make([]node.Source, len(reports))
	for i, r := range reports {
		out[i] = node.Source{Name: r.Source, Backends: r.Backends, Answered: r.Answered,
			Failing: r.Failing, Err: r.Err, Asks: r.Asks, Failures: r.Failures}
	}
	return out
}

// gossip is a cluster.Cluster in the words of package node.
type gossip struct{ *cluster.Cluster }

func (g gossip) Peers() []node.Peer {
	members := g.Members()
	out := make([]node.Peer, len(members))
	for i, m := range members {
		out[i] = node.Peer{
			Name: m.Name, Address: m.Address, State: string(m.State), Ready: m.Ready, Listed: m.Listed,
			Weight: m.Weight, View: m.View, Since: m.Since, Self: m.Self,
		}
	}
	return out
}

func (g gossip) Said(part string) []node.Saying {
	said := g.Cluster.Said(part)
	out := make([]node.Saying, len(said))
	for i, s := range said {
		out[i] = node.Saying(s)
	}
	return out
}

func (g gossip) Seal(d node.Document) string { return g.Cluster.Seal(cluster.Document(d)).Seal }

func (g gossip) Offer(seal string, text []byte) error {
	d, err := cluster.OpenDocument(seal, text)
	if err != nil {
		return err
	}
	return g.Cluster.Offer(d)
}

func (g gossip) Document() (node.Document, bool) {
	d, ok := g.Cluster.Document()
	return node.Document(d), ok
}

func (g gossip) Losses() []node.Document {
	var out []node.Document
	for _, d := range g.Cluster.Losses() {
		out = append(out, node.Document(d))
	}
	return out
}

// clusterKeys reads cluster.key_file; none without.
func clusterKeys(c *lb.ClusterSettings) ([]cluster.Key, error) {
	if c == nil || c.KeyFile == "" {
		return nil, nil
	}
	text, err := os.ReadFile(c.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("cluster.key_file: %w", err)
	}
	keys, err := cluster.ParseKeys(text)
	if err != nil {
		return nil, fmt.Errorf("cluster.key_file %s: %w", c.KeyFile, err)
	}
	return keys, nil
}

// ticketSecrets are those of a cluster, so that all its nodes have the same.
func ticketSecrets(keys []cluster.Key) [][]byte {
	var secrets [][]byte
	for _, k := range keys {
		secrets = append(secrets, k.TicketSecret())
	}
	return secrets
}

// openCluster joins nobody yet. note is told of members and epochs.
func openCluster(c *lb.Config, keys []cluster.Key, boot lb.BootID, log *slog.Logger, note func(lb.Event)) (*cluster.Cluster, error) {
	return cluster.Open(cluster.Options{
		Name: c.Cluster.Name,
		Self: lb.Member{Name: c.Node.Name, Boot: boot, Address: c.Node.Address, Weight: worker.Slots(c.Workers)},
		Bind: c.Cluster.Bind, Join: c.Cluster.Join, Keys: keys,
		StateFile: filepath.Join(c.Node.RunDir, "epochs.json"), IdentityFile: filepath.Join(c.Node.DataDir, "identity.json"), Log: log, Notify: note,
	})
}

// datapath is an l4.Datapath in the words of package node.
type datapath struct {
	*l4.Datapath

	mu   sync.Mutex // guards last
	last lb.Steering
}

func (d *datapath) Apply(s lb.Steering) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last = s
	return d.Datapath.Apply(s)
}

// release takes our listening sockets out of the datapath, which outlives us:
// what listens on these ports later must get its connections from the kernel.
func (d *datapath) release() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last.Binds = nil
	return d.Datapath.Apply(d.last)
}

func pathOptions(c *lb.Config) l4.Options {
	return l4.Options{
		Mode: c.Fastpath.Mode, Required: c.Fastpath.Required, Interfaces: c.Fastpath.Interfaces,
		Pins: c.Fastpath.Pins, Address: c.Node.Address, RunDir: c.Node.RunDir,
	}
}

// Holdings lists the earlier epochs that connections here need.
func (d *datapath) Holdings() ([]node.Holding, error) {
	held, _, err := d.Datapath.Holdings()
	out := make([]node.Holding, len(held))
	for i, h := range held {
		out[i] = node.Holding{Epoch: h.Epoch, Flows: h.Flows}
		for _, f := range h.Some {
			out[i].Clients = append(out[i].Clients, f.Src)
		}
	}
	return out, err
}

// Destroy closes the connections that need an epoch.
func (d *datapath) Destroy(epoch uint64) (int, error) {
	held, _, err := d.Datapath.Holdings()
	if err != nil {
		return 0, err
	}
	for _, h := range held {
		if h.Epoch == epoch {
			return d.Datapath.Destroy(h.Some)
		}
	}
	return 0, nil
}

// Fastpath says how packets are steered, and why not better.
func (d *datapath) Fastpath() node.Fastpath {
	r := d.Report()
	f := node.Fastpath{Mode: string(r.Mode()), Interfaces: map[string]string{}, Problems: r.Problems}
	var reasons []string
	for _, i := range r.Interfaces {
		f.Interfaces[i.Name] = string(i.Mode)
		if i.Why != "" {
			reasons = append(reasons, i.Name+": "+i.Why)
		}
	}
	switch {
	case len(r.Interfaces) == 0 && r.Sockets.Steered:
		f.Mode = "sk_lookup"
		reasons = append(reasons, "fastpath.interfaces is empty")
	case r.Sockets.Why != "":
		reasons = append(reasons, r.Sockets.Why)
	}
	f.Reason = strings.Join(reasons, "; ")
	return f
}

func (d *datapath) Explain(t lb.Tuple) node.Path {
	e := d.Datapath.Explain(t)
	p := node.Path{Row: e.Row, Slot: e.Slot, Why: e.Why}
	if e.VIP != nil {
		p.VIP = e.VIP.String()
	}
	if p.Service = e.Service; e.Backend.IsValid() {
		p.Backend = e.Backend.String()
	}
	for _, hop := range e.Chain {
		p.Chain = append(p.Chain, hop.Name)
	}
	return p
}
