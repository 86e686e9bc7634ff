package cluster

import (
	"bytes"
	"strings"
	"sync/atomic"
)

// refusals is where memberlist logs. It has no hook for what it refuses, so we
// count its lines; cluster_test.go fails when their words change.
type refusals struct{ cluster *Cluster }

func (r *refusals) Write(line []byte) (int, error) {
	count := &r.cluster.count
	has := func(s string) bool { return bytes.Contains(line, []byte(s)) }
	switch {
	case has("unacceptable label"), has("label header"):
		r.refuse(&count.wrongName, "another cluster's", line)
	case has("could decrypt"), has("Decrypt packet"), has("is not encrypted"), has("is encrypted and encryption is not configured"):
		r.refuse(&count.wrongKey, "wrong key", line)
	case has("larger than limit"), has("message too large"), has("UserStateLen"):
		r.refuse(&count.oversized, "oversized", line)
	default:
		r.cluster.options.Log.Debug(string(bytes.TrimSpace(line)))
	}
	return len(line), nil
}

func (r *refusals) refuse(counter *atomic.Uint64, what string, line []byte) {
	_, detail, found := strings.Cut(string(bytes.TrimSpace(line)), "memberlist: ")
	if !found {
		detail = string(line)
	}
	r.cluster.rarely(counter.Add(1), "gossip.refused", what, detail)
}
