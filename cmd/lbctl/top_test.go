package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/cmd/internal/admin"
)

// looked is a model that has seen these flows of backends for a second.
func looked(flows ...admin.Flow) *top {
	m := newTop()
	start := admin.Traffic{Time: long, Node: "edge-1", State: "serving"}
	for _, f := range flows {
		start.Backends = append(start.Backends, admin.Flow{Name: f.Name})
	}
	m.learn(start)
	m.learn(admin.Traffic{Time: long.Add(time.Second), Node: "edge-1", State: "serving", Backends: flows})
	return m
}

func names(all []rate) string {
	var out []string
	for _, r := range all {
		out = append(out, r.name)
	}
	return strings.Join(out, " ")
}

func press(m *top, keys ...string) {
	for _, k := range keys {
		m.key(k)
	}
}

func TestRatesAreOfTheTimeBetweenTwoLooks(t *testing.T) {
	m := newTop()
	latency := func(n uint64) *admin.Latency {
		return &admin.Latency{Count: 100 * n, Buckets: []lb.Bucket{{Le: .001, N: 50 * n}, {Le: .01, N: 90 * n}, {Le: .1, N: 98 * n}}}
	}
	m.learn(admin.Traffic{Time: long, Listeners: []admin.Flow{{Name: "web", Requests: 1000, Errors: 5, BytesOut: 1e6, Latency: latency(7)}}})
	if r := m.listeners[0]; r.requests != 0 || !r.timed {
		t.Errorf("after one look: %+v, want no rates", r)
	}
	m.learn(admin.Traffic{Time: long.Add(2 * time.Second), Listeners: []admin.Flow{{Name: "web", Requests: 1200, Errors: 6, BytesOut: 3e6, Connections: 4, Latency: latency(8)}}})
	r := m.listeners[0]
	if r.requests != 100 || r.errors != .5 || r.out != 1e6 || r.connections != 4 {
		t.Errorf("rates %+v", r)
	}
	if r.p50 != time.Millisecond || r.p90 != 10*time.Millisecond || r.p99 != 100*time.Millisecond {
		t.Errorf("percentiles %s %s %s, want 1ms 10ms and, above all bounds, the last: 100ms", r.p50, r.p90, r.p99)
	}
	m.learn(admin.Traffic{Time: long.Add(3 * time.Second), Listeners: []admin.Flow{{Name: "web", Requests: 7}}})
	if r := m.listeners[0]; r.requests != 0 || r.timed {
		t.Errorf("counters that began anew give %+v, want no rate", r)
	}
}

func TestBackendsAreSortedByTheChosenColumn(t *testing.T) {
	m := looked(
		admin.Flow{Name: "app/a", Requests: 10, Errors: 3, Connections: 1, State: "up"},
		admin.Flow{Name: "app/b", Requests: 30, Connections: 2, State: "down"},
		admin.Flow{Name: "app/c", Requests: 20, Errors: 1, Connections: 9, State: "up"})
	for _, c := range []struct {
		keys []string
		want string
	}{
		{nil, "app/b app/c app/a"},
		{[]string{"r"}, "app/a app/c app/b"},
		{[]string{"r", "s"}, "app/a app/c app/b"}, // errors
		{[]string{"S", "S"}, "app/b app/a app/c"}, // active: none, so by name... and then ACTIVE before it
	} {
		press(m, c.keys...)
		if c.keys != nil && c.keys[0] == "S" {
			continue // shown below by its head
		}
		if got := names(m.shown()); got != c.want {
			t.Errorf("after %q: %s, want %s", c.keys, got, c.want)
		}
	}
	if head, _ := m.row(rate{}, columns, 12, true); !strings.Contains(head, "vACTIVE") {
		t.Errorf("the head %q does not say what it is sorted by", head)
	}
	for range columns {
		press(m, "s")
	}
	if head, _ := m.row(rate{}, columns, 12, true); !strings.Contains(head, "vACTIVE") {
		t.Errorf("after all columns the first is not back: %q", head)
	}
}

func TestKeysChooseAndDrainABackend(t *testing.T) {
	m := looked(admin.Flow{Name: "app/a", Requests: 10}, admin.Flow{Name: "app/b", Requests: 30})
	press(m, "d")
	if m.order != nil || !strings.Contains(m.said, "choose a backend") {
		t.Errorf("a drain of nothing: %v, %q", m.order, m.said)
	}
	press(m, "j", "j", "d")
	if m.order != nil || m.asking != "drain" {
		t.Errorf("it did not ask before a drain of %s", m.selected)
	}
	press(m, "n")
	if m.order != nil || m.asking != "" {
		t.Error("no is no")
	}
	press(m, "\x1b[A", "d", "y")
	if m.order == nil || m.order.ID != "app/b" || !*m.order.Drain {
		t.Errorf("order %+v, want a drain of app/b", m.order)
	}
	m.order = nil
	press(m, "G", "u", "y")
	if m.order == nil || m.order.ID != "app/a" || *m.order.Drain {
		t.Errorf("order %+v, want that of app/a taken back", m.order)
	}
	if !m.key("q") {
		t.Error("q does not end it")
	}
}

// Whoever is chosen stays so when the order changes under the cursor.
func TestTheChosenBackendStaysChosen(t *testing.T) {
	m := looked(admin.Flow{Name: "app/a", Requests: 10}, admin.Flow{Name: "app/b", Requests: 30})
	press(m, "j")
	m.learn(admin.Traffic{Time: long.Add(2 * time.Second), Backends: []admin.Flow{{Name: "app/a", Requests: 1000}, {Name: "app/b", Requests: 31}}})
	if names(m.shown()) != "app/a app/b" || m.selected != "app/b" {
		t.Errorf("%s, chosen %s; want app/b still", names(m.shown()), m.selected)
	}
}

func TestAFilterHidesTheRest(t *testing.T) {
	m := looked(admin.Flow{Name: "app/a"}, admin.Flow{Name: "db/b"})
	press(m, "/", "d", "b", "q")
	if !m.typing || m.filter != "dbq" {
		t.Errorf("typing %v, filter %q", m.typing, m.filter)
	}
	press(m, "\x7f", "\r")
	if names(m.shown()) != "db/b" || m.typing {
		t.Errorf("shown %s", names(m.shown()))
	}
	press(m, "/", "\x1b")
	if names(m.shown()) != "app/a db/b" {
		t.Errorf("after Esc: %s", names(m.shown()))
	}
}

// However many backends there are, the picture fits, the chosen one is in it,
// and the keys stand at the bottom.
func TestThePictureFitsTheTerminal(t *testing.T) {
	var flows []admin.Flow
	for i := range 500 {
		flows = append(flows, admin.Flow{Name: fmt.Sprintf("a-pool-with-quite-a-long-name/10.20.%d.%d:8080", i/256, i%256), State: "up", Requests: float64(i)})
	}
	m := looked(flows...)
	for _, size := range [][2]int{{80, 24}, {40, 12}, {200, 50}} {
		for _, keys := range [][]string{nil, {"j"}, {"G"}, {"\x1b[5~", "\x1b[5~"}, {"g"}} {
			press(m, keys...)
			lines := m.lines(size[0], size[1])
			if len(lines) != size[1] {
				t.Errorf("%v: %d lines", size, len(lines))
			}
			for _, l := range lines {
				if len([]rune(l.text)) > size[0] {
					t.Errorf("%v: a line of %d: %q", size, len(l.text), l.text)
				}
			}
			marked := slices.ContainsFunc(lines, func(l line) bool { return strings.HasPrefix(l.text, "> ") })
			if marked != (m.selected != "") {
				t.Errorf("%v after %q: the chosen backend is shown: %v", size, keys, marked)
			}
			if !strings.HasPrefix(lines[len(lines)-1].text, "q quit") {
				t.Errorf("%v: the last line is %q", size, lines[len(lines)-1].text)
			}
		}
	}
}

// In a narrow terminal columns go before names do, what it is sorted by last.
func TestANarrowTerminalKeepsNames(t *testing.T) {
	m := looked(admin.Flow{Name: "shop/192.0.2.101:8080", State: "up", Requests: 10})
	for width, want := range map[int]string{
		120: "BACKEND STATE CONN ACTIVE vREQ/S ERR/S P50 P90 P99",
		80:  "BACKEND STATE ACTIVE vREQ/S ERR/S P50 P99",
		60:  "BACKEND STATE vREQ/S ERR/S P99",
	} {
		lines := m.lines(width, 20)
		head := slices.IndexFunc(lines, func(l line) bool { return strings.Contains(l.text, "BACKEND") })
		if got := strings.Join(strings.Fields(lines[head].text), " "); got != want || len(lines[head].text) != width {
			t.Errorf("%d columns: %q, want %q", width, lines[head].text, want)
		}
		if !strings.Contains(lines[head+1].text, "shop/192.0.2.101:8080 up") {
			t.Errorf("%d columns: %q", width, lines[head+1].text)
		}
	}
}

func TestPacketsTakeAsManyLinesAsTheyNeed(t *testing.T) {
	m := looked()
	m.packets = []rate{{state: "pass", name: "xdp_local", packets: 251}, {state: "pass", name: "xdp_not_vip", packets: 192}, {state: "send", name: "xdp_sent", packets: 3}}
	var got []string
	for _, l := range m.lines(60, 20) {
		if strings.Contains(l.text, "xdp_") {
			got = append(got, l.text)
		}
	}
	want := []string{"packets/s  pass xdp_local 251  pass xdp_not_vip 192", "           send xdp_sent 3.0"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

func TestCurvesShowTheLastLooks(t *testing.T) {
	if got := curve([]float64{9, 0, 1, 4, 8}, 4); got != "_▁▄█" {
		t.Errorf("got %q", got)
	}
	if got := curve([]float64{5}, 3); got != "  █" {
		t.Errorf("got %q", got)
	}
	if m := looked(); len(m.curves(80, 24)) != 1 {
		t.Error("block characters on a terminal that may not have them")
	}
}

func TestASequenceOfBytesIsOneKey(t *testing.T) {
	got := splitKeys("j\x1b[A\x1b[6~q\x1bOB\x1b")
	want := []string{"j", "\x1b[A", "\x1b[6~", "q", "\x1bOB", "\x1b"}
	if !slices.Equal(got, want) {
		t.Errorf("keys %q, want %q", got, want)
	}
}

// A name must not drive the terminal.
func TestThePictureHasNoControlCharacters(t *testing.T) {
	m := looked(admin.Flow{Name: "app/\x1b[31mred\n", Requests: 1})
	for _, l := range m.lines(80, 24) {
		if strings.ContainsFunc(l.text, func(r rune) bool { return r < ' ' }) {
			t.Errorf("line %q", l.text)
		}
	}
}
