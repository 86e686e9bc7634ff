package admin

import (
	"fmt"
	"strings"

	"github.com/cirque-lb/lb"
	"github.com/prometheus/client_golang/prometheus"
)

// collector shows the samples of a Control as metrics. It is unchecked: what
// there is depends on the configuration.
type collector struct{ control Control }

// Describe promises nothing.
func (collector) Describe(chan<- *prometheus.Desc) {}

// Collect sends each sample once. A sample that is not valid, or twice there,
// is left out and counted: one bad metric must not hide all others.
func (c collector) Collect(out chan<- prometheus.Metric) {
	seen := map[string]bool{}
	left := 0
	for _, s := range c.control.Samples() {
		key := s.Name + "\x00" + strings.Join(s.Labels, "\x00")
		m, err := metric(s)
		if err != nil || seen[key] {
			left++
			continue
		}
		seen[key] = true
		out <- m
	}
	out <- prometheus.MustNewConstMetric(prometheus.NewDesc("lbd_admin_invalid_samples",
		help("lbd_admin_invalid_samples"), nil, nil), prometheus.GaugeValue, float64(left))
}

func metric(s lb.Sample) (prometheus.Metric, error) {
	if len(s.Labels)%2 != 0 {
		return nil, fmt.Errorf("%s: a label without a value", s.Name)
	}
	var names, values []string
	for i := 0; i < len(s.Labels); i += 2 {
		names, values = append(names, s.Labels[i]), append(values, strings.ToValidUTF8(s.Labels[i+1], "?"))
	}
	d := prometheus.NewDesc(s.Name, help(s.Name), names, nil)
	switch {
	case s.Buckets != nil:
		buckets := make(map[float64]uint64, len(s.Buckets))
		for _, b := range s.Buckets {
			buckets[b.Le] = b.N
		}
		return prometheus.NewConstHistogram(d, s.Count, s.Value, buckets, values...)
	case s.Gauge:
		return prometheus.NewConstMetric(d, prometheus.GaugeValue, s.Value, values...)
	}
	return prometheus.NewConstMetric(d, prometheus.CounterValue, s.Value, values...)
}

// help says what a metric is. A name that is not listed says it by itself.
func help(name string) string {
	if text, ok := helps[name]; ok {
		return text
	}
	return "The " + strings.ReplaceAll(strings.TrimPrefix(name, "lbd_"), "_", " ") + "."
}

var helps = map[string]string{
	"lbd_accepted_connections_total":                 "Client connections that were accepted.",
	"lbd_access_log_dropped_lines_total":             "Lines of the access log dropped because its writer was behind.",
	"lbd_connections":                                "Client connections that are open, by listener.",
	"lbd_filter_calls_total":                         "Calls of filters' phases, as far as timed ones stand for all: requests are sampled.",
	"lbd_filter_seconds_total":                       "Time spent in filters' phases, as far as timed ones stand for all; of blocking ones, waiting included.",
	"lbd_filter_panics_total":                        "Panics of filters that became a 500.",
	"lbd_generated_responses_total":                  "Responses the proxy made itself, by reason.",
	"lbd_refused_connections_total":                  "Client connections refused because a limit was reached.",
	"lbd_shed_connections_total":                     "Client connections refused, by the limit that was reached.",
	"lbd_accept_pauses_total":                        "Pauses of a listener that got no file descriptor for the next client.",
	"lbd_worker_memory_bytes":                        "Memory a worker has from the system.",
	"lbd_worker_memory_pressure":                     "How short of memory a worker is: 1 ends keep-alive, 2 refuses requests.",
	"lbd_request_body_bytes_total":                   "Bytes of request bodies that were received.",
	"lbd_request_duration_seconds":                   "Time from a request's first byte to its response's last.",
	"lbd_request_failures_total":                     "Requests that failed, by reason and by whose fault it was.",
	"lbd_requests_total":                             "Requests by listener, pool and class of the status.",
	"lbd_response_body_bytes_total":                  "Bytes of response bodies that were sent.",
	"lbd_retries_total":                              "Further attempts of a request, by the reason of the failed one.",
	"lbd_upstream_pending_total":                     "Requests that had to wait for room at their backend, by how that ended.",
	"lbd_upstream_connections_opened_total":          "Connections to backends that were opened.",
	"lbd_upstream_connections_reused_total":          "Requests that went over an idle connection.",
	"lbd_upstream_connections_stale_total":           "Idle connections found closed when they were to be used.",
	"lbd_upstream_connections_taken_over_total":      "Idle connections taken over from another thread.",
	"lbd_upstream_first_byte_seconds":                "Time from a request sent to its response's first byte.",
	"lbd_xdp_packets_total":                          "Packets by how they left XDP.",
	"lbd_admin_invalid_samples":                      "Samples left out of this answer because they are not valid or there twice.",
	"lbd_backend_checks_total":                       "Health checks by result.",
	"lbd_backend_draining":                           "Whether an operator drains or disabled the backend.",
	"lbd_backend_up":                                 "Whether the backend's health lets it get requests; unknown counts as up.",
	"lbd_build_info":                                 "The version that runs; always 1.",
	"lbd_cluster_dropped_total":                      "Gossip messages and events that a bounded queue had no room for.",
	"lbd_cluster_epoch_counter":                      "Counter of the current epoch.",
	"lbd_cluster_epochs":                             "Epochs this node retains.",
	"lbd_cluster_epochs_forgotten_total":             "Epochs beyond those a node retains.",
	"lbd_cluster_epochs_learnt_total":                "Epochs learnt from other nodes.",
	"lbd_cluster_epochs_minted_total":                "Epochs this node minted.",
	"lbd_cluster_gossip_refused_total":               "Gossip refused: of a wrong key or cluster, malformed, or of a second node with a name that is taken.",
	"lbd_cluster_members":                            "Nodes by what gossip says of them.",
	"lbd_cluster_seed_dials_failed_total":            "Seeds dialled in vain.",
	"lbd_cluster_seed_dials_total":                   "Seeds and lost members dialled.",
	"lbd_cluster_weight":                             "Weight this node wants in the next epoch; 0 drains it.",
	"lbd_config_generation":                          "Counter of the running generation.",
	"lbd_config_last_reload_successful":              "Whether the file was accepted when it was read last.",
	"lbd_config_last_reload_timestamp_seconds":       "When the file was read last.",
	"lbd_config_on_trial":                            "Whether the running generation is taken back unless somebody confirms it.",
	"lbd_discovery_backends":                         "Backends of a source's last good answer.",
	"lbd_discovery_failing":                          "Whether a source did not answer when it was asked last.",
	"lbd_discovery_questions_total":                  "Questions to sources of backends, by result.",
	"lbd_fastpath_mode":                              "The mode of XDP on an interface; always 1.",
	"lbd_node_draining":                              "Whether this node drains.",
	"lbd_node_problems":                              "Problems that `lbctl status` lists, those of backends left out.",
	"lbd_service_bytes_total":                        "Bytes of IP packets that a backend of an L4 service was sent.",
	"lbd_service_connections_total":                  "SYNs that a backend of an L4 service was sent.",
	"lbd_service_packets_total":                      "Packets that a backend of an L4 service was sent.",
	"lbd_service_share":                              "Share of an L4 service's new flows that a backend gets.",
	"lbd_slots":                                      "Listening slots by whether they take new connections.",
	"lbd_stragglers_destroyed_total":                 "Connections destroyed because they needed an earlier epoch for longer than drain.timeout.",
	"lbd_steering_mode":                              "How packets are steered: 1 for the mode in force.",
	"lbd_steered_binds":                              "Addresses the workers listen on.",
	"lbd_steered_vips":                               "Addresses that XDP looks at.",
	"lbd_workers":                                    "Worker processes by state.",
	"lbd_certificate_first_expiry_timestamp_seconds": "When the first of a listener's certificates expires.",
	"lbd_certificates":                               "Certificates a listener chooses from.",
	"lbd_ejections_total":                            "Backends passed by for a while because their answers were bad.",
	"lbd_file_renewals_total":                        "Times that certificates, keys and other named files changed on disk, by what came of it.",
	"lbd_filter_events_total":                        "What filters count, such as refusals and hits.",
	"lbd_mirrored_requests_total":                    "Copies of requests sent to a second pool, by result.",
	"lbd_panic_picks_total":                          "Requests sent to unhealthy backends because too few are healthy.",
	"lbd_proxy_protocol_failures_total":              "Connections without a valid PROXY header where one is due.",
	"lbd_slow_turns_total":                           "Turns of a worker's loop that took over 10 ms.",
	"lbd_tls_handshake_failures_total":               "TLS handshakes with clients that failed, by reason.",
	"lbd_worker_goroutines":                          "Goroutines of the workers.",
}
