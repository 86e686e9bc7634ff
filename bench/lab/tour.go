package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// step is one stop of the tour. It returns what happened while it lasted and
// what it makes of that; an error means that it could not be carried out.
type step struct {
	letter rune
	title  string
	run    func(*lab, context.Context) (report, []verdict, error)
}

var steps = []step{
	{'a', "new connections spread over nodes and slots", (*lab).spread},
	{'b', "kill -9 of one worker", (*lab).killWorker},
	{'c', "a node is drained and comes back", (*lab).drainNode},
	{'d', "kill -9 of a node's supervisor, and its restart", (*lab).killSupervisor},
	{'e', "ECMP sends every flow through another node", (*lab).reroute},
	{'f', "three upgrades, one with a broken binary", (*lab).upgrade},
	{'g', "a whole node dies and comes back", (*lab).loseNode},
}

// letters names the steps.
func letters() string {
	var b strings.Builder
	for _, s := range steps {
		b.WriteRune(s.letter)
	}
	return b.String()
}

// verdict is one thing that had to hold.
type verdict struct {
	held bool
	text string
}

func check(held bool, format string, a ...any) verdict {
	return verdict{held, fmt.Sprintf(format, a...)}
}

// steady is the load that runs all the time.
func (l *lab) steady() order {
	if l.smoke {
		return order{PerSecond: 100, Keep: 24, Streams: 24}
	}
	return order{PerSecond: 200, Keep: 60, Streams: 60}
}

// window is how long a step looks on after something happened.
func (l *lab) window() time.Duration {
	if l.smoke {
		return 1500 * time.Millisecond
	}
	return 4 * time.Second
}

// tour makes every stop under load. Its last line says what held.
func (l *lab) tour(ctx context.Context, route string) error {
	if err := l.setOut(ctx); err != nil {
		return err
	}
	var held, failed []string
	for _, letter := range route {
		s := steps[slices.IndexFunc(steps, func(s step) bool { return s.letter == letter })]
		fmt.Printf("\n(%c) %s\n", s.letter, s.title)
		r, verdicts, err := s.run(l, ctx)
		if ctx.Err() != nil {
			return fmt.Errorf("cut short at (%c)", s.letter)
		}
		if err != nil {
			verdicts = append(verdicts, check(false, "could not be carried out: %v", err))
		}
		if show(r, verdicts) {
			held = append(held, fmt.Sprintf("(%c)", s.letter))
		} else {
			failed = append(failed, fmt.Sprintf("(%c)", s.letter))
		}
	}
	return l.conclude(held, failed)
}

// setOut starts the load and says what the lab runs on.
func (l *lab) setOut(ctx context.Context) error {
	for _, m := range l.role("node") {
		s, err := l.status(m)
		if err != nil {
			return err
		}
		fmt.Printf("%-8s %s  %d workers x %d threads  fast path %s  epoch %s\n", m.Name, m.address(), l.processes(), l.threads(), s.Fastpath.Mode, s.Fastpath.Epoch)
		if s.Fastpath.Reason != "" {
			fmt.Printf("         %s\n", s.Fastpath.Reason)
		}
	}
	o := l.steady()
	fmt.Printf("load     %d connections/s, %d kept busy, %d endless streams, through %s\n", o.PerSecond, o.Keep, o.Streams, l.VIP)
	if err := l.load.do("/steady", o, nil); err != nil {
		return err
	}
	pause(ctx, l.window())
	r, err := l.load.take()
	if err == nil && r.all().Failed > 0 {
		show(r, nil)
		err = errors.New("connections fail before anything was done to them")
	}
	return err
}

// show prints a step's numbers and verdicts; true: all held.
func show(r report, verdicts []verdict) (held bool) {
	for _, kind := range sortedKeys(r.Kinds) {
		t := r.Kinds[kind]
		fmt.Printf("    %-7s opened %-6d requests %-6d ended %-6d moved %-4d failed %-4d reset %-4d live %-4d slowest %d ms\n", kind, t.Opened, t.Requests, t.Ended, t.Moved, t.Failed, t.Reset, t.Live, t.Slowest)
	}
	if len(r.Nodes) > 0 {
		var landed strings.Builder
		for _, node := range sortedKeys(r.Nodes) {
			fmt.Fprintf(&landed, "  %s %d", node, r.Nodes[node])
		}
		fmt.Printf("    landed%s\n", landed.String())
	}
	held = true
	for _, v := range verdicts {
		mark := "ok  "
		if !v.held {
			mark, held = "FAIL", false
		}
		fmt.Printf("    %s %s\n", mark, v.text)
	}
	if !held {
		for _, f := range r.Failures[:min(len(r.Failures), 10)] {
			fmt.Printf("         %s\n", f)
		}
	}
	return held
}

// conclude prints the line that counts.
func (l *lab) conclude(held, failed []string) error {
	fmt.Println()
	if len(failed) > 0 {
		fmt.Printf("held: %s; FAILED: %s\n", strings.Join(held, " "), strings.Join(failed, " "))
		return fmt.Errorf("%d of %d steps failed", len(failed), len(failed)+len(held))
	}
	fmt.Printf("held: %s: no connection was lost but those that a killed worker or a dead node had accepted\n", strings.Join(held, " "))
	return nil
}

// add merges reports of one step.
func (r *report) add(o report) {
	if r.Kinds == nil {
		*r = report{Kinds: map[string]tally{}, Nodes: map[string]int{}}
	}
	for kind, t := range o.Kinds {
		live := t.Live // a level, not a count
		t = r.Kinds[kind].plus(t)
		t.Live = live
		r.Kinds[kind] = t
	}
	for node, n := range o.Nodes {
		r.Nodes[node] += n
	}
	r.Failures = append(r.Failures, o.Failures...)
}

// unhurt is the verdict of a step in which nothing may fail.
func unhurt(r report) []verdict {
	t := r.all()
	return []verdict{
		check(t.Failed == 0, "%d failures among %d connections opened and %d requests", t.Failed, t.Opened, t.Requests),
		check(t.Reset == 0, "%d resets", t.Reset),
	}
}

// streams counts the endless ones by node.
func (l *lab) streams() (map[string]int, error) {
	var flows []liveFlow
	if err := l.load.do("/flows", order{}, &flows); err != nil {
		return nil, err
	}
	count := map[string]int{}
	for _, f := range flows {
		if f.Kind == stream {
			count[f.Node]++
		}
	}
	return count, nil
}

// ports lists our ports of the connections of one kind.
func ports(flows []liveFlow, kind string) (list []uint16) {
	for _, f := range flows {
		if f.Kind == kind {
			list = append(list, uint16(f.Port))
		}
	}
	slices.Sort(list)
	return list
}
