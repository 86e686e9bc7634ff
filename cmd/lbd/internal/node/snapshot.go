package node

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cirque-lb/lb"
)

// Snapshot is a node's state at one moment. Nothing in it is ever changed.
type Snapshot struct {
	running running

	Version    string
	Started    time.Time
	Serving    bool // the first configuration is applied
	Name       string
	Generation Generation
	Since      time.Time // of the generation
	Owner      Owner
	File       string
	Config     *lb.Config
	Overlay    Overlay
	State      lb.State // what the workers act on
	Ready      bool
	Weight     int
	Drain      DrainStatus

	EmptyListeners  map[string]bool // those that drain and have no connection left
	ClosedListeners map[string]bool // those that drain and have no sockets
	Reload          Reload
	Trial           *Trial   // of the generation; nil: it stays
	Sources         []Source // of discovered backends

	Crew      []Worker
	Sockets   []lb.SteeredBind
	VIPs      []lb.VIP
	Edition   Generation // of the document; zero: the file owns
	Drift     *Drift     // the cluster's document that cannot be built here
	Standings map[string]Standing
	Epochs    []lb.Epoch
	Peers     []Peer
	Clustered bool
	Fastpath  Fastpath

	Problems []Problem // what is broken and an operator can mend, but for backends
	Notes    []string  // modes that were chosen or are all this host can do
}

// DrainStatus is how far this node is with leaving.
type DrainStatus struct {
	Draining bool
	Empty    bool
	Overdue  bool
	Since    time.Time
	Timeout  time.Duration
}

// Problem is one reason for being degraded, with the next thing to do.
type Problem struct {
	Subject string
	Text    string
	Do      string
}

// Snapshot is the state as run published it last.
func (n *Node) Snapshot() *Snapshot { return n.snapshot.Load() }

// publish stores what readers see. Called by run, and once by New.
func (n *Node) publish(d Decision) {
	c := n.running.config
	s := &Snapshot{
		running: n.running, Version: n.o.Version, Started: n.started, Serving: n.told != nil,
		Name: n.booted.Node.Name, Generation: n.running.generation, Since: n.running.since,
		Owner: n.running.owner, File: n.running.file, Config: c,
		Overlay: n.overlay, State: d.State, Ready: d.Ready, Weight: d.Weight, Reload: n.reload, Trial: n.running.trial,
		Drain:          DrainStatus{n.drain.done != nil, n.drain.empty, n.drain.overdue, n.drain.since, c.Drain.Timeout},
		EmptyListeners: n.listeners.are((*listenerDrain).isEmpty), ClosedListeners: n.listeners.are((*listenerDrain).isClosed),
		VIPs: d.Steering.VIPs, Sockets: d.Steering.Binds, Fastpath: n.fastpath(),
	}
	if n.running.owner == OwnedDocument {
		s.Edition = n.running.edition.Generation
	}
	if s.Serving {
		s.Crew = n.o.Fleet.Crew()
	}
	if n.o.Cluster != nil {
		s.Clustered, s.Epochs, s.Peers = true, n.o.Cluster.Epochs(), n.o.Cluster.Peers()
		s.Drift, s.Standings = n.replica.drift, standings(n.o.Cluster)
	}
	if n.o.Discovery != nil {
		s.Sources = n.o.Discovery.Sources()
	}
	ended, ending := ends(n.running.pairs, n.o.Now())
	s.Problems = slices.Concat(n.own(), ended, sourceProblems(s.Sources, n.finding), crewProblems(s), clusterProblems(s), documentProblems(s))
	s.Notes = append(n.notes(d, s), ending...)
	n.snapshot.Store(s)
}

// own lists the troubles of configuration, disk and datapath.
func (n *Node) own() []Problem {
	var all []Problem
	add := func(subject, text, do string) { all = append(all, Problem{subject, text, do}) }
	if !n.reload.OK && n.reload.Text != "" {
		add("config", fmt.Sprintf("%s is refused, so generation %s runs: %s", n.running.file, n.running.generation, firstLine(n.reload.Text)),
			"mend the file and send SIGHUP or run `lbctl config reload`")
	}
	for _, line := range n.loading {
		add("data_dir", line, "look at "+n.store.dir)
	}
	for _, line := range n.troubles.files {
		add("files", line, "mend the file: it is read again when it changes")
	}
	if n.saving != nil {
		add("data_dir", "the running configuration is not kept: "+n.saving.Error(), writeHint)
	}
	if n.disk.err != nil {
		add("data_dir", "changes and orders are refused: "+n.disk.err.Error(), writeHint)
	}
	if n.unreverted != nil {
		add("config", fmt.Sprintf("generation %s was not confirmed and cannot be taken back: %s", n.running.generation, firstLine(n.unreverted.Error())),
			"mend that; it is tried again by itself. Or `lbctl config confirm`")
	}
	if n.scan != nil {
		add("host", n.scan.Error(), "")
	}
	if n.paths.err != nil {
		add("fastpath", "apply to the datapath: "+n.paths.err.Error(), "run `lbctl doctor`; it is tried again every few seconds")
	}
	for _, line := range n.fastpath().Problems {
		add("fastpath", line, "run `lbctl doctor`")
	}
	return all
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

func crewProblems(s *Snapshot) []Problem {
	if !s.Serving {
		return nil
	}
	var all []Problem
	for _, w := range s.Crew {
		if w.State == "down" || w.State == "stuck" {
			all = append(all, Problem{fmt.Sprintf("worker %d.%d", w.Crew, w.Index),
				strings.TrimSpace(fmt.Sprintf("is %s %s", w.State, w.Detail)), "look at the log; it is started again by itself"})
		}
	}
	if slots, live := slots(s.Sockets); slots > 0 && live == 0 {
		all = append(all, Problem{"workers", "no slot takes new connections", "look at the log"})
	}
	return all
}

func clusterProblems(s *Snapshot) []Problem {
	if !s.Clustered {
		return nil
	}
	var all []Problem
	met := false // somebody is here, or was and said good-bye
	for _, p := range s.Peers {
		if !p.Self {
			met = met || p.State == "alive" || p.State == "left"
		}
		if p.State == "dead" || p.State == "suspect" {
			all = append(all, Problem{"node " + p.Name, "does not answer gossip", "look at that host, the network between and its cluster.key_file"})
		}
	}
	if seeds := otherSeeds(s.Config.Cluster); !met && len(seeds) > 0 {
		all = append(all, Problem{"cluster", "none of " + strings.Join(seeds, ", ") + " is here",
			"check that they run, the network and cluster.key_file; they are dialled for ever"})
	}
	return all
}

// otherSeeds are those of cluster.join that are not this node: every node may
// have the same list.
func otherSeeds(c *lb.ClusterSettings) []string {
	if c == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(c.Join), func(s string) bool { return s == c.Bind.String() })
}

// notes are lines of the status that are no problems.
func (n *Node) notes(d Decision, s *Snapshot) []string {
	notes := slices.Clone(d.Notes)
	if s.Fastpath.Reason != "" {
		notes = append(notes, fmt.Sprintf("fast path %s: %s", s.Fastpath.Mode, s.Fastpath.Reason))
	}
	if s.Owner == OwnedDocument && len(strings.TrimSpace(string(lb.Objects(n.running.settings)))) > 0 {
		notes = append(notes, fmt.Sprintf("the objects in %s are not used: `lbctl config adopt` moved them to the document", s.File))
	}
	if t := s.Trial; t != nil {
		notes = append(notes, fmt.Sprintf("generation %s is on trial: %s returns at %s unless `lbctl config confirm` keeps it", s.Generation, t.Back, clock(t.Until)))
	}
	if s.Serving {
		notes = append(notes, n.o.Fleet.Notes()...)
	}
	return append(notes, restartNotes(n.booted, s.Config)...)
}
