package main

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cirque-lb/lb/cmd/internal/admin"
)

// top is what the live screen shows: a model without a terminal. It learns what
// the daemon counted, hears keys, and gives lines.
type top struct {
	last  admin.Traffic
	since time.Duration // between the last two looks; 0: there was one only

	listeners, backends []rate
	packets             []rate
	past                [2][]float64 // requests and errors per second, oldest first

	sort     int // index into columns
	reverse  bool
	selected string // name of a backend
	first    int    // the first backend shown
	filter   string
	typing   bool   // keys go to filter
	asking   string // a question that y answers
	paused   bool
	said     string
	blocks   bool                // the terminal shows more than ASCII
	order    *admin.BackendOrder // what a key asked for; who carries it out clears it
}

// rate is a flow between two looks.
type rate struct {
	name, state         string
	connections, active int
	requests, errors    float64 // per second
	in, out             float64 // bytes per second
	p50, p90, p99       time.Duration
	timed               bool // there are percentiles
	packets             float64
}

func newTop() *top { return &top{sort: slices.Index(columnNames(), "REQ/S")} }

// column is one of the table of backends: how it reads, and how it sorts. What
// matters is great, so numbers sort downwards.
type column struct {
	name  string
	width int
	cell  func(rate) string
	order func(a, b rate) int
	spare int // in a narrow terminal the greatest goes first; 0 stays
}

var columns = []column{
	{"BACKEND", 0, func(r rate) string { return r.name }, func(a, b rate) int { return cmp.Compare(a.name, b.name) }, 0},
	{"STATE", 9, func(r rate) string { return r.state }, func(a, b rate) int { return cmp.Compare(a.state, b.state) }, 0},
	{"CONN", 6, func(r rate) string { return strconv.Itoa(r.connections) }, func(a, b rate) int { return cmp.Compare(b.connections, a.connections) }, 3},
	{"ACTIVE", 6, func(r rate) string { return strconv.Itoa(r.active) }, func(a, b rate) int { return cmp.Compare(b.active, a.active) }, 1},
	{"REQ/S", 8, func(r rate) string { return amount(r.requests) }, func(a, b rate) int { return cmp.Compare(b.requests, a.requests) }, 0},
	{"ERR/S", 7, func(r rate) string { return amount(r.errors) }, func(a, b rate) int { return cmp.Compare(b.errors, a.errors) }, 0},
	{"P50", 8, func(r rate) string { return r.latency(r.p50) }, func(a, b rate) int { return cmp.Compare(b.p50, a.p50) }, 2},
	{"P90", 8, func(r rate) string { return r.latency(r.p90) }, func(a, b rate) int { return cmp.Compare(b.p90, a.p90) }, 4},
	{"P99", 8, func(r rate) string { return r.latency(r.p99) }, func(a, b rate) int { return cmp.Compare(b.p99, a.p99) }, 0},
}

func columnNames() []string {
	var names []string
	for _, c := range columns {
		names = append(names, c.name)
	}
	return names
}

// learn takes in another look.
func (m *top) learn(t admin.Traffic) {
	m.since = 0
	if !m.last.Time.IsZero() {
		m.since = t.Time.Sub(m.last.Time)
	}
	m.listeners = m.rates(m.last.Listeners, t.Listeners)
	m.backends = m.rates(m.last.Backends, t.Backends)
	m.packets = nil
	before := map[string]float64{}
	for _, p := range m.last.Packets {
		before[p.Reason] = p.Count
	}
	for _, p := range t.Packets {
		if n := m.per(before[p.Reason], p.Count); n > 0 {
			m.packets = append(m.packets, rate{name: p.Reason, state: p.Verdict, packets: n})
		}
	}
	slices.SortFunc(m.packets, func(a, b rate) int { return cmp.Or(cmp.Compare(b.packets, a.packets), cmp.Compare(a.name, b.name)) })
	m.last = t
	if m.since > 0 {
		m.remember()
	}
}

// memory is how many looks the curves at the top show at most.
const memory = 300

func (m *top) remember() {
	all := m.all()
	for i, now := range []float64{all.requests, all.errors} {
		m.past[i] = append(m.past[i], now)
		if len(m.past[i]) > memory {
			m.past[i] = m.past[i][1:]
		}
	}
}

// all is the sum of the listeners.
func (m *top) all() (sum rate) {
	for _, r := range m.listeners {
		sum.requests += r.requests
		sum.errors += r.errors
		sum.connections += r.connections
	}
	return sum
}

// per is a rate between two looks. What counts backwards began anew.
func (m *top) per(before, now float64) float64 {
	if m.since <= 0 || now < before {
		return 0
	}
	return (now - before) / m.since.Seconds()
}

func (m *top) rates(before, now []admin.Flow) []rate {
	was := map[string]admin.Flow{}
	for _, f := range before {
		was[f.Name] = f
	}
	out := make([]rate, len(now))
	for i, f := range now {
		b := was[f.Name]
		out[i] = rate{
			name: f.Name, state: f.State, connections: f.Connections, active: f.Active,
			requests: m.per(b.Requests, f.Requests), errors: m.per(b.Errors, f.Errors),
			in: m.per(b.BytesIn, f.BytesIn), out: m.per(b.BytesOut, f.BytesOut),
		}
		out[i].percentiles(b.Latency, f.Latency)
	}
	return out
}

// percentiles are those of the requests between two looks.
func (r *rate) percentiles(before, now *admin.Latency) {
	if now == nil {
		return
	}
	counts := make([]uint64, len(now.Buckets)) // cumulative
	total := now.Count
	for i, b := range now.Buckets {
		counts[i] = b.N
		if before != nil && i < len(before.Buckets) && b.N >= before.Buckets[i].N {
			counts[i] -= before.Buckets[i].N
		}
	}
	if before != nil && total >= before.Count {
		total -= before.Count
	}
	if total == 0 || len(counts) == 0 {
		return
	}
	r.timed = true
	at := func(share float64) time.Duration {
		rank, low, under := share*float64(total), 0.0, uint64(0)
		for i, n := range counts {
			high := now.Buckets[i].Le
			if float64(n) >= rank {
				inside := (rank - float64(under)) / float64(max(n-under, 1))
				return time.Duration((low + (high-low)*inside) * float64(time.Second))
			}
			low, under = high, n
		}
		return time.Duration(low * float64(time.Second)) // above all bounds: at least the last
	}
	r.p50, r.p90, r.p99 = at(.5), at(.9), at(.99)
}

func (r rate) latency(d time.Duration) string {
	if !r.timed {
		return "-"
	}
	switch {
	case d >= 10*time.Second:
		return fmt.Sprintf("%.0fs", d.Seconds())
	case d >= time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d >= 10*time.Millisecond:
		return fmt.Sprintf("%.0fms", d.Seconds()*1e3)
	case d >= time.Millisecond:
		return fmt.Sprintf("%.1fms", d.Seconds()*1e3)
	}
	return fmt.Sprintf("%.0fus", d.Seconds()*1e6)
}

// amount is a number in few characters.
func amount(n float64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.1fG", n/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1fM", n/1e6)
	case n >= 1e4:
		return fmt.Sprintf("%.1fk", n/1e3)
	case n >= 100, n == 0:
		return fmt.Sprintf("%.0f", n)
	}
	return fmt.Sprintf("%.1f", n)
}

// shown are the backends in the order of the screen.
func (m *top) shown() []rate {
	var some []rate
	for _, r := range m.backends {
		if strings.Contains(r.name, m.filter) {
			some = append(some, r)
		}
	}
	slices.SortStableFunc(some, func(a, b rate) int {
		order := columns[m.sort].order(a, b)
		if m.reverse {
			order = -order
		}
		return cmp.Or(order, cmp.Compare(a.name, b.name))
	})
	return some
}

// key hears one key; it reports whether the user wants to go.
func (m *top) key(k string) (quit bool) {
	switch {
	case m.typing:
		m.typed(k)
		return false
	case m.asking != "":
		m.answered(k)
		return false
	}
	m.said = ""
	switch k {
	case "q", "Q", "\x03":
		return true
	case "s":
		m.sort = (m.sort + 1) % len(columns)
	case "S":
		m.sort = (m.sort + len(columns) - 1) % len(columns)
	case "r":
		m.reverse = !m.reverse
	case "p", " ":
		m.paused = !m.paused
	case "/":
		m.typing = true
	case "j", "\x1b[B", "\x1bOB":
		m.move(1)
	case "k", "\x1b[A", "\x1bOA":
		m.move(-1)
	case "\x1b[6~":
		m.move(10)
	case "\x1b[5~":
		m.move(-10)
	case "g", "\x1b[H":
		m.move(-len(m.backends))
	case "G", "\x1b[F":
		m.move(len(m.backends))
	case "d":
		m.ask("drain")
	case "u":
		m.ask("undrain")
	}
	return false
}

// typed edits the filter.
func (m *top) typed(k string) {
	switch {
	case k == "\r" || k == "\n":
		m.typing = false
	case k == "\x1b":
		m.typing, m.filter = false, ""
	case k == "\x7f" || k == "\b":
		m.filter = m.filter[:max(0, len(m.filter)-1)]
	case len(k) == 1 && k >= " ":
		m.filter += k
	}
}

// move chooses another backend; with none chosen it begins at the first.
func (m *top) move(by int) {
	some := m.shown()
	if len(some) == 0 {
		return
	}
	i := slices.IndexFunc(some, func(r rate) bool { return r.name == m.selected })
	if i >= 0 {
		i = min(max(i+by, 0), len(some)-1)
	}
	m.selected = some[max(i, 0)].name
}

func (m *top) ask(what string) {
	if m.selected == "" {
		m.said = "choose a backend first: arrows, or j and k"
		return
	}
	m.asking = what
}

func (m *top) answered(k string) {
	if k == "y" || k == "Y" {
		drain := m.asking == "drain"
		m.order = &admin.BackendOrder{ID: m.selected, Drain: &drain}
	}
	m.asking = ""
}
