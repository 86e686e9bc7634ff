package cluster

import "github.com/cirque-lb/lb"

// Samples returns the counters as metrics.
func (c *Cluster) Samples() []lb.Sample {
	n := c.Counters()
	refused := func(reason string, v uint64) lb.Sample {
		return lb.Sample{Name: "lbd_cluster_gossip_refused_total", Labels: []string{"reason", reason}, Value: float64(v)}
	}
	count := func(name string, v uint64) lb.Sample {
		return lb.Sample{Name: "lbd_cluster_" + name + "_total", Value: float64(v)}
	}
	return []lb.Sample{
		refused("wrong_key", n.WrongKey), refused("wrong_name", n.WrongName),
		refused("malformed", n.Malformed), refused("conflict", n.Conflicts),
		refused("forged", n.Forged), refused("oversized", n.Oversized),
		count("gossip_repeated", n.Replayed), count("gossip_unknown", n.Unknown), count("documents_lost", n.Lost),
		count("epochs_minted", n.Minted), count("epochs_learnt", n.Learnt), count("epochs_forgotten", n.Forgotten),
		count("seed_dials", n.Dials), count("seed_dials_failed", n.DialsFailed), count("dropped", n.Dropped),
	}
}
