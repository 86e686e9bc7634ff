// Command overload offers proxies once, twice and four times as many connections
// as they are allowed to have, and says what becomes of them: lbd, nginx and
// HAProxy, as far as they are here.
//
//	go run ./bench/overload [-peer lbd] [-only memory]
//
// Each client makes a connection, asks once and goes; the origin answers after
// 200 ms, so that a limit of 50 connections is a capacity of 250 a second, which
// leaves proxy and machine at ease. (Memory is met by large requests that take a
// second.) What is offered does not wait for answers. Beside it eight clients that were connected
// before ask all the time. Each row has what was answered in a second (goodput),
// what was refused and with which words, what met no answer, and the 99th
// percentile of those that were answered. Afterwards a quarter is offered: nothing
// may fail, and the processes have to be those that there were. It fails when lbd loses
// a process, a client that was connected before, or more than a fifth of its
// goodput, when it refuses without a reason, or when it does not recover. Only
// memory may be short for those who were connected before, too.
package main

import (
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/cirque-lb/lb/bench/rig"
)

const (
	limit   = 50                                                  // connections that a proxy may have
	takes   = 200 * time.Millisecond                              // the origin's time for an answer
	long    = time.Second                                         // its time at /long
	full    = 0.9 * limit * float64(time.Second) / float64(takes) // clients in a second that nearly fill it
	length  = 3 * time.Second                                     // of a row
	friends = 8                                                   // clients that are connected before
	pace    = 50 * time.Millisecond                               // of theirs
)

// overload is one limit that is met.
type overload struct {
	name  string
	pairs func(*rig.Proxy) []string // what it makes of a proxy's configuration; nil: it has no such limit
	ask   string                    // the request of those that are too many
	from  func(i int) string        // the address of the i-th of them
	rate  float64                   // offered in a second, once
	files int                       // the processes may open no more; 0: as many as they like
}

// steps are how many times the capacity is offered; afterwards it is calm.
var steps = []float64{1, 2, 4, 1, calm}

const calm = 0.25

func main() {
	log.SetFlags(0)
	peer := flag.String("peer", "", "only this one: lbd, nginx or haproxy")
	only := flag.String("only", "", "only limits whose name contains this")
	flag.Parse()
	if err := run(*peer, *only); err != nil {
		log.Fatal("overload: ", err)
	}
}

func run(peer, only string) error {
	origin, err := startOrigin()
	if err != nil {
		return fmt.Errorf("serve the origin: %w", err)
	}
	defer origin.Close()
	fmt.Println("| limit | proxy | offered | answered/s | refused | no answer | p99 | connected before: failed, p99 | |\n|---|---|---|---|---|---|---|---|---|")
	held, missed := 0, 0
	for i := range proxies {
		p := &proxies[i]
		if peer != "" && p.Name != peer {
			continue
		}
		for _, o := range overloads {
			if !strings.Contains(o.name, only) || o.pairs(p) == nil {
				continue
			}
			wrong, err := o.visit(p, origin.Addr)
			if err != nil {
				fmt.Fprintf(os.Stderr, "overload: skip %s: %v\n", p.Name, err)
				break
			}
			switch {
			case p.Name != "lbd":
			case wrong == 0:
				held++
			default:
				missed++
			}
		}
	}
	fmt.Printf("\nlbd held %d of %d\n", held, held+missed)
	if missed > 0 {
		return fmt.Errorf("lbd missed %d of %d", missed, held+missed)
	}
	return nil
}

// visit offers a proxy the load in steps; it counts what is wrong.
func (o *overload) visit(p *rig.Proxy, origin string) (wrong int, err error) {
	one := *p
	if o.files > 0 {
		one.Command = func(dir, config string) *exec.Cmd {
			c := p.Command(dir, config)
			return exec.Command("sh", append([]string{"-c", fmt.Sprintf(`ulimit -n %d; exec "$@"`, o.files), "sh"}, c.Args...)...)
		}
	}
	r, err := one.Start(origin, o.pairs(p)...)
	if err != nil {
		return 0, err
	}
	defer r.Stop()
	f, err := connect(r.Addr)
	if err != nil {
		return 0, err
	}
	defer f.close()
	before := rig.Family(r.Pid)
	var all []*outcome
	for _, times := range steps {
		c := f.beside(func() *outcome { return o.offer(r.Addr, o.rate*times) })
		c.died = !slices.Equal(before, rig.Family(r.Pid))
		all = append(all, c)
		time.Sleep(500 * time.Millisecond)
	}
	for i, c := range all {
		bad := c.wrong(min(all[0].goodput(), all[3].goodput()), steps[i])
		wrong += len(bad)
		said := "held"
		if len(bad) > 0 {
			said = strings.Join(bad, "; ")
		}
		before := fmt.Sprintf("%d of %d, %v", c.friendsFailed, c.friendsAsked, ms(quantile(c.friends)))
		if c.friendsRefused > 0 {
			before = fmt.Sprintf("%d refused, ", c.friendsRefused) + before
		}
		fmt.Printf("| %s | %s | %gx | %.0f | %s | %s | %v | %s | %s |\n", o.name, p.Name, steps[i], c.goodput(), c.list(true), c.list(false), ms(c.p99()), before, said)
	}
	return wrong, nil
}

// wrong says in what an outcome is not what we want it to be. The same load was
// offered once before and after: the machine may have other things to do.
func (c *outcome) wrong(once, times float64) (bad []string) {
	if c.died {
		bad = append(bad, "a process died")
	}
	if c.friendsFailed > 0 {
		bad = append(bad, fmt.Sprintf("%d that were connected before failed: %s", c.friendsFailed, c.why))
	}
	if times > 1 && c.goodput() < 0.8*once {
		bad = append(bad, fmt.Sprintf("goodput fell to %.0f %%", 100*c.goodput()/once))
	}
	if times == calm && len(c.ends) > 1 {
		bad = append(bad, "did not recover")
	}
	if n := c.ends["503"]; n > 0 {
		bad = append(bad, fmt.Sprintf("%d refused without a reason", n))
	}
	return bad
}

func ms(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }
