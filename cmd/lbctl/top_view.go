package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// look is how a line shows.
type look int

const (
	usual look = iota
	bold
	inverse
	alarm
	faint
)

// line is one of a picture. What stands from alarm[0] to alarm[1] is trouble.
type line struct {
	text  string
	look  look
	alarm [2]int
}

// lines are the picture for a terminal of this size; 0 has no bounds.
func (m *top) lines(width, height int) []line {
	out := append([]line{{text: m.headline(), look: bold}}, m.curves(width, height)...)
	out = append(out, m.listenerLines(width)...)
	out = append(out, line{})
	foot := m.footLines(width, height == 0)
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
		if n := len([]rune(out[i].text)); out[i].look == inverse && n < width {
			out[i].text += strings.Repeat(" ", width-n) // a bar has no ragged end
		}
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
	all := m.all()
	text := fmt.Sprintf("%s  %s  %s  %s req/s  %s err/s  %s", m.last.Node, m.last.State, m.last.Time.Local().Format("15:04:05"),
		amount(all.requests), amount(all.errors), plural(all.connections, "connection"))
	if m.paused {
		text += "  PAUSED"
	}
	return text
}

// curves are the requests and errors of the last looks, newest at the right, where
// a terminal has the characters and the room for it; then an empty line.
func (m *top) curves(width, height int) []line {
	room := (min(width, 120) - len("req/s   err/s ")) / 2
	if !m.blocks || room < 10 || height < 14 {
		return []line{{}}
	}
	text := "req/s " + curve(m.past[0], room) + "  err/s "
	at := len([]rune(text))
	text += curve(m.past[1], room)
	return []line{{text: text, alarm: [2]int{at, at + room}}, {}}
}

// curve draws the last of some numbers, from zero to the greatest.
func curve(numbers []float64, room int) string {
	numbers = numbers[max(0, len(numbers)-room):]
	most := 0.0
	for _, n := range numbers {
		most = max(most, n)
	}
	out := []rune(strings.Repeat(" ", room))
	for i, n := range numbers {
		out[room-len(numbers)+i] = '_'
		if n > 0 {
			out[room-len(numbers)+i] = []rune("▁▂▃▄▅▆▇█")[int(math.Ceil(n/most*8))-1]
		}
	}
	return string(out)
}

// flow is a column of the listeners.
type flow struct {
	name  string
	width int
	cell  func(rate) string
}

var flows = []flow{
	{"CONN", 6, func(r rate) string { return strconv.Itoa(r.connections) }},
	{"REQ/S", 8, func(r rate) string { return amount(r.requests) }},
	{"ERR/S", 7, func(r rate) string { return amount(r.errors) }},
	{"P50", 8, func(r rate) string { return r.latency(r.p50) }},
	{"P90", 8, func(r rate) string { return r.latency(r.p90) }},
	{"P99", 8, func(r rate) string { return r.latency(r.p99) }},
	{"IN B/S", 9, func(r rate) string { return amount(r.in) }},
	{"OUT B/S", 9, func(r rate) string { return amount(r.out) }},
}

// listenerLines have columns of their own, as many as there is room for.
func (m *top) listenerLines(width int) []line {
	name := nameWidth("LISTENER", m.listeners)
	head := line{text: fmt.Sprintf("%-*s", name, "LISTENER"), look: inverse}
	out := make([]line, len(m.listeners))
	for i, r := range m.listeners {
		out[i].text = fmt.Sprintf("%-*s", name, r.name)
	}
	for _, c := range flows {
		if width > 0 && len(head.text)+1+c.width > width {
			break
		}
		head.text += fmt.Sprintf(" %*s", c.width, c.name)
		for i, r := range m.listeners {
			at := len([]rune(out[i].text))
			out[i].text += fmt.Sprintf(" %*s", c.width, c.cell(r))
			if c.name == "ERR/S" && r.errors > 0 {
				out[i].alarm = [2]int{at, at + 1 + c.width}
			}
		}
	}
	return append([]line{head}, out...)
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
	shown := m.fitting(width, name)
	if fixed, _ := m.row(rate{}, shown, 0, false); width > 0 {
		name = min(name, max(12, width-len([]rune(fixed))+2))
	}
	head, _ := m.row(rate{}, shown, name, true)
	out := []line{{text: head, look: inverse}}
	for i := m.first; i < min(len(some), m.first+room); i++ {
		r := some[i]
		text, errors := m.row(r, shown, name, false)
		l := line{text: text}
		switch {
		case i == at:
			l = line{text: ">" + l.text[1:], look: inverse}
		case r.state == "down" || r.state == "ejected":
			l.look = alarm
		case r.state == "drained" || r.state == "draining" || r.state == "disabled":
			l.look = faint
		case r.errors > 0:
			l.alarm = errors
		}
		out = append(out, l)
	}
	return out
}

// fitting are the columns that a terminal has room for beside whole names. The one
// that is sorted by stays.
func (m *top) fitting(width, name int) []column {
	shown := slices.Clone(columns)
	for width > 0 {
		if fixed, _ := m.row(rate{}, shown, name, false); len([]rune(fixed)) <= width {
			break
		}
		least := -1
		for i, c := range shown {
			if c.spare > 0 && c.name != columns[m.sort].name && (least < 0 || c.spare > shown[least].spare) {
				least = i
			}
		}
		if least < 0 {
			break
		}
		shown = slices.Delete(shown, least, least+1)
	}
	return shown
}

// row is a backend's line, or the head over them, where an arrow marks the order;
// and where in it the errors stand.
func (m *top) row(r rate, shown []column, name int, head bool) (text string, errors [2]int) {
	for i, c := range shown {
		value := c.cell(r)
		if head {
			value = c.name
			if c.name == columns[m.sort].name {
				value = m.arrow() + value
			}
		}
		at := len([]rune(text))
		switch i {
		case 0:
			text += fmt.Sprintf("  %-*.*s", max(name-2, 0), max(name-2, 0), value)
		case 1:
			text += fmt.Sprintf(" %-*s", c.width, value)
		default:
			text += fmt.Sprintf(" %*s", c.width, value)
		}
		if c.name == "ERR/S" {
			errors = [2]int{at, len([]rune(text))}
		}
	}
	return text, errors
}

func (m *top) arrow() string {
	if m.blocks {
		return map[bool]string{false: "↓", true: "↑"}[m.reverse]
	}
	return map[bool]string{false: "v", true: "^"}[m.reverse]
}

// footLines are the packets, what there is to say, and the keys.
func (m *top) footLines(width int, plain bool) []line {
	var out []line
	if len(m.packets) > 0 {
		text := "packets/s"
		for _, p := range m.packets {
			part := fmt.Sprintf("  %s %s %s", p.state, p.name, amount(p.packets))
			if width > 0 && len(text)+len(part) > width {
				out, text = append(out, line{text: text}), "         "
			}
			text += part
		}
		out = append(out, line{text: text})
	}
	if plain {
		return out
	}
	hidden := len(m.backends) - len(m.shown())
	switch {
	case m.typing:
		out = append(out, line{text: "/" + m.filter + "_   Enter keeps it, Esc shows all", look: bold})
	case m.asking != "":
		out = append(out, line{text: fmt.Sprintf("%s %s? y/n", m.asking, m.selected), look: bold})
	case m.said != "":
		out = append(out, line{text: m.said, look: bold})
	case hidden > 0:
		out = append(out, line{text: fmt.Sprintf("/%s hides %s", m.filter, plural(hidden, "backend")), look: faint})
	default:
		out = append(out, line{})
	}
	return append(out, line{text: keys(width), look: faint})
}

// keys says what can be pressed, as far as there is room.
func keys(width int) string {
	text := "q quit"
	for _, one := range []string{"d drain", "u undrain", "j/k choose", "s sort", "r reverse", "/ filter", "p pause"} {
		if len(text)+2+len(one) > width {
			break
		}
		text += "  " + one
	}
	return text
}
