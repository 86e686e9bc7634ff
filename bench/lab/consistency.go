package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"time"
)

// The consistency table: what each change costs the clients, per 100 000
// connections, under load. Connections are counted by who has them: those whose
// owner lives may not notice, those of a worker or node that died are lost.

// event is a row of the table. It makes a change and waits until all is well
// again; what it returns may have been lost, and says how long that took.
type event struct {
	name string
	run  func(*lab, context.Context) (outcome, error)
}

type outcome struct {
	died func(failure) bool // its owner died; nil: nobody did
	note string
}

var events = []event{
	{"worker kill", (*lab).loseWorker},
	{"worker upgrade x 20", (*lab).upgradeMuch},
	{"node drain, and back", (*lab).drainAndBack},
	{"ECMP reshuffle", (*lab).reshuffle},
	{"ECMP reshuffle during node drain", (*lab).reshuffleInDrain},
	{"daemon restart", (*lab).restartDaemon},
	{"daemon restart on all nodes at once", (*lab).restartDaemons},
	{"schema migration on all nodes", (*lab).migrate},
	{"two nodes drained within a second", (*lab).drainTwo},
	{"partition of 10 s, healed", (*lab).partition},
	{"node's link down", (*lab).loseLink},
	{"link up again", (*lab).restoreLink},
	{"node kill", (*lab).powerCut},
	{"node return", (*lab).powerBack},
	{"node kill within a second of a drain", (*lab).killInDrain},
	{"both back within a second", (*lab).bothBack},
}

// Patience of the table's clients. TCP repeats a segment after twice the time
// that it waited before: after 11 s without a way it may take 22 to come back.
const (
	connectTime = 10 * time.Second
	answerTime  = 30 * time.Second
	lookOn      = 4 * time.Second // after all is well again
)

// row is what became of the connections.
type row struct {
	name               string
	lived, livedLost   int // connections from before, of owners that live
	opened, openedLost int // in the event
	dead, deadLost     int // of an owner that died
	failures           []failure
	slowest            ms
	notes              []string
	failed             error // to carry it out
}

// consistency prints the table.
func (l *lab) consistency(ctx context.Context, f flags) error {
	other, err := absolute(f.other)
	if err != nil {
		return err
	}
	if err := copyFile(l.path("lbd.other"), other); err != nil {
		return fmt.Errorf("copy %s: %w", other, err)
	}
	if err := l.warmUp(ctx, f.consistency); err != nil {
		return err
	}
	rows := map[string]*row{}
	var last *row
	var order []string
	for round := range f.rounds {
		for _, e := range events {
			if !slices.ContainsFunc(strings.Split(f.rows, ","), func(part string) bool { return strings.Contains(e.name, part) }) {
				continue
			}
			if rows[e.name] == nil {
				rows[e.name] = &row{name: e.name}
				order = append(order, e.name)
			}
			r := rows[e.name]
			if err := l.blame(last); err != nil {
				return err
			}
			last = r
			r.failed = errors.Join(r.failed, l.suffer(ctx, e, r))
			if ctx.Err() != nil {
				return ctx.Err()
			}
			fmt.Fprintf(os.Stderr, "round %d: %s\n", round+1, r)
			for _, f := range r.failures[:min(len(r.failures), 10)] {
				fmt.Fprintf(os.Stderr, "    %s\n", f)
			}
			r.failures = nil
		}
	}
	pause(ctx, answerTime)
	if err := l.blame(last); err != nil {
		return err
	}
	return l.tell(rows, order)
}

// blame gives what failed since the last event to that.
func (l *lab) blame(last *row) error {
	r, err := l.load.take()
	if last == nil || err != nil {
		return err
	}
	for _, f := range r.Failures {
		last.livedLost++
		fmt.Fprintf(os.Stderr, "%s, later: %s\n", last.name, f)
	}
	return nil
}

// warmUp starts the load and lets it come to rest.
func (l *lab) warmUp(ctx context.Context, connections int) error {
	o := l.crowd(connections)
	if err := l.load.do("/steady", o, nil); err != nil {
		return err
	}
	pause(ctx, 3*beat+lookOn)
	r, err := l.load.take()
	if err == nil && (r.all().Failed > 0 || r.all().Live < connections*9/10) {
		show(r, nil)
		err = errors.New("connections fail before anything was done to them")
	}
	return err
}

// crowd is the load: mostly tunnels, which no upgrade and no drain asks to go.
func (l *lab) crowd(connections int) order {
	return order{
		Tunnels: connections * 8 / 10, Keep: connections / 10, Slow: connections / 10, PerSecond: 100,
		Connect: ms(connectTime.Milliseconds()), Answer: ms(answerTime.Milliseconds()),
	}
}

// suffer runs an event once and adds what it cost to its row.
func (l *lab) suffer(ctx context.Context, e event, to *row) error {
	var flows []liveFlow
	if err := l.load.do("/flows", order{}, &flows); err != nil {
		return err
	}
	began := time.Now()
	out, err := e.run(l, ctx)
	pause(ctx, lookOn)
	r, err2 := l.load.take()
	to.add(r, began, flows, out)
	return errors.Join(err, err2, l.calm(ctx))
}

// calm ends all tunnels, so that the next ones spread over all nodes, and waits
// until the load is at rest.
func (l *lab) calm(ctx context.Context) error {
	if err := l.load.do("/renew", order{}, nil); err != nil {
		return err
	}
	pause(ctx, 3*beat)
	return nil
}

// add sorts what happened by when connections began and who had them.
func (to *row) add(r report, began time.Time, flows []liveFlow, out outcome) {
	t := r.all()
	died := out.died
	if died == nil {
		died = func(failure) bool { return false }
	}
	dead := 0
	for _, f := range flows {
		if died(failure{Kind: f.Kind, Port: f.Port, Node: f.Node, Opened: began.Add(-time.Second)}) {
			dead++
		}
	}
	lost, late, excused := 0, 0, 0
	for _, f := range r.Failures {
		switch {
		case died(f):
			excused++
		case f.Opened.Before(began):
			lost++
		default:
			late++
		}
		if !died(f) {
			to.failures = append(to.failures, f)
		}
	}
	to.lived, to.livedLost = to.lived+len(flows)-dead, to.livedLost+lost
	to.opened, to.openedLost = to.opened+t.Opened, to.openedLost+late
	to.dead, to.deadLost = to.dead+max(dead, excused), to.deadLost+excused
	to.slowest = max(to.slowest, t.Slowest)
	if out.note != "" {
		to.notes = append(to.notes, out.note)
	}
}

// per is a count per 100 000.
func per(lost, of int) string {
	if of == 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f", math.Ceil(100_000*float64(lost)/float64(of)))
}

func (r *row) String() string {
	text := fmt.Sprintf("%-38s %8d %6s   %8d %6s   %6d of %-6d %6d ms  %s", r.name, r.lived, per(r.livedLost, r.lived), r.opened, per(r.openedLost, r.opened), r.deadLost, r.dead, r.slowest, strings.Join(r.notes, ", "))
	if r.failed != nil {
		text += fmt.Sprintf("  FAILED: %v", r.failed)
	}
	return text
}

// tell prints all rows; its last line says what held.
func (l *lab) tell(rows map[string]*row, order []string) error {
	fmt.Printf("\nReset or failed per 100 000 connections\n")
	fmt.Printf("%-38s %15s   %15s   %16s %9s\n", "", "before, alive", "new", "of who died", "slowest")
	bad, watched := 0, 0
	for _, name := range order {
		r := rows[name]
		fmt.Println(r)
		watched += r.lived + r.opened
		if r.livedLost+r.openedLost > 0 || r.failed != nil {
			bad++
		}
	}
	fmt.Println()
	if bad > 0 {
		return fmt.Errorf("%d of %d rows cost connections whose owner lives, or could not be carried out", bad, len(order))
	}
	fmt.Printf("held: in %d rows no connection was lost whose owner lives, of %d\n", len(order), watched)
	return nil
}
