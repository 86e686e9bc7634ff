package main

import (
	"context"
	"errors"
	"time"
)

// drainNode drains a node and takes that back. On the way it lets connections
// rest in TIME_WAIT on that node and opens new ones of the same ports elsewhere:
// when the node owns their rows again, it must not take them for the old ones.
func (l *lab) drainNode(ctx context.Context) (r report, verdicts []verdict, err error) {
	m := l.role("node")[1]
	before, err := l.streams()
	if err != nil {
		return r, nil, err
	}
	resting, err := l.restOn(m)
	if err != nil {
		return r, nil, err
	}
	if _, err := l.ctl(m, "node", "drain"); err != nil {
		return r, nil, err
	}
	pause(ctx, time.Second) // for what is on its way, and for keep-alive clients to hear of it
	if r, err = l.load.take(); err != nil {
		return r, nil, err
	}
	if err := l.load.do("/hold", order{Ports: resting, AtOnce: 16}, nil); err != nil {
		return r, nil, err
	}
	pause(ctx, l.window())
	drained, err := l.load.take()
	r.add(drained)
	after, err2 := l.streams()
	if err := errors.Join(err, err2); err != nil {
		return r, nil, err
	}
	verdicts = append(verdicts,
		check(drained.Nodes[m.Name] == 0, "%d of %d new connections landed on %s a second later", drained.Nodes[m.Name], drained.all().Opened, m.Name),
		check(after[m.Name] == before[m.Name] && before[m.Name] > 0, "%d of its %d streams live on", after[m.Name], before[m.Name]))
	more, err := l.undrainNode(ctx, &r, m, len(resting))
	return r, append(append(verdicts, more...), unhurt(r)...), err
}

func (l *lab) undrainNode(ctx context.Context, r *report, m machine, resting int) (verdicts []verdict, err error) {
	if _, err := l.ctl(m, "node", "undrain"); err != nil {
		return nil, err
	}
	back := l.until(ctx, settleTime, "the nodes agree", l.agreed)
	var flows []liveFlow
	if err := l.load.do("/again", order{AtOnce: 64}, &flows); err != nil {
		return nil, err
	}
	pause(ctx, l.window())
	if err := l.load.do("/release", order{}, nil); err != nil {
		return nil, err
	}
	undrained, err := l.load.take()
	r.add(undrained)
	alive := len(ports(flows, held))
	return []verdict{
		check(back == nil && undrained.Nodes[m.Name] > 0, "undrained, it took %d new connections%s", undrained.Nodes[m.Name], because(back)),
		check(alive == resting && resting > 0, "%d of %d connections live on whose ports rest in TIME_WAIT there", alive, resting),
	}, err
}

// restOn leaves connections in TIME_WAIT on a node and returns their ports, of
// those that the client takes for nothing else.
func (l *lab) restOn(m machine) (resting []int, err error) {
	var candidates []int
	for port := 2000; port < 2090; port++ {
		candidates = append(candidates, port)
	}
	var flows []liveFlow
	err = l.load.do("/rest", order{Ports: candidates}, &flows)
	for _, f := range flows {
		if f.Node == m.Name {
			resting = append(resting, f.Port)
		}
	}
	return resting, err
}
