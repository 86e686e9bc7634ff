package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

// named tells whether a flow's node, by name or address, is m.
func (m machine) named(node string) bool { return node == m.Name || node == m.address().String() }

// nodeDied says that a node had died by a moment. What had heard from no node by
// then may have been its.
func nodeDied(dead machine, at time.Time) func(failure) bool {
	return func(f failure) bool { return dead.named(f.Node) || f.Node == "" && f.Opened.Before(at) }
}

// loseWorker kills a worker that serves a third of a node's slots.
func (l *lab) loseWorker(ctx context.Context) (o outcome, err error) {
	m := l.role("node")[0]
	s, err := l.status(m)
	if err != nil || len(s.serving()) == 0 {
		return o, errors.Join(err, errors.New("no worker to kill"))
	}
	victim := s.serving()[0].PID
	if err := syscall.Kill(victim, syscall.SIGSTOP); err != nil {
		return o, fmt.Errorf("stop worker: %w", err)
	}
	pause(ctx, 400*time.Millisecond) // the queues fill
	web, err1 := landed(l.VIP, s.pids())
	echo, err2 := landed(echoOf(l.VIP), s.pids())
	err = errors.Join(err1, err2)
	killed := time.Now()
	if err := errors.Join(err, syscall.Kill(victim, syscall.SIGKILL)); err != nil {
		return o, fmt.Errorf("kill worker: %w", err)
	}
	err = l.until(ctx, calmTime, "the worker is replaced", func() error {
		s, err := l.status(m)
		if err == nil && (!s.allReady(l.processes()) || slices.Contains(s.pids(), victim)) {
			err = fmt.Errorf("workers: %+v", s.Workers)
		}
		return err
	})
	o.note = fmt.Sprintf("replaced after %d ms", time.Since(killed).Milliseconds())
	o.died = func(f failure) bool {
		on := web
		if f.Kind == tunnel {
			on = echo
		}
		return f.Opened.Before(killed) && on.accepted[uint16(f.Port)].pid == victim
	}
	return o, err
}

// upgradeMuch upgrades one node after the other, 20 times in all.
func (l *lab) upgradeMuch(ctx context.Context) (o outcome, err error) {
	began := time.Now()
	for i := range 20 {
		binary := l.path(fmt.Sprintf("lbd.%d", i%4))
		if i < 4 {
			if err := copyFile(binary+".new", l.lbd); err != nil {
				return o, err
			}
			if err := os.Rename(binary+".new", binary); err != nil {
				return o, err
			}
		}
		if err := l.change(ctx, l.role("node")[i%3], binary); err != nil {
			return o, fmt.Errorf("upgrade %d: %w", i+1, err)
		}
	}
	o.note = fmt.Sprintf("in %d s", int(time.Since(began).Seconds()))
	return o, nil
}

// change upgrades a node to a binary. While the workers of earlier ones still
// drain, it is refused, and tried again.
func (l *lab) change(ctx context.Context, m machine, binary string) error {
	return l.until(ctx, 2*calmTime, m.Name+" is upgraded", func() error {
		before, err := l.status(m)
		if err != nil {
			return err
		}
		if _, err := l.ctl(m, "upgrade", "--wait", "--binary", binary); err != nil {
			return err
		}
		return l.until(ctx, calmTime, "the workers are ready", func() error {
			s, err := l.status(m)
			if err == nil && (!s.allReady(l.processes()) || slices.ContainsFunc(s.pids(), func(p int) bool { return slices.Contains(before.pids(), p) })) {
				err = fmt.Errorf("workers: %+v", s.Workers)
			}
			return err
		})
	})
}

func (l *lab) drain(m machine) error {
	_, err := l.ctl(m, "node", "drain")
	return err
}

func (l *lab) undrain(m machine) error {
	_, err := l.ctl(m, "node", "undrain")
	return err
}

func (l *lab) settled(ctx context.Context) error {
	return l.until(ctx, calmTime, "the nodes agree", l.agreed)
}

func (l *lab) drainAndBack(ctx context.Context) (o outcome, err error) {
	m := l.role("node")[1]
	if err := l.drain(m); err != nil {
		return o, err
	}
	pause(ctx, 3*beat)
	return o, errors.Join(l.undrain(m), l.settled(ctx))
}

// reshuffle has the router spread flows over its next hops in all orders.
func (l *lab) reshuffle(ctx context.Context) (o outcome, err error) {
	for _, shift := range []int{1, 2, 0} {
		if err := l.announce(shift); err != nil {
			return o, err
		}
		pause(ctx, beat+beat/2) // each tunnel says something there
	}
	return o, nil
}

func (l *lab) reshuffleInDrain(ctx context.Context) (o outcome, err error) {
	m := l.role("node")[1]
	if err := l.drain(m); err != nil {
		return o, err
	}
	if _, err := l.reshuffle(ctx); err != nil {
		return o, err
	}
	if err := l.undrain(m); err != nil {
		return o, err
	}
	_, err = l.reshuffle(ctx)
	return o, errors.Join(err, l.settled(ctx))
}

func (l *lab) restartDaemon(ctx context.Context) (outcome, error) {
	return l.restart(ctx, l.role("node")[2:])
}

func (l *lab) restartDaemons(ctx context.Context) (outcome, error) {
	return l.restart(ctx, l.role("node"))
}

// restart kills supervisors, and starts them again after a while.
func (l *lab) restart(ctx context.Context, nodes []machine) (o outcome, err error) {
	for _, m := range nodes {
		if err := l.killDaemon(m); err != nil {
			return o, err
		}
	}
	pause(ctx, 2*beat)
	for _, m := range nodes {
		err = errors.Join(err, l.startNode(m))
	}
	return o, errors.Join(err, l.settled(ctx))
}

// killDaemon kills a node's supervisor, which after an upgrade may be the guard
// of that and no child of ours.
func (l *lab) killDaemon(m machine) (err error) {
	config := l.path(m.Name, "lbd.yaml")
	for _, pid := range insiders(l.namespace(m)) {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if words := strings.Split(string(line), "\x00"); slices.Contains(words, "run") && slices.Contains(words, config) {
			err = errors.Join(err, syscall.Kill(pid, syscall.SIGKILL))
		}
	}
	if p := l.running[m.Name]; p != nil {
		<-p.ended
	}
	delete(l.running, m.Name)
	return err
}

// migrate upgrades each node to a build whose maps are another layout.
func (l *lab) migrate(ctx context.Context) (o outcome, err error) {
	to := l.path("lbd.other")
	for _, m := range l.role("node") {
		before := l.layouts(m)
		if err := l.change(ctx, m, to); err != nil {
			return o, err
		}
		if err := l.until(ctx, calmTime, "the maps moved", func() error {
			if now := l.layouts(m); len(now) != 1 || slices.Equal(now, before) {
				return fmt.Errorf("%s has the pins %v, before %v", m.Name, now, before)
			}
			return nil
		}); err != nil {
			return o, err
		}
		o.note = fmt.Sprintf("%s to %s", strings.Join(before, " "), strings.Join(l.layouts(m), " "))
	}
	for _, m := range l.role("node") {
		err = errors.Join(err, l.change(ctx, m, l.lbd))
	}
	return o, errors.Join(err, l.settled(ctx))
}

// layouts lists a node's directories of pins, one for each layout.
func (l *lab) layouts(m machine) (names []string) {
	dirs, _ := os.ReadDir(l.pins + "/" + m.Name)
	for _, d := range dirs {
		names = append(names, d.Name())
	}
	return names
}

func (l *lab) drainTwo(ctx context.Context) (o outcome, err error) {
	nodes := l.role("node")
	if err := errors.Join(l.drain(nodes[0]), l.drain(nodes[1])); err != nil {
		return o, err
	}
	pause(ctx, 3*beat)
	return o, errors.Join(l.undrain(nodes[1]), l.undrain(nodes[0]), l.settled(ctx))
}

// partition keeps one node's packets from the other nodes, and theirs from it.
// The client reaches all of them, and all of them the backends.
func (l *lab) partition(ctx context.Context) (o outcome, err error) {
	nodes := l.role("node")
	began := time.Now()
	if err := l.cut("add", nodes[2], nodes[:2]); err != nil {
		return o, err
	}
	pause(ctx, 10*time.Second)
	o.note = fmt.Sprintf("seen after %s", l.noticed(began, nodes[:2], nodes[2]))
	return o, errors.Join(l.cut("delete", nodes[2], nodes[:2]), l.settled(ctx))
}

func (l *lab) cut(how string, one machine, others []machine) (err error) {
	for _, other := range others {
		for _, way := range [][2]machine{{one, other}, {other, one}} {
			err = errors.Join(err, ip("-n %s rule %s priority 10 from %s to %s blackhole", l.namespace(l.router()), how, way[0].Link, way[1].Link))
		}
	}
	return err
}

// loseLink takes a node's link away. The node lives, but nobody can tell.
func (l *lab) loseLink(ctx context.Context) (o outcome, err error) {
	m := l.role("node")[2]
	began := time.Now()
	if err := ip("-n %s link set %s down", l.namespace(l.router()), m.downlink()); err != nil {
		return o, err
	}
	return l.outlive(ctx, m, began)
}

// outlive waits until the peers of a node agree without it and its clients have
// lost patience. It has died by now.
func (l *lab) outlive(ctx context.Context, m machine, began time.Time) (o outcome, err error) {
	o.died = nodeDied(m, time.Now())
	err = l.until(ctx, calmTime, "its peers agree without it", func() error { return l.agreedWithout(m) })
	pause(ctx, answerTime+beat)
	peers := slices.DeleteFunc(l.role("node"), func(p machine) bool { return p.Name == m.Name })
	o.note = fmt.Sprintf("seen after %s", l.noticed(began, peers, m))
	return o, err
}

// restoreLink brings the link back. The router tells of the VIP when the node is
// ready.
func (l *lab) restoreLink(ctx context.Context) (o outcome, err error) {
	m := l.role("node")[2]
	err = errors.Join(l.announce(0, m.Name), ip("-n %s link set %s up", l.namespace(l.router()), m.downlink()))
	return o, errors.Join(err, l.settled(ctx), l.announce(0))
}

func (l *lab) powerCut(ctx context.Context) (o outcome, err error) {
	m := l.role("node")[2]
	began := time.Now()
	if err := l.cutPower(m); err != nil {
		return o, err
	}
	return l.outlive(ctx, m, began)
}

func (l *lab) powerBack(ctx context.Context) (o outcome, err error) {
	m := l.role("node")[2]
	return o, errors.Join(l.restorePower(m), l.settled(ctx), l.announce(0))
}

func (l *lab) killInDrain(ctx context.Context) (o outcome, err error) {
	nodes := l.role("node")
	if err := l.drain(nodes[0]); err != nil {
		return o, err
	}
	pause(ctx, 300*time.Millisecond)
	began := time.Now()
	if err := l.cutPower(nodes[2]); err != nil {
		return o, err
	}
	return l.outlive(ctx, nodes[2], began)
}

func (l *lab) bothBack(ctx context.Context) (o outcome, err error) {
	nodes := l.role("node")
	err = errors.Join(l.restorePower(nodes[2]), l.undrain(nodes[0]))
	return o, errors.Join(err, l.settled(ctx), l.announce(0))
}

var epochLine = regexp.MustCompile(`(?m)^time=(\S+) .*msg=epoch\.(?:minted|learnt) .*detail="(.*)"$`)

// noticed says when the last of the peers had an epoch without m, by their logs.
func (l *lab) noticed(began time.Time, peers []machine, m machine) string {
	var last time.Duration
	for _, p := range peers {
		text, err := os.ReadFile(l.path(p.Name + ".log"))
		if err != nil {
			return "?"
		}
		at, found := firstWithout(string(text), began, m.Name)
		if !found {
			return "?"
		}
		last = max(last, at.Sub(began))
	}
	return fmt.Sprintf("%.1f s", last.Seconds())
}

// firstWithout finds the first epoch after a moment that does not list a node.
func firstWithout(log string, after time.Time, node string) (at time.Time, found bool) {
	for _, line := range epochLine.FindAllStringSubmatch(log, -1) {
		at, err := time.Parse(time.RFC3339, line[1])
		if err == nil && at.After(after) && !strings.Contains(line[2], " "+node+"=") {
			return at, true
		}
	}
	return at, false
}
