package app

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/cmd/internal/admin"
	"github.com/cirque-lb/lb/cmd/lbd/internal/node"
)

// statusOf puts a node's state in the words of the admin API.
func statusOf(s *node.Snapshot, stats lb.Stats, reports []node.Report, packets []lb.Sample) admin.Status {
	backends := backendsOf(s, stats, reports)
	out := admin.Status{
		Node: s.Name, Version: s.Version, Started: s.Started, State: stateOf(s),
		Generation: s.Generation.String(), Since: s.Since, Trial: trialOf(s.Trial), Owner: string(s.Owner), File: s.File,
		Fastpath: fastpathOf(s), Connections: stats.Connections, Requests: stats.Requests,
		Listeners: listenersOf(s, stats), Routes: routesOf(s.Config), Pools: poolsOf(s, backends), Sources: sourcesOf(s),
		Workers: workersOf(s), Nodes: nodesOf(s, stats),
		Problems: []admin.Problem{}, Notes: s.Notes,
	}
	out.Services = servicesOf(s.Config, out.Pools, packets)
	if !s.Edition.IsZero() {
		out.Document = s.Edition.String()
	}
	for _, p := range s.Problems {
		out.Problems = append(out.Problems, admin.Problem(p))
	}
	out.Problems = append(out.Problems, backendProblems(out.Pools, backends)...)
	if out.Notes == nil {
		out.Notes = []string{}
	}
	return out
}

func stateOf(s *node.Snapshot) string {
	switch {
	case !s.Serving:
		return "starting"
	case s.Drain.Empty:
		return "empty"
	case s.Drain.Draining:
		return "draining"
	case !s.Ready:
		return "not ready"
	}
	return "serving"
}

func fastpathOf(s *node.Snapshot) admin.Fastpath {
	f := admin.Fastpath{
		Wanted: string(s.Config.Fastpath.Mode), Mode: s.Fastpath.Mode, Interfaces: s.Fastpath.Interfaces,
		Reason: s.Fastpath.Reason, View: lb.View(s.Epochs),
	}
	if len(s.Epochs) > 0 {
		f.Epoch = fmt.Sprintf("%d@%s", s.Epochs[0].Counter, s.Epochs[0].Origin)
	}
	return f
}

func listenersOf(s *node.Snapshot, stats lb.Stats) []admin.Listener {
	requests := sumBy(stats.Samples, "lbd_requests_total", "listener")
	connections := sumBy(stats.Samples, "lbd_connections", "listener")
	all := make([]admin.Listener, 0, len(s.Config.Listeners))
	for _, l := range s.Config.Listeners {
		a := admin.Listener{
			Name: l.Name, Bind: l.Bind.String(), Protocol: string(l.Protocol), Scope: "local",
			Requests: requests[l.Name], Connections: connections[l.Name],
		}
		if slices.Contains(s.VIPs, lb.VIP{Addr: l.Bind.Addr(), Port: l.Bind.Port(), Protocol: lb.TCP}) {
			a.Scope = "vip"
		}
		for _, b := range s.Sockets {
			if b.Bind == l.Bind {
				a.Slots, a.Live = len(b.Live), count(b.Live)
			}
		}
		_, a.Drain = s.ListenerDrain(l.Name)
		all = append(all, a)
	}
	return all
}

func count(live []bool) int {
	n := 0
	for _, l := range live {
		if l {
			n++
		}
	}
	return n
}

// sumBy adds up a metric by the value of one of its labels.
func sumBy(samples []lb.Sample, name, label string) map[string]float64 {
	sums := map[string]float64{}
	for _, s := range samples {
		if s.Name != name {
			continue
		}
		for i := 0; i+1 < len(s.Labels); i += 2 {
			if s.Labels[i] == label {
				sums[s.Labels[i+1]] += s.Value
			}
		}
	}
	return sums
}

func routesOf(c *lb.Config) []admin.Route {
	all := make([]admin.Route, 0, len(c.Routes))
	for i, r := range c.Routes {
		all = append(all, admin.Route{Index: i + 1, Line: r.Line, Match: matchText(r.Match), Filters: filterNames(r), Target: targetText(r)})
	}
	return all
}

func filterNames(r *lb.Route) []string {
	var names []string
	for _, f := range r.Filters {
		names = append(names, f.Name)
	}
	return names
}

// matchText is a match in one line, as an operator would say it.
func matchText(m lb.Match) string {
	var parts []string
	list := func(what string, values []string) {
		if len(values) > 0 {
			parts = append(parts, what+" "+strings.Join(values, "|"))
		}
	}
	list("listener", m.Listener)
	list("host", m.Host)
	if m.Path != "" {
		parts = append(parts, "path "+m.Path)
	}
	list("method", m.Method)
	for _, p := range []struct {
		what string
		of   map[string]string
	}{{"header", m.Header}, {"query", m.Query}} {
		for _, name := range sortedKeys(p.of) {
			parts = append(parts, fmt.Sprintf("%s %s=%s", p.what, name, p.of[name]))
		}
	}
	if parts == nil {
		return "everything"
	}
	return strings.Join(parts, ", ")
}

func sortedKeys(m map[string]string) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func targetText(r *lb.Route) string {
	switch {
	case r.Redirect != nil:
		return fmt.Sprintf("redirect %d", r.Redirect.Status)
	case r.Respond != nil:
		return fmt.Sprintf("respond %d", r.Respond.Status)
	case len(r.Split) > 0:
		parts := []string{"split"}
		for _, w := range r.Split {
			parts = append(parts, fmt.Sprintf("%s:%d", w.Pool, w.Weight))
		}
		return strings.Join(parts, " ")
	}
	return "pool " + r.Pool
}

// servicesOf lists the L4 services with how many backends may take flows.
func servicesOf(c *lb.Config, pools []admin.Pool, packets []lb.Sample) []admin.Service {
	all := make([]admin.Service, 0, len(c.Services))
	for _, v := range c.Services {
		one := admin.Service{Name: v.Name, Bind: v.Bind.String(), Protocol: v.Protocol, Forward: v.Forward, Affinity: v.Affinity, Pool: v.Pool}
		for _, p := range pools {
			if p.Name == v.Pool {
				one.Backends, one.Usable = p.Backends, p.Usable
			}
		}
		one.Members = membersOf(v.Name, packets)
		for _, m := range one.Members {
			one.Packets, one.Bytes, one.Connections = one.Packets+m.Packets, one.Bytes+m.Bytes, one.Connections+m.Connections
		}
		all = append(all, one)
	}
	return all
}

// membersOf gathers what the datapath says of each backend of a service.
func membersOf(service string, packets []lb.Sample) []admin.ServiceMember {
	members := []admin.ServiceMember{}
	at := map[string]int{}
	for _, x := range packets {
		if !strings.HasPrefix(x.Name, "lbd_service_") || labelOf(x, "service") != service {
			continue
		}
		address := labelOf(x, "backend")
		i, known := at[address]
		if !known {
			i, at[address] = len(members), len(members)
			members = append(members, admin.ServiceMember{Address: address})
		}
		switch x.Name {
		case "lbd_service_packets_total":
			members[i].Packets = x.Value
		case "lbd_service_bytes_total":
			members[i].Bytes = x.Value
		case "lbd_service_connections_total":
			members[i].Connections = x.Value
		case "lbd_service_share":
			members[i].Share = x.Value
		}
	}
	return members
}

// sourcesOf lists where pools find backends, with the pools of each.
func sourcesOf(s *node.Snapshot) []admin.Source {
	all := make([]admin.Source, 0, len(s.Sources))
	of := map[string][]string{}
	for _, p := range s.Config.Pools {
		if p.Discover != nil {
			of[p.Discover.String()] = append(of[p.Discover.String()], p.Name)
		}
	}
	for _, src := range s.Sources {
		one := admin.Source{Name: src.Name, Pools: of[src.Name], Backends: src.Backends, Answered: src.Answered, Failing: src.Failing}
		if one.Pools == nil {
			one.Pools = []string{} // a change that is under way asks it
		}
		if src.Err != nil {
			one.Error = src.Err.Error()
		}
		all = append(all, one)
	}
	return all
}

func workersOf(s *node.Snapshot) []admin.Worker {
	all := make([]admin.Worker, 0, len(s.Crew))
	for _, w := range s.Crew {
		all = append(all, admin.Worker{
			Name: fmt.Sprintf("%d.%d", w.Crew, w.Index), PID: w.PID, State: w.State, Slots: append([]int{}, w.Slots...), Connections: w.Connections, Generation: w.Generation,
			Version: w.Version, Since: w.Since, Restarts: w.Restarts, Adopted: w.Adopted, Detail: w.Detail,
		})
	}
	return all
}

// nodesOf lists the cluster; a node without one is a list of one.
func nodesOf(s *node.Snapshot, stats lb.Stats) []admin.Node {
	here := stats.Connections
	self := admin.Node{Name: s.Name, Self: true, State: stateOf(s), Ready: s.Ready, Listed: true, Weight: s.Weight, InSync: true, Connections: &here}
	if s.Config.Node.Address.IsValid() {
		self.Address = s.Config.Node.Address.String()
	}
	if !s.Clustered {
		return []admin.Node{self}
	}
	view, own := lb.View(s.Epochs), s.Standings[s.Name]
	self.View = view
	standing(&self, own)
	all := make([]admin.Node, 0, len(s.Peers))
	for _, p := range s.Peers {
		if p.Self {
			self.Listed, self.Since = p.Listed, p.Since
			all = append(all, self)
			continue
		}
		one := admin.Node{
			Name: p.Name, Address: p.Address.String(), State: peerState(p), Ready: p.Ready, Listed: p.Listed,
			Weight: p.Weight, View: p.View, InSync: p.View == view, Since: p.Since,
		}
		if theirs, said := s.Standings[p.Name]; said {
			one.Differs = differs(theirs, own, one.InSync)
			one.InSync = p.State == "alive" && one.Differs == "" && theirs.Drift == nil
			standing(&one, theirs)
		}
		all = append(all, one)
	}
	return all
}

// differs says what a peer has otherwise than we: its current epoch, or its objects.
// Views differ a while longer: each node forgets earlier epochs when it needs them no
// more.
func differs(theirs, own node.Standing, views bool) string {
	epochs := views
	if theirs.Epoch != 0 && own.Epoch != 0 { // older nodes do not say it
		epochs = theirs.Epoch == own.Epoch
	}
	switch {
	case !epochs:
		return "epoch"
	case theirs.Objects != own.Objects:
		return "objects"
	}
	return ""
}

// standing fills in what a node says of its configuration.
func standing(n *admin.Node, s node.Standing) {
	if s.Runs.IsZero() {
		return
	}
	n.Generation = s.Runs.String()
	if !s.Document.IsZero() {
		n.Document = s.Document.String()
	}
	if s.Drift != nil {
		n.Drift, n.InSync = &admin.Drift{Document: s.Drift.Document.String(), Text: s.Drift.Text}, false
	}
}

// peerState is what we know of a peer from afar.
func peerState(p node.Peer) string {
	switch {
	case p.State != "alive":
		return p.State
	case !p.Ready:
		return "not ready"
	case p.Weight == 0:
		return "draining"
	}
	return "serving"
}
