package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// loseNode takes a node's link and all its processes away at once, as a power
// cut does, and brings it back as a host that remembers nothing.
func (l *lab) loseNode(ctx context.Context) (r report, verdicts []verdict, err error) {
	m := l.role("node")[2]
	var flows []liveFlow
	if err := l.load.do("/flows", order{}, &flows); err != nil {
		return r, nil, err
	}
	had := 0
	for _, f := range flows {
		if f.Node == m.Name {
			had++
		}
	}
	died := time.Now()
	if err := l.cutPower(m); err != nil {
		return r, nil, err
	}
	gone := l.until(ctx, settleTime, "its peers agree without it", func() error { return l.agreedWithout(m) })
	took := time.Since(died)
	pause(ctx, patience+2*time.Second) // its clients find out by their own time-outs
	if r, err = l.load.take(); err != nil {
		return r, nil, err
	}
	verdicts = append(judgeLoss(r, m.Name, had, died), check(gone == nil, "its peers agreed without it after %v%s", took.Round(100*time.Millisecond), because(gone)))
	if err := l.restorePower(m); err != nil {
		return r, verdicts, err
	}
	back := l.until(ctx, startTime, "the nodes agree", l.agreed)
	if err := l.announce(0); err != nil {
		return r, verdicts, err
	}
	pause(ctx, l.window())
	again, err := l.load.take()
	r.add(again)
	return r, append(verdicts,
		check(back == nil && again.all().Failed == 0 && again.Nodes[m.Name] > 0, "back, it took %d new connections; %d failures%s", again.Nodes[m.Name], again.all().Failed, because(back))), err
}

// judgeLoss: only what the dead node had may fail. What had not heard from any
// node by then may have been its own.
func judgeLoss(r report, dead string, had int, died time.Time) []verdict {
	var lost, innocent, late int
	for _, f := range r.Failures {
		switch {
		case f.Opened.After(died):
			late++
		case f.Node == dead || f.Node == "":
			lost++
		default:
			innocent++
		}
	}
	return []verdict{
		check(innocent == 0, "%d connections failed of those it had (%d lived long), and %d others", lost, had, innocent),
		check(late == 0, "%d connections opened after its death failed; the slowest took %d ms", late, r.all().Slowest),
	}
}

func (l *lab) cutPower(m machine) error {
	if l.running[m.Name] == nil {
		return fmt.Errorf("%s does not run", m.Name)
	}
	err := ip("-n %s link set %s down", l.namespace(l.router()), m.downlink())
	for _, pid := range insiders(l.namespace(m)) {
		if e := syscall.Kill(pid, syscall.SIGKILL); e != nil && e != syscall.ESRCH {
			err = errors.Join(err, fmt.Errorf("kill %d of %s: %w", pid, m.Name, e))
		}
	}
	<-l.running[m.Name].ended
	delete(l.running, m.Name)
	return err
}

// restorePower starts the node anew: what it kept in memory is gone, and so is
// what the kernel kept for it. As with a routing daemon that asks /readyz, the
// router hears of the VIP only when the node is ready.
func (l *lab) restorePower(m machine) error {
	return errors.Join(
		l.announce(0, m.Name),
		os.RemoveAll(l.path(m.Name, "run")),
		os.RemoveAll(l.pins+"/"+m.Name),
		ip("-n %s link set %s up", l.namespace(l.router()), m.downlink()),
		l.startNode(m),
	)
}

// agreedWithout is nil when no other node lists m.
func (l *lab) agreedWithout(m machine) error {
	for _, other := range l.role("node") {
		if other.Name == m.Name {
			continue
		}
		s, err := l.status(other)
		if err != nil {
			return err
		}
		for _, n := range s.Nodes {
			if n.Name == m.Name && n.Listed {
				return fmt.Errorf("%s still lists %s", other.Name, m.Name)
			}
		}
	}
	return nil
}
