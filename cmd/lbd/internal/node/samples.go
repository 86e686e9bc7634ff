package node

import (
	"slices"

	"github.com/cirque-lb/lb"
)

// Samples are all metrics of this node: the workers' totals, the datapath's
// and its own.
func (n *Node) Samples() []lb.Sample {
	s := n.Snapshot()
	all := slices.Clone(n.Stats().Samples)
	all = append(all, n.Packets()...)
	if n.o.Cluster != nil {
		all = append(all, n.o.Cluster.Samples()...)
	}
	all = append(all, configSamples(s)...)
	all = append(all, n.fileSamples(s)...)
	all = append(all, backendSamples(s, n.Reports())...)
	if n.o.Discovery != nil {
		all = append(all, sourceSamples(n.o.Discovery.Sources())...)
	}
	all = append(all, clusterSamples(s)...)
	return append(all, modeSamples(s)...)
}

func gauge(name string, v float64, labels ...string) lb.Sample {
	return lb.Sample{Name: name, Labels: labels, Gauge: true, Value: v}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func configSamples(s *Snapshot) []lb.Sample {
	all := []lb.Sample{
		gauge("lbd_build_info", 1, "version", s.Version),
		gauge("lbd_config_generation", float64(s.Generation.Counter)),
		gauge("lbd_config_last_reload_successful", truth(s.Reload.OK)),
		gauge("lbd_config_on_trial", truth(s.Trial != nil)),
		gauge("lbd_node_draining", truth(s.Drain.Draining)),
		gauge("lbd_node_problems", float64(len(s.Problems))),
	}
	if !s.Reload.Time.IsZero() {
		all = append(all, gauge("lbd_config_last_reload_timestamp_seconds", float64(s.Reload.Time.UnixMilli())/1000))
	}
	states := map[string]int{"ready": 0}
	for _, w := range s.Crew {
		states[w.State]++
	}
	for state, count := range states {
		all = append(all, gauge("lbd_workers", float64(count), "state", state))
	}
	return all
}

// backendSamples says which backends may get requests, and how checks went.
func backendSamples(s *Snapshot, reports []Report) []lb.Sample {
	var all []lb.Sample
	for _, p := range s.Config.Pools {
		for _, b := range p.Backends {
			id := b.ID(p.Name)
			a := s.State.Admin[id]
			all = append(all,
				gauge("lbd_backend_up", truth(s.State.Health[id] != lb.Down), "pool", p.Name, "backend", b.Address),
				gauge("lbd_backend_draining", truth(a.Drain || a.Disable), "pool", p.Name, "backend", b.Address))
		}
	}
	for _, r := range reports {
		for result, count := range map[string]uint64{"pass": r.Probes - r.Fails, "fail": r.Fails} {
			all = append(all, lb.Sample{Name: "lbd_backend_checks_total", Value: float64(count),
				Labels: []string{"pool", r.ID.Pool, "backend", r.ID.Address, "result", result}})
		}
	}
	return all
}

// sourceSamples says how discovery goes.
func sourceSamples(sources []Source) []lb.Sample {
	var all []lb.Sample
	for _, src := range sources {
		all = append(all,
			gauge("lbd_discovery_backends", float64(src.Backends), "source", src.Name),
			gauge("lbd_discovery_failing", truth(src.Err != nil), "source", src.Name))
		for result, count := range map[string]uint64{"answer": src.Asks - src.Failures, "failure": src.Failures} {
			all = append(all, lb.Sample{Name: "lbd_discovery_questions_total", Value: float64(count), Labels: []string{"source", src.Name, "result", result}})
		}
	}
	return all
}

func clusterSamples(s *Snapshot) []lb.Sample {
	if !s.Clustered {
		return nil
	}
	all := []lb.Sample{gauge("lbd_cluster_epochs", float64(len(s.Epochs)))}
	if len(s.Epochs) > 0 {
		all = append(all, gauge("lbd_cluster_epoch_counter", float64(s.Epochs[0].Counter), "cluster", s.Config.Cluster.Name))
	}
	states := map[string]int{"alive": 0, "suspect": 0, "dead": 0, "left": 0}
	for _, p := range s.Peers {
		states[p.State]++
	}
	for state, count := range states {
		all = append(all, gauge("lbd_cluster_members", float64(count), "state", state))
	}
	return all
}

// modeSamples says which fast path is on: 1 for the mode in force.
func modeSamples(s *Snapshot) []lb.Sample {
	var all []lb.Sample
	for _, mode := range []string{"native", "generic", "sk_lookup", "off"} {
		all = append(all, gauge("lbd_steering_mode", truth(s.Fastpath.Mode == mode), "mode", mode))
	}
	for _, v := range []struct {
		what  string
		count int
	}{{"vips", len(s.VIPs)}, {"binds", len(s.Sockets)}} {
		all = append(all, gauge("lbd_steered_"+v.what, float64(v.count)))
	}
	slots, live := slots(s.Sockets)
	return append(all, gauge("lbd_slots", float64(slots-live), "state", "dead"), gauge("lbd_slots", float64(live), "state", "live"),
		gauge("lbd_cluster_weight", float64(s.Weight), "node", s.Name))
}
