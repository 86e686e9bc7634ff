package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// perSlot is how many connections (a) opens for each slot: enough that 10 % is
// four standard deviations, so that chance fails one run in a thousand.
const perSlot = 1500

// spread opens connections that stay, and asks every node's kernel which thread
// accepted them.
func (l *lab) spread(ctx context.Context) (r report, verdicts []verdict, err error) {
	slots := l.processes() * l.threads() * len(l.role("node"))
	n := slots * perSlot
	var flows []liveFlow
	if err := l.load.do("/hold", order{N: n, AtOnce: 64}, &flows); err != nil {
		return r, nil, err
	}
	cells, err := l.cells(ports(flows, held))
	if err != nil {
		return r, nil, err
	}
	if err := l.load.do("/release", order{}, nil); err != nil {
		return r, nil, err
	}
	r, err = l.load.take()
	return r, append(judgeCells(cells, slots, n), unhurt(r)...), err
}

// cells counts the connections of the given client ports by node and slot.
func (l *lab) cells(wanted []uint16) (map[string]int, error) {
	cells := map[string]int{}
	for _, m := range l.role("node") {
		s, err := l.status(m)
		if err != nil {
			return nil, err
		}
		on, err := landed(l.VIP, s.pids())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.Name, err)
		}
		names := threadNames(m.Name, s.serving(), on)
		for port, t := range on.accepted {
			if _, found := slices.BinarySearch(wanted, port); found {
				cells[names[t]]++
			}
		}
	}
	return cells, nil
}

// threadNames names threads by their slots: loops are made in the slots' order.
func threadNames(node string, workers []workerStatus, on landing) map[thread]string {
	byPID := map[int][]thread{}
	for _, t := range on.accepted {
		if !slices.Contains(byPID[t.pid], t) {
			byPID[t.pid] = append(byPID[t.pid], t)
		}
	}
	names := map[thread]string{}
	for _, w := range workers {
		threads := byPID[w.PID]
		slices.SortFunc(threads, func(a, b thread) int { return cmp.Compare(a.epoll, b.epoll) })
		for i, t := range threads {
			names[t] = fmt.Sprintf("%s thread %d of %s", node, i, w.Name)
			if len(threads) == len(w.Slots) {
				names[t] = fmt.Sprintf("%s slot %d", node, w.Slots[i])
			}
		}
	}
	return names
}

// judgeCells wants every slot within 10 % of even.
func judgeCells(cells map[string]int, slots, opened int) []verdict {
	found, least, most := 0, opened, 0
	var list strings.Builder
	for _, name := range sortedKeys(cells) {
		n := cells[name]
		found, least, most = found+n, min(least, n), max(most, n)
		fmt.Fprintf(&list, "\n         %-24s %d", name, n)
	}
	even := float64(opened) / float64(slots)
	return []verdict{
		check(len(cells) == slots && found == opened, "%d connections found on %d of %d slots:%s", found, len(cells), slots, list.String()),
		check(found > 0 && float64(least) >= 0.9*even && float64(most) <= 1.1*even, "between %+.1f %% and %+.1f %% of even (%.0f)", 100*(float64(least)/even-1), 100*(float64(most)/even-1), even),
	}
}

// killWorker stops a worker for a moment, so that connections wait in its
// accept queue and the kernel can be asked which those are, then kills it.
func (l *lab) killWorker(ctx context.Context) (r report, verdicts []verdict, err error) {
	m := l.role("node")[0]
	s, err := l.status(m)
	if err != nil || len(s.serving()) == 0 {
		return r, nil, errors.Join(err, errors.New("no worker to kill"))
	}
	victim := s.serving()[0]
	if err := syscall.Kill(victim.PID, syscall.SIGSTOP); err != nil {
		return r, nil, fmt.Errorf("stop worker %s: %w", victim.Name, err)
	}
	pause(ctx, 400*time.Millisecond) // well below the heartbeat's second
	on, err := landed(l.VIP, s.pids())
	killed := time.Now()
	if err := errors.Join(err, syscall.Kill(victim.PID, syscall.SIGKILL)); err != nil {
		return r, nil, fmt.Errorf("kill worker %s: %w", victim.Name, err)
	}
	back := l.until(ctx, settleTime, "the worker is replaced", func() error {
		s, err := l.status(m)
		if err == nil && (!s.allReady(l.processes()) || slices.Contains(s.pids(), victim.PID)) {
			err = fmt.Errorf("workers: %+v", s.Workers)
		}
		return err
	})
	took := time.Since(killed)
	pause(ctx, l.window())
	r, err = l.load.take()
	verdicts = judgeKill(r, on, victim.PID, killed)
	verdicts = append(verdicts, check(back == nil, "worker %s of %s (pid %d) replaced after %v", victim.Name, m.Name, victim.PID, took.Round(time.Millisecond)))
	return r, verdicts, err
}

// judgeKill: only what the victim had accepted may fail.
func judgeKill(r report, on landing, victim int, killed time.Time) []verdict {
	var had, lost, innocent, late, waiting int
	for _, t := range on.accepted {
		if t.pid == victim {
			had++
		}
	}
	for _, f := range r.Failures {
		port := uint16(f.Port)
		t, accepted := on.accepted[port]
		switch {
		case f.Opened.After(killed):
			late++
		case slices.Contains(on.queued, port):
			waiting++
		case accepted && t.pid == victim:
			lost++
		default:
			innocent++
		}
	}
	return []verdict{
		check(innocent == 0, "%d of the %d connections it had accepted failed, and %d others", lost, had, innocent),
		check(late == 0, "%d connections opened after the kill failed", late),
		check(waiting == 0 && len(on.queued) > 0, "%d of the %d connections in accept queues failed", waiting, len(on.queued)),
	}
}

// killSupervisor kills a node's lbd, looks on, and starts it again.
func (l *lab) killSupervisor(ctx context.Context) (r report, verdicts []verdict, err error) {
	m := l.role("node")[2]
	before, err := l.status(m)
	if err != nil {
		return r, nil, err
	}
	if err := l.kill(m.Name); err != nil {
		return r, nil, err
	}
	pause(ctx, l.window())
	r, err = l.load.take()
	if err != nil {
		return r, nil, err
	}
	dead, through := r.all(), r.Nodes[m.Name]
	if err := l.startNode(m); err != nil {
		return r, nil, err
	}
	back := l.until(ctx, settleTime, "the nodes agree", l.agreed)
	pause(ctx, l.window())
	again, err := l.load.take()
	r.add(again)
	after, statusErr := l.status(m)
	verdicts = []verdict{
		check(dead.Failed == 0, "%d failures while it was dead (%d connections, %d of them on %s)", dead.Failed, dead.Opened, through, m.Name),
		check(back == nil && again.all().Failed == 0, "%d failures in its restart%s", again.all().Failed, because(back)),
		check(slices.Equal(sorted(before.pids()), sorted(after.pids())), "workers adopted: pids %v, before %v", after.pids(), before.pids()),
	}
	return r, append(verdicts, unhurt(r)...), errors.Join(err, statusErr)
}

// reroute opens connections, shifts the router's next hops so that every flow
// enters through another node, and asks once more on each of them.
func (l *lab) reroute(ctx context.Context) (r report, verdicts []verdict, err error) {
	const n = 1500
	var flows []liveFlow
	if err := l.load.do("/hold", order{N: n, AtOnce: 64}, &flows); err != nil {
		return r, nil, err
	}
	sample := ports(flows, held)
	sample = sample[:min(len(sample), 50)]
	before, err := l.entrances(sample)
	if err != nil {
		return r, nil, err
	}
	if err := l.announce(1); err != nil {
		return r, nil, err
	}
	after, err := l.entrances(sample)
	if err != nil {
		return r, nil, err
	}
	if err := l.load.do("/again", order{AtOnce: 64}, &flows); err != nil {
		return r, nil, err
	}
	pause(ctx, l.window())
	if err := errors.Join(l.announce(0), l.load.do("/again", order{AtOnce: 64}, &flows)); err != nil {
		return r, nil, err
	}
	alive := len(ports(flows, held))
	moved := 0
	for i := range before {
		if before[i] != after[i] {
			moved++
		}
	}
	if err := l.load.do("/release", order{}, nil); err != nil {
		return r, nil, err
	}
	r, err = l.load.take()
	verdicts = []verdict{
		check(moved == len(sample) && moved > 0, "%d of %d flows that were looked at enter through another node", moved, len(sample)),
		check(alive == n, "%d of %d connections answered there, and after the way back", alive, n),
	}
	return r, append(verdicts, unhurt(r)...), err
}

// entrances asks the router which next hop the flows of our ports take.
func (l *lab) entrances(ports []uint16) (hops []string, err error) {
	client := l.byName("client")
	for _, port := range ports {
		line := fmt.Sprintf("-n %s route get %s from %s iif %s ipproto tcp sport %d dport %d",
			l.namespace(l.router()), l.VIP.Addr(), client.address(), client.downlink(), port, l.VIP.Port())
		out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("ip %s: %w: %s", line, err, out)
		}
		_, hop, _ := strings.Cut(string(out), "via ")
		hops = append(hops, strings.Fields(hop + " ?")[0])
	}
	return hops, nil
}

// upgrade replaces a node's workers by a copy of the binary, by one that exits
// at start, and by another copy. It does not wait for the old ones to end: the
// streams they serve have no end.
func (l *lab) upgrade(ctx context.Context) (r report, verdicts []verdict, err error) {
	m := l.role("node")[0]
	broken := l.path("lbd.broken")
	if err := os.WriteFile(broken, []byte("#!/bin/sh\necho this binary is broken >&2\nexit 3\n"), 0o755); err != nil {
		return r, nil, err
	}
	for i, binary := range []string{l.path("lbd.1"), broken, l.path("lbd.2")} {
		if binary != broken {
			if err := copyFile(binary, l.lbd); err != nil {
				return r, nil, err
			}
		}
		one, v, err := l.upgradeTo(ctx, m, binary, binary == broken)
		r.add(one)
		verdicts = append(verdicts, check(v.held, "upgrade %d: %s", i+1, v.text))
		if err != nil {
			return r, verdicts, err
		}
	}
	return r, append(verdicts, unhurt(r)...), nil
}

func (l *lab) upgradeTo(ctx context.Context, m machine, binary string, broken bool) (r report, v verdict, err error) {
	before, err := l.status(m)
	if err != nil {
		return r, v, err
	}
	_, said := l.ctl(m, "upgrade", "--binary", binary)
	var after []int
	settled := l.until(ctx, settleTime, "the workers are ready", func() error {
		s, err := l.status(m) // the supervisor changes, too, and adopts them
		if after = s.pids(); err == nil && !s.allReady(l.processes()) {
			err = fmt.Errorf("workers: %+v", s.Workers)
		}
		return err
	})
	kept := slices.Equal(sorted(before.pids()), sorted(after))
	fresh := !slices.ContainsFunc(after, func(pid int) bool { return slices.Contains(before.pids(), pid) })
	if broken {
		v = check(said != nil && kept, "refused, the old workers serve on%s", because(said))
	} else {
		v = check(errors.Join(said, settled) == nil && fresh, "new workers %v for %v%s", after, before.pids(), because(errors.Join(said, settled)))
	}
	pause(ctx, l.window())
	r, err = l.load.take()
	return r, v, err
}

// because is an error's first line as the end of a sentence.
func because(err error) string {
	if err == nil {
		return ""
	}
	line, _, _ := strings.Cut(err.Error(), "\n")
	return ": " + line
}

func sorted(list []int) []int { slices.Sort(list); return list }
