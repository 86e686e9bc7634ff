package app

import (
	"context"
	"slices"
	"time"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/cmd/internal/admin"
	"github.com/cirque-lb/lb/cmd/lbd/internal/node"
)

// Traffic is what was counted so far, per listener and backend.
func (c control) Traffic(context.Context) (admin.Traffic, error) {
	s, stats := c.node.Snapshot(), c.node.Stats()
	return trafficOf(s, stats, c.node.Reports(), c.node.Packets(), wallClock()), nil
}

func trafficOf(s *node.Snapshot, stats lb.Stats, reports []node.Report, packets []lb.Sample, now time.Time) admin.Traffic {
	out := admin.Traffic{Time: now, Node: s.Name, State: stateOf(s), Listeners: listenerFlows(s, stats), Backends: []admin.Flow{}, Packets: []admin.Packets{}}
	loads := loadsOf(stats)
	for _, b := range backendsOf(s, stats, reports) {
		l := loads[lb.BackendID{Pool: b.Pool, Address: b.Address}]
		out.Backends = append(out.Backends, admin.Flow{
			Name: b.ID, State: b.State, Connections: b.Connections, Active: b.Active,
			Requests: float64(b.Requests), Errors: float64(b.Failures), Latency: latencyOf(l.Latency),
		})
	}
	for _, p := range packets {
		if p.Name == "lbd_xdp_packets_total" {
			out.Packets = append(out.Packets, admin.Packets{Reason: labelOf(p, "reason"), Verdict: labelOf(p, "verdict"), Count: p.Value})
		}
	}
	return out
}

// listenerFlows adds up the series of each listener.
func listenerFlows(s *node.Snapshot, stats lb.Stats) []admin.Flow {
	all := make([]admin.Flow, len(s.Config.Listeners))
	at := map[string]*admin.Flow{}
	for i, l := range s.Config.Listeners {
		all[i] = admin.Flow{Name: l.Name}
		at[l.Name] = &all[i]
	}
	for _, x := range stats.Samples {
		f := at[labelOf(x, "listener")]
		if f == nil {
			continue
		}
		switch x.Name {
		case "lbd_connections":
			f.Connections += int(x.Value)
		case "lbd_requests_total":
			f.Requests += x.Value
			if class := labelOf(x, "code_class"); class == "5xx" || class == "none" {
				f.Errors += x.Value
			}
		case "lbd_request_body_bytes_total":
			f.BytesIn += x.Value
		case "lbd_response_body_bytes_total":
			f.BytesOut += x.Value
		case "lbd_request_duration_seconds":
			f.Latency = add(f.Latency, x)
		}
	}
	return all
}

// add adds a histogram to another of the same bounds.
func add(sum *admin.Latency, x lb.Sample) *admin.Latency {
	if sum == nil {
		return &admin.Latency{Buckets: slices.Clone(x.Buckets), Count: x.Count, Sum: x.Value}
	}
	if len(sum.Buckets) != len(x.Buckets) {
		return sum // of a worker of another version
	}
	for i := range sum.Buckets {
		sum.Buckets[i].N += x.Buckets[i].N
	}
	sum.Count += x.Count
	sum.Sum += x.Value
	return sum
}

// latencyOf is a backend's timing as a histogram; nil: it answered nothing.
func latencyOf(t *lb.Timing) *admin.Latency {
	if t == nil || len(t.Counts) != len(lb.TimingBounds)+1 {
		return nil
	}
	out := &admin.Latency{Sum: t.Sum}
	for i, n := range t.Counts {
		out.Count += n
		if i < len(lb.TimingBounds) {
			out.Buckets = append(out.Buckets, lb.Bucket{Le: lb.TimingBounds[i], N: out.Count})
		}
	}
	return out
}

func labelOf(x lb.Sample, name string) string {
	for i := 0; i+1 < len(x.Labels); i += 2 {
		if x.Labels[i] == name {
			return x.Labels[i+1]
		}
	}
	return ""
}
