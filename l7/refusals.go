package l7

import (
	"bytes"
	"slices"
	"strings"
	"sync"

	"github.com/cirque-lb/lb"
)

// refusals are a thread's last requests that were none, for people to look at:
// a counter says that there are some, but not what is wrong with them.
type refusals struct {
	mu   sync.Mutex // guards what follows
	ring [keptRefusals]lb.Refusal
	n    uint64 // so many there were
}

const (
	keptRefusals = 32  // per thread
	keptHead     = 512 // bytes of each
)

// malformed are the reasons that are about what a client wrote.
var malformed = []lb.Reason{lb.BadRequest, lb.BadFraming, lb.HeadTooLarge, lb.URITooLong, lb.MethodRefused, lb.VersionRefused, lb.NotImplemented, lb.ExpectRefused}

// keepRefusal keeps a request that was refused for e, and how it began.
func (t *thread) keepRefusal(r *Request, head []byte, e *Error) {
	if !slices.Contains(malformed, e.Reason) {
		return
	}
	s := &t.refusals
	s.mu.Lock()
	defer s.mu.Unlock()
	kept := &s.ring[s.n%keptRefusals]
	s.n++
	*kept = lb.Refusal{Time: t.loop.Time(), Listener: strings.Clone(r.Listener), Client: r.Client, Version: r.Version.String(),
		Status: e.Status, Reason: e.Reason, Head: append(kept.Head[:0], head[:min(len(head), keptHead)]...)}
	if e.Err != nil {
		kept.Error = e.Err.Error()
	}
	hideSecrets(kept.Head)
}

// keepRefusedH2 does the same for one that came by HTTP/2, as far as it was
// read.
func (st *streamH2) keepRefused(e *Error) {
	r, t := &st.request, st.c.thread
	b := append(append(append(append(t.text[:0], r.Method...), ' '), r.Target...), " HTTP/2.0\r\n"...)
	if r.Host != "" {
		b = append(append(append(b, "Host: "...), r.Host...), "\r\n"...)
	}
	for _, f := range r.Header {
		if len(b) > keptHead {
			break
		}
		b = append(append(append(append(b, f.Name...), ": "...), f.Value...), "\r\n"...)
	}
	t.text = b[:0]
	t.keepRefusal(r, b, e)
}

// hideSecrets blanks out, byte by byte, the values of fields that let somebody
// in.
func hideSecrets(head []byte) {
	secret := false
	for line := range bytes.Lines(head) {
		name, value, found := bytes.Cut(line, []byte(":"))
		if line[0] == ' ' || line[0] == '\t' {
			value, found = line, true // folded: it goes on
		} else {
			secret = isSecret(strings.TrimSpace(string(name)))
		}
		if !secret || !found {
			continue
		}
		for i := range value {
			if value[i] > ' ' {
				value[i] = '*'
			}
		}
	}
}

func isSecret(name string) bool {
	for _, s := range []string{"authorization", "proxy-authorization", "cookie"} {
		if equalFold(name, s) {
			return true
		}
	}
	return false
}

// Refused lists the last requests that were malformed, newest first.
func (p *Proxy) Refused() []lb.Refusal {
	var all []lb.Refusal
	for _, t := range p.threads {
		s := &t.refusals
		s.mu.Lock()
		for _, r := range s.ring[:min(s.n, keptRefusals)] {
			r.Head = bytes.Clone(r.Head)
			all = append(all, r)
		}
		s.mu.Unlock()
	}
	slices.SortStableFunc(all, func(a, b lb.Refusal) int { return b.Time.Compare(a.Time) })
	return all
}
