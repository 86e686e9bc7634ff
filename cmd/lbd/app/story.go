package app

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/cmd/internal/admin"
	"github.com/cirque-lb/lb/cmd/lbd/internal/node"
)

// Story says why a backend is in the state it is in.
func (c control) Story(_ context.Context, id string) (admin.Story, error) {
	events, _ := c.node.Events(0)
	return storyOf(c.node.Snapshot(), c.node.Stats(), c.node.Reports(), events, id)
}

// told is how many events a story tells.
const told = 20

func storyOf(s *node.Snapshot, stats lb.Stats, reports []node.Report, events []node.Numbered, name string) (admin.Story, error) {
	var id lb.BackendID
	if err := id.UnmarshalText([]byte(name)); err != nil {
		return admin.Story{}, err
	}
	story := admin.Story{Why: []string{}, Checks: []admin.Check{}, Events: []admin.Event{}}
	found := false
	all := backendsIn(id.Pool, s, stats, reports)
	for _, b := range all {
		if b.ID == name {
			story.Backend, found = b, true
		}
	}
	if !found {
		return story, &admin.Error{Status: http.StatusNotFound, Code: admin.CodeNotFound, Detail: "there is no backend " + name,
			Hint: "`lbctl backend list` shows them; a backend is named POOL/ADDRESS"}
	}
	report := reportOf(reports, id)
	for _, p := range report.Last {
		story.Checks = append(story.Checks, admin.Check{Time: p.At, OK: p.OK, Took: p.Took, Detail: p.Detail})
	}
	pool := s.Config.Pool(id.Pool)
	story.Verdict = verdictOn(story.Backend, surroundingsOf(all, pool))
	story.Why = reasonsOf(story.Backend, pool, report)
	for _, e := range events {
		if about(e.Event, id, pool) {
			story.Events = append(story.Events, admin.Event(e))
		}
	}
	story.Events = story.Events[max(0, len(story.Events)-told):]
	return story, nil
}

func reportOf(reports []node.Report, id lb.BackendID) node.Report {
	for _, r := range reports {
		if r.ID == id {
			return r
		}
	}
	return node.Report{ID: id}
}

// about reports whether an event tells of a backend: it is the subject, or the
// pool's discovery brought it or took it away.
func about(e lb.Event, id lb.BackendID, p *lb.Pool) bool {
	switch e.Subject {
	case id.String():
		return true
	case id.Pool:
		return strings.HasPrefix(e.Kind, "pool.") && strings.Contains(e.Detail+" ", id.Address+" ")
	}
	return p != nil && p.Discover != nil && e.Subject == p.Discover.String()
}

// verdictOn says in a sentence whether a backend gets requests.
func verdictOn(b admin.Backend, s surroundings) string {
	c := choice(b, s)
	switch {
	case !c.Eligible:
		return "it gets no requests: " + c.Why
	case !usable(b):
		return "it gets requests: " + c.Why
	}
	return "it gets requests"
}

// reasonsOf lists what the verdict follows from: where the backend comes from,
// what checks and requests say, what operators ordered.
func reasonsOf(b admin.Backend, p *lb.Pool, r node.Report) []string {
	origin := "the document lists it"
	if b.Discovered && p.Discover != nil {
		origin = "found by " + p.Discover.String()
	}
	why := []string{fmt.Sprintf("%s, with weight %d%s", origin, b.Configured, map[bool]string{true: ", as a backup"}[b.Backup])}
	why = append(why, checkReason(p, r))
	if e := b.Ejected; e != nil {
		why = append(why, fmt.Sprintf("requests fail: ejected since %s until %s (%s), %s in a row", clock(e.Since), clock(e.Until), e.Reason, times(e.Times)))
	}
	if b.Disable {
		why = append(why, "an operator disabled it: requests in progress are cut")
	}
	if b.Drain {
		why = append(why, fmt.Sprintf("an operator drains it: %d in progress may finish", b.Active))
	}
	if b.Weight != b.Configured {
		why = append(why, fmt.Sprintf("an operator gave it the weight %d", b.Weight))
	}
	return why
}

func checkReason(p *lb.Pool, r node.Report) string {
	switch {
	case p.Check == nil:
		return "its pool has no check, so it counts as up"
	case r.Heard:
		return fmt.Sprintf("%s other nodes probe it (%s) and this one goes by what they find: %s since %s (%s)", number(r.Others), checkText(p.Check), r.Health, clock(r.Since), r.Reason)
	case len(r.Last) == 0:
		return fmt.Sprintf("its check (%s) has not answered yet, so it counts as up", checkText(p.Check))
	}
	last := "failed"
	if r.Last[0].OK {
		last = "passed"
	}
	text := fmt.Sprintf("its check (%s) %s %s: %s", checkText(p.Check), last, streak(r.Streak), r.Last[0].Detail)
	if r.Health == lb.Unknown {
		return fmt.Sprintf("%s; %d in a row make it up, %d down, and until then it counts as up", text, p.Check.Rise, p.Check.Fall)
	}
	text += fmt.Sprintf("; %s since %s", r.Health, clock(r.Since))
	if r.Reason != "" && r.Reason != r.Last[0].Detail {
		text += " (" + r.Reason + ")"
	}
	if r.Alone {
		text += fmt.Sprintf("; %d other nodes that probe it find it up", r.Others)
	}
	return text
}

func number(n int) string {
	if n == 0 {
		return "the"
	}
	return fmt.Sprint(n)
}

func streak(n int) string {
	if n <= 1 {
		return "last"
	}
	return fmt.Sprintf("the last %d times", n)
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

func clock(t time.Time) string { return t.UTC().Format(time.RFC3339) }
