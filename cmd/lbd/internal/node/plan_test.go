package node

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cirque-lb/lb"
)

func TestPlanFollowsTheTranscripts(t *testing.T) {
	transcripts(t, "testdata/plan", func(t *testing.T, script func(func(command) string)) {
		f := Facts{Fastpath: "off", Health: map[lb.BackendID]lb.Health{}}
		script(func(c command) string { return planCommand(t, &f, c) })
	})
}

func planCommand(t *testing.T, f *Facts, c command) string {
	t.Helper()
	args := c.words[1:]
	switch c.words[0] {
	case "config":
		config, err := lb.Parse([]byte(c.body), lb.Options{})
		if err != nil {
			t.Fatal(err)
		}
		f.Config = config
	case "slots":
		f.Sockets = f.sockets(args[0])
	case "slots-gone":
		f.SlotsGone = true
	case "health":
		h := lb.Unknown
		h.UnmarshalText([]byte(args[1]))
		f.Health[backendID(args[0])] = h
	case "drain-backend":
		f.Overlay = f.Overlay.with(backendID(args[0]), lb.Admin{Drain: true})
	case "weigh-backend":
		w, _ := strconv.Atoi(args[1])
		f.Overlay = f.Overlay.with(backendID(args[0]), lb.Admin{Weight: &w})
	case "drain":
		f.Overlay.DrainSince = time.Unix(1, 0)
	case "leave":
		f.Leaving = true
	case "overdue":
		f.Overdue = true
	case "address":
		f.Addresses = append(f.Addresses, netip.MustParseAddr(args[0]))
	case "fastpath":
		f.Fastpath = args[0]
	case "epoch":
		f.Clustered = true
		f.Epochs = append([]lb.Epoch{epoch(args)}, f.Epochs...)
	case "plan":
		return describe(Plan(*f))
	default:
		t.Fatalf("no command %q", c.words[0])
	}
	return ""
}

// sockets makes every listener's sockets live as a string such as "110" says.
func (f *Facts) sockets(live string) []lb.SteeredBind {
	var all []lb.SteeredBind
	for i, l := range f.Config.Listeners {
		b := lb.SteeredBind{Bind: l.Bind}
		for slot, c := range live {
			b.Sockets = append(b.Sockets, 100*(i+1)+slot)
			b.Live = append(b.Live, c == '1')
		}
		all = append(all, b)
	}
	return all
}

func backendID(text string) lb.BackendID {
	var id lb.BackendID
	id.UnmarshalText([]byte(text))
	return id
}

// epoch reads "7 edge-1 edge-1:4 edge-2:4".
func epoch(words []string) lb.Epoch {
	counter, _ := strconv.ParseUint(words[0], 10, 64)
	e := lb.Epoch{Counter: counter, Origin: words[1]}
	for _, m := range words[2:] {
		name, weight, _ := strings.Cut(m, ":")
		w, _ := strconv.Atoi(weight)
		e.Members = append(e.Members, lb.Member{Name: name, Weight: w})
	}
	return e
}

func describe(d Decision) string {
	var b strings.Builder
	fmt.Fprintf(&b, "ready %v  weight %d  draining %v  cut %v\n", d.Ready, d.Weight, d.State.Draining, d.State.Cut)
	for _, v := range d.Steering.VIPs {
		fmt.Fprintf(&b, "vip %s\n", v)
	}
	for _, v := range d.Steering.Services {
		fmt.Fprintf(&b, "service %s %s by %s\n", v.Name, v.VIP, v.Forward)
		for _, one := range v.Backends {
			fmt.Fprintf(&b, "  %s weight %d takes %v keeps %v\n", one.Address, one.Weight, one.Takes, one.Keeps)
		}
	}
	for _, bind := range d.Steering.Binds {
		fmt.Fprintf(&b, "bind %s  live %v\n", bind.Bind, bind.Live)
	}
	if d.Steering.Self != "" {
		fmt.Fprintf(&b, "self %s", d.Steering.Self)
		for _, e := range d.Steering.Epochs {
			fmt.Fprintf(&b, "  epoch %d@%s", e.Counter, e.Origin)
		}
		b.WriteString("\n")
	}
	for _, id := range sortedIDs(d.State.Health) {
		fmt.Fprintf(&b, "health %s %s\n", id, d.State.Health[id])
	}
	for _, id := range sortedIDs(d.State.Admin) {
		a := d.State.Admin[id]
		fmt.Fprintf(&b, "order %s drain=%v disable=%v", id, a.Drain, a.Disable)
		if a.Weight != nil {
			fmt.Fprintf(&b, " weight=%d", *a.Weight)
		}
		b.WriteString("\n")
	}
	for _, target := range d.Targets {
		fmt.Fprintf(&b, "check %s every %s\n", target.ID, target.Check.Interval)
	}
	for _, note := range d.Notes {
		fmt.Fprintf(&b, "note %s\n", note)
	}
	return b.String()
}

func sortedIDs[V any](m map[lb.BackendID]V) []lb.BackendID {
	return slices.SortedFunc(maps.Keys(m), func(a, b lb.BackendID) int { return strings.Compare(a.String(), b.String()) })
}

func TestIsLocal(t *testing.T) {
	host := []netip.Addr{netip.MustParseAddr("10.0.0.11"), netip.MustParseAddr("fe80::1")}
	for address, want := range map[string]bool{
		"0.0.0.0": true, "::": true, "127.0.0.1": true, "127.9.9.9": true, "::1": true,
		"10.0.0.11": true, "::ffff:10.0.0.11": true, "fe80::1%eth0": true,
		"192.0.2.10": false, "2001:db8::10": false,
	} {
		if got := IsLocal(netip.MustParseAddr(address), host); got != want {
			t.Errorf("IsLocal(%s) = %v, want %v", address, got, want)
		}
	}
}
