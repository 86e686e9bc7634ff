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

	sort     int // index into columns
	reverse  bool
	selected string // name of a backend
	first    int    // the first backend shown
	filter   string
	typing   bool   // keys go to filter
	asking   string // a question that y answers
	paused   bool
	said     string
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
}

var columns = []column{
	{"BACKEND", 0, func(r rate) string { return r.name }, func(a, b rate) int { return cmp.Compare(a.name, b.name) }},
	{"STATE", 9, func(r rate) string { return r.state }, func(a, b rate) int { return cmp.Compare(a.state, b.state) }},
	{"CONN", 6, func(r rate) string { return strconv.Itoa(r.connections) }, func(a, b rate) int { return cmp.Compare(b.connections, a.connections) }},
	{"ACTIVE", 6, func(r rate) string { return strconv.Itoa(r.active) }, func(a, b rate) int { return cmp.Compare(b.active, a.active) }},
	{"REQ/S", 8, func(r rate) string { return amount(r.requests) }, func(a, b rate) int { return cmp.Compare(b.requests, a.requests) }},
	{"ERR/S", 7, func(r rate) string { return amount(r.errors) }, func(a, b rate) int { return cmp.Compare(b.errors, a.errors) }},
	{"P50", 8, func(r rate) string { return r.latency(r.p50) }, func(a, b rate) int { return cmp.Compare(b.p50, a.p50) }},
	{"P90", 8, func(r rate) string { return r.latency(r.p90) }, func(a, b rate) int { return cmp.Compare(b.p90, a.p90) }},
	{"P99", 8, func(r rate) string { return r.latency(r.p99) }, func(a, b rate) int { return cmp.Compare(b.p99, a.p99) }},
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

// look is how a line shows.
type look int

const (
	usual look = iota
	bold
	inverse
	alarm
	faint
)

// line is one of a picture.
type line struct {
	text string
	look look
}

// lines are the picture for a terminal of this size; 0 has no bounds.
func (m *top) lines(width, height int) []line {
	out := []line{{m.headline(), bold}, {}}
	out = append(out, m.listenerLines()...)
	out = append(out, line{})
	foot := m.footLines(height == 0)
	room := len(m.backends)
	if height > 0 {
		room = height - len(out) - len(foot) - 1
	}
	out = append(out, m.backendLines(width, max(room, 1))...)
	if height > 0 {
		for len(out)+len(foot) < height { // the keys stay at the bottom
			out = append(out, line{})
		}
	}
	out = append(out, foot...)
	for i := range out {
		out[i].text = fit(out[i].text, width)
	}
	return out
}

func fit(text string, width int) string {
	text = cell(text + " ")
	text = strings.TrimRight(text, " ")
	if text == "-" {
		text = ""
	}
	if runes := []rune(text); width > 0 && len(runes) > width {
		return string(runes[:width])
	}
	return text
}

func (m *top) headline() string {
	var all rate
	for _, r := range m.listeners {
		all.requests += r.requests
		all.errors += r.errors
		all.connections += r.connections
	}
	text := fmt.Sprintf("%s  %s  %s  %s req/s  %s err/s  %s", m.last.Node, m.last.State, m.last.Time.Local().Format("15:04:05"),
		amount(all.requests), amount(all.errors), plural(all.connections, "connection"))
	if m.paused {
		text += "  PAUSED"
	}
	return text
}

// listenerLines have columns of their own.
func (m *top) listenerLines() []line {
	name := nameWidth("LISTENER", m.listeners)
	out := []line{{fmt.Sprintf("%-*s %6s %8s %7s %8s %8s %8s %9s %9s", name, "LISTENER", "CONN", "REQ/S", "ERR/S", "P50", "P90", "P99", "IN B/S", "OUT B/S"), inverse}}
	for _, r := range m.listeners {
		l := line{text: fmt.Sprintf("%-*s %6d %8s %7s %8s %8s %8s %9s %9s", name, r.name, r.connections, amount(r.requests), amount(r.errors),
			r.latency(r.p50), r.latency(r.p90), r.latency(r.p99), amount(r.in), amount(r.out))}
		if r.errors > 0 {
			l.look = alarm
		}
		out = append(out, l)
	}
	return out
}

func nameWidth(head string, all []rate) int {
	width := len(head)
	for _, r := range all {
		width = max(width, len(r.name))
	}
	return width
}

// backendLines show as many as there is room for, the chosen one among them.
func (m *top) backendLines(width, room int) []line {
	some := m.shown()
	at := slices.IndexFunc(some, func(r rate) bool { return r.name == m.selected })
	m.first = min(m.first, max(0, len(some)-room))
	if at >= 0 {
		m.first = max(min(m.first, at), at-room+1)
	}
	name := nameWidth("BACKEND", some) + 2
	if fixed := m.row(rate{}, 0, false); width > 0 {
		name = min(name, max(12, width-len(fixed)))
	}
	out := []line{{m.row(rate{}, name, true), inverse}}
	for i := m.first; i < min(len(some), m.first+room); i++ {
		r := some[i]
		l := line{text: m.row(r, name, false)}
		switch {
		case i == at:
			l = line{text: ">" + l.text[1:], look: inverse}
		case r.state == "down" || r.state == "ejected" || r.errors > 0:
			l.look = alarm
		case r.state == "drained" || r.state == "draining" || r.state == "disabled":
			l.look = faint
		}
		out = append(out, l)
	}
	return out
}

// row is a backend's line, or the head over them, where an arrow marks the
// order.
func (m *top) row(r rate, name int, head bool) string {
	var text strings.Builder
	for i, c := range columns {
		value := c.cell(r)
		if head {
			value = c.name
			if i == m.sort {
				value = map[bool]string{false: "v", true: "^"}[m.reverse] + value
			}
		}
		switch {
		case i == 0:
			fmt.Fprintf(&text, "  %-*.*s", max(name-2, 0), max(name-2, 0), value)
		case i == 1:
			fmt.Fprintf(&text, " %-*s", c.width, value)
		default:
			fmt.Fprintf(&text, " %*s", c.width, value)
		}
	}
	return text.String()
}

// footLines are the packets, what there is to say, and the keys.
func (m *top) footLines(plain bool) []line {
	var out []line
	if len(m.packets) > 0 {
		parts := []string{"packets/s"}
		for _, p := range m.packets {
			parts = append(parts, fmt.Sprintf("%s %s %s", p.state, p.name, amount(p.packets)))
		}
		out = append(out, line{text: strings.Join(parts, "  ")})
	}
	if plain {
		return out
	}
	hidden := len(m.backends) - len(m.shown())
	switch {
	case m.typing:
		out = append(out, line{"/" + m.filter + "_   Enter keeps it, Esc shows all", bold})
	case m.asking != "":
		out = append(out, line{fmt.Sprintf("%s %s? y/n", m.asking, m.selected), bold})
	case m.said != "":
		out = append(out, line{m.said, bold})
	case hidden > 0:
		out = append(out, line{fmt.Sprintf("/%s hides %s", m.filter, plural(hidden, "backend")), faint})
	default:
		out = append(out, line{})
	}
	return append(out, line{"q quit  s sort  r reverse  j/k choose  d drain  u undrain  / filter  p pause", faint})
}
