package app

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/cmd/internal/admin"
	"github.com/cirque-lb/lb/cmd/lbd/internal/node"
)

// backendsOf lists every backend of every pool: what the document says, what
// is observed, what operators ordered, what is in progress.
func backendsOf(s *node.Snapshot, stats lb.Stats, reports []node.Report) []admin.Backend {
	loads := loadsOf(stats)
	probed := map[lb.BackendID]node.Report{}
	for _, r := range reports {
		probed[r.ID] = r
	}
	all := []admin.Backend{}
	for _, p := range s.Config.Pools {
		for _, b := range p.Backends {
			id := b.ID(p.Name)
			all = append(all, backendOf(b, id, s.State.Health[id], s.Overlay.Backends[id], loads[id], probed[id]))
		}
	}
	return all
}

// backendsIn lists those of one pool.
func backendsIn(pool string, s *node.Snapshot, stats lb.Stats, reports []node.Report) []admin.Backend {
	return slices.DeleteFunc(backendsOf(s, stats, reports), func(b admin.Backend) bool { return b.Pool != pool })
}

// loadsOf adds up what the workers say of each backend.
func loadsOf(stats lb.Stats) map[lb.BackendID]lb.BackendLoad {
	loads := map[lb.BackendID]lb.BackendLoad{}
	for _, l := range stats.Backends {
		sum := loads[l.ID]
		sum.ID = l.ID
		sum.Active += l.Active
		sum.Connections += l.Connections
		sum.Requests += l.Requests
		sum.Failures += l.Failures
		sum.Latency = sum.Latency.Add(l.Latency)
		if l.Ejected != nil && (sum.Ejected == nil || l.Ejected.Until.After(sum.Ejected.Until)) {
			sum.Ejected = l.Ejected
		}
		loads[l.ID] = sum
	}
	return loads
}

func backendOf(b *lb.Backend, id lb.BackendID, h lb.Health, a lb.Admin, l lb.BackendLoad, r node.Report) admin.Backend {
	out := admin.Backend{
		ID: id.String(), Pool: id.Pool, Address: id.Address, Health: h.String(), State: backendState(h, a, l),
		Weight: b.Weight, Configured: b.Weight, Backup: b.Backup, Discovered: b.Found, Drain: a.Drain, Disable: a.Disable,
		Active: l.Active, Connections: l.Connections, Requests: l.Requests, Failures: l.Failures,
		Check: r.Detail(), Since: r.Since, Alone: r.Alone,
	}
	if len(r.Last) > 0 {
		out.Took = r.Last[0].Took
	}
	if e := l.Ejected; e != nil {
		out.Ejected = &admin.Ejection{Since: e.Since, Until: e.Until, Reason: string(e.Reason), Times: e.Times}
	}
	if a.Weight != nil {
		out.Weight = *a.Weight
	}
	return out
}

func backendState(h lb.Health, a lb.Admin, l lb.BackendLoad) string {
	switch {
	case a.Disable:
		return "disabled"
	case a.Drain && l.Active > 0:
		return "draining"
	case a.Drain:
		return "drained"
	case h != lb.Down && l.Ejected != nil:
		return "ejected"
	}
	return h.String()
}

// usable reports whether a backend may get new requests.
func usable(b admin.Backend) bool {
	return !b.Drain && !b.Disable && b.Ejected == nil && b.Health != lb.Down.String() && b.Weight > 0
}

func poolsOf(s *node.Snapshot, backends []admin.Backend) []admin.Pool {
	all := make([]admin.Pool, len(s.Config.Pools))
	at := map[string]*admin.Pool{}
	for i, p := range s.Config.Pools {
		all[i] = admin.Pool{Name: p.Name, Protocol: string(p.Protocol), Balance: p.Balance, Check: checkText(p.Check)}
		if p.Discover != nil {
			all[i].Discover = p.Discover.String()
		}
		at[p.Name] = &all[i]
	}
	for _, b := range backends {
		p := at[b.Pool]
		p.Backends++
		p.Active += b.Active
		if usable(b) {
			p.Usable++
		}
	}
	return all
}

func checkText(c *lb.Check) string {
	if c == nil {
		return ""
	}
	what := "tcp"
	switch {
	case c.HTTP != "":
		what = "http " + c.HTTP
	case c.GRPC != nil:
		what = strings.TrimSpace("grpc " + *c.GRPC)
	}
	return fmt.Sprintf("%s every %s", what, c.Interval)
}

// backendProblems lists pools that cannot serve and backends that are down.
// What operators drained or disabled is their choice.
func backendProblems(pools []admin.Pool, backends []admin.Backend) []admin.Problem {
	var all []admin.Problem
	for _, p := range pools {
		if p.Usable == 0 && p.Backends > 0 {
			all = append(all, admin.Problem{Subject: "pool " + p.Name,
				Text: "none of " + plural(p.Backends, "backend") + " can take requests", Do: "lbctl backend list --pool " + p.Name})
		}
	}
	for _, b := range backends {
		if b.Alone && !b.Drain && !b.Disable {
			all = append(all, admin.Problem{Subject: "backend " + b.ID, Text: "is down as this node alone sees it: " + b.Check,
				Do: "look at the network between this node and the backend: the others reach it"})
			continue
		}
		if b.Health == lb.Down.String() && !b.Drain && !b.Disable {
			all = append(all, admin.Problem{Subject: "backend " + b.ID, Text: strings.TrimSuffix("is down: "+b.Check, ": "),
				Do: "mend it, or lbctl backend drain " + b.ID})
		}
	}
	return all
}
