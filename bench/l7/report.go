package main

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// quantity is what a target is about.
type quantity string

const (
	total quantity = "total CPU"
	user  quantity = "user CPU"
	calls quantity = "system calls"
)

// best stands for the better one of nginx and HAProxy.
const best = "the better peer"

// target: at most so many times what of has, and so much more: microseconds, or
// calls. Without of, only so much.
type target struct {
	what  quantity
	of    string
	times float64
	plus  float64
}

// verdict is a target with what was measured.
type verdict struct {
	row, what string
	measured  string
	target    string // empty: published, no target
	held      bool
}

// report prints a row's table and judges its targets. The subject is lbd, or
// whoever is last where lbd is only compared with itself.
func report(r row, results map[string][]cost) []verdict {
	subject := "lbd"
	if slices.Contains(r.who, logging) {
		subject = logging
	}
	fmt.Printf("\n%s: CPU per request, median [spread] of %d rounds\n", r.name, len(results[subject]))
	fmt.Printf("  %-12s %10s %18s %10s %8s %12s\n", "", "total us", "[least .. most]", "user us", "calls", subject+" is")
	own := median(results[subject])
	for _, name := range r.who {
		costs := results[name]
		if len(costs) == 0 {
			continue
		}
		m := median(costs)
		counted := "-"
		if m.calls > 0 {
			counted = fmt.Sprintf("%.2f", m.calls)
		}
		least, most := slices.MinFunc(costs, byTotal).total, slices.MaxFunc(costs, byTotal).total
		fmt.Printf("  %-12s %10.2f   [%5.2f .. %5.2f] %10.2f %8s %12.2f\n", name,
			us(m.total), us(least), us(most), us(m.user), counted, us(own.total)/us(m.total))
	}
	if r := results["relay"]; len(r) > 0 {
		spread := us(slices.MaxFunc(r, byTotal).total)/us(slices.MinFunc(r, byTotal).total) - 1
		if spread > 0.05 {
			fmt.Printf("  the relay's spread is %.0f %%: this machine is noisy now, trust the ratios only so far\n", spread*100)
		}
	}
	return judge(r, results, own)
}

func judge(r row, results map[string][]cost, own cost) (verdicts []verdict) {
	if len(r.targets) == 0 {
		return []verdict{{row: r.name, what: string(total), measured: ratio(own, results, total, "nginx")}}
	}
	for _, t := range r.targets {
		v := verdict{row: r.name, what: string(t.what)}
		v.measured, v.target, v.held = t.judge(own, results)
		verdicts = append(verdicts, v)
	}
	return verdicts
}

func ratio(own cost, results map[string][]cost, q quantity, of string) string {
	if len(results[of]) == 0 {
		return "no " + of
	}
	return fmt.Sprintf("%.2f x %s", own.get(q)/median(results[of]).get(q), of)
}

func (t target) judge(own cost, results map[string][]cost) (measured, wanted string, held bool) {
	have := own.get(t.what)
	if t.of == "" {
		return fmt.Sprintf("%.2f us", have), fmt.Sprintf("<= %.1f us", t.plus), have <= t.plus
	}
	of := t.of
	if of == best {
		of = better(results)
	}
	if len(results[of]) == 0 {
		return "no " + of, fmt.Sprintf("<= %.2f x %s", t.times, of), false
	}
	peer := median(results[of]).get(t.what)
	if t.what == calls {
		if have == 0 || peer == 0 {
			return "not counted: needs root and perf", fmt.Sprintf("<= %s's + %.1f", of, t.plus), false
		}
		return fmt.Sprintf("%.2f, %s's %.2f", have, of, peer), fmt.Sprintf("<= %s's + %.1f", of, t.plus), have <= peer*t.times+t.plus
	}
	return fmt.Sprintf("%.2f x %s", have/peer, of), fmt.Sprintf("<= %.2f x %s", t.times, t.of), have <= peer*t.times+t.plus
}

// better is who of the peers took less.
func better(results map[string][]cost) string {
	name := "nginx"
	if h := results["haproxy"]; len(h) > 0 && (len(results[name]) == 0 || median(h).total < median(results[name]).total) {
		name = "haproxy"
	}
	return name
}

func (c cost) get(q quantity) float64 {
	switch q {
	case total:
		return us(c.total)
	case user:
		return us(c.user)
	}
	return c.calls
}

// conclude prints all verdicts. An error names how many targets were missed.
func conclude(verdicts []verdict) error {
	fmt.Printf("\n%-52s %-22s %-28s %s\n", "result", "", "measured", "target")
	missed := 0
	for i, v := range verdicts {
		name := v.row
		if i > 0 && verdicts[i-1].row == name {
			name = ""
		}
		word := ""
		switch {
		case v.target == "":
			word = "published"
		case v.held:
			word = "  held"
		default:
			word = "  MISSED"
			missed++
		}
		fmt.Printf("%-52s %-22s %-28s %s%s\n", name, v.what, v.measured, v.target, word)
	}
	if missed > 0 {
		return fmt.Errorf("%d of %d targets missed", missed, len(verdicts))
	}
	fmt.Println("bench: all targets held")
	return nil
}

func us(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

func byTotal(a, b cost) int { return cmp.Compare(a.total, b.total) }

// median takes each part separately.
func median(costs []cost) cost {
	return cost{
		total: middle(costs, func(c cost) time.Duration { return c.total }),
		user:  middle(costs, func(c cost) time.Duration { return c.user }),
		calls: middle(costs, func(c cost) float64 { return c.calls }),
	}
}

func middle[T any, N cmp.Ordered](of []T, get func(T) N) N {
	var list []N
	for _, o := range of {
		list = append(list, get(o))
	}
	slices.Sort(list)
	return list[len(list)/2]
}
