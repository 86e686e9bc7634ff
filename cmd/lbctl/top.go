package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb/cmd/internal/admin"
)

func (c *ctl) top() *cobra.Command {
	var every time.Duration
	var count int
	cmd := &cobra.Command{
		Use: "top", Short: "A live screen of requests, latencies, connections, errors and packets", Args: cobra.NoArgs,
		Long: `A live screen: requests, latency percentiles, connections and errors per listener
and backend, packets by how they left XDP. Keys: s and S sort by the next and
previous column, r turns the order, arrows (or j and k) choose a backend, d drains
it, u takes that back, / shows only names with a text, p pauses, q ends.

Without a terminal, or with --count, it prints plain pictures instead; with
-o json what the daemon counted, one object per line.`,
	}
	cmd.Flags().DurationVar(&every, "every", time.Second, "how often it looks")
	cmd.Flags().IntVarP(&count, "count", "n", 0, "how many plain pictures to print")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if every < 50*time.Millisecond {
			return usage{fmt.Errorf("--every %s: at least 50ms", every)}
		}
		if count > 0 || c.format != "table" || !c.terminal(c.out) || !c.terminal(c.in) {
			return untilInterrupted(cmd, c.topPlain(cmd.Context(), every, count))
		}
		return c.topScreen(cmd.Context(), fileOf(c.in), fileOf(c.out), every)
	}
	return cmd
}

func (c *ctl) traffic(ctx context.Context) (admin.Traffic, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	return c.client().Traffic(ctx)
}

// topPlain prints pictures one below the other; a count of 0 has no end.
func (c *ctl) topPlain(ctx context.Context, every time.Duration, count int) error {
	m := newTop()
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for i := 0; ; i++ {
		t, err := c.traffic(ctx)
		if err != nil {
			return err
		}
		m.learn(t)
		switch {
		case c.format == "json":
			if err := json.NewEncoder(c.out).Encode(t); err != nil {
				return err
			}
			if i+1 == count {
				return nil
			}
		case i > 0: // rates need two looks
			for _, line := range m.lines(0, 0) {
				fmt.Fprintln(c.out, line.text)
			}
			if i == count {
				return nil
			}
			fmt.Fprintln(c.out)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// topScreen draws on a terminal until q.
func (c *ctl) topScreen(ctx context.Context, in, out *os.File, every time.Duration) error {
	m := newTop()
	first, err := c.traffic(ctx)
	if err != nil {
		return err // before the screen is ours
	}
	m.learn(first)
	s, err := openScreen(in, out)
	if err != nil {
		return err
	}
	defer s.close()
	m.blocks = s.blocks
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, unix.SIGWINCH)
	defer signal.Stop(resized)
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		s.draw(m)
		select {
		case <-ctx.Done():
			return nil
		case <-resized:
		case k := <-s.keys:
			if m.key(k) {
				return nil
			}
			c.topOrder(ctx, m)
		case <-ticker.C:
			if m.paused {
				continue
			}
			t, err := c.traffic(ctx)
			if err != nil {
				m.said = err.Error() // it may come back
				continue
			}
			m.learn(t)
		}
	}
}

// topOrder carries out what a key asked for.
func (c *ctl) topOrder(ctx context.Context, m *top) {
	if m.order == nil {
		return
	}
	o := *m.order
	m.order = nil
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	if err := c.client().OrderBackend(ctx, o, admin.Ask{}); err != nil {
		m.said = err.Error()
		return
	}
	m.said = o.ID + map[bool]string{true: " drains", false: " gets requests again"}[o.Drain != nil && *o.Drain]
}

// screen is a terminal that shows one picture after the other and tells keys.
type screen struct {
	in, out *os.File
	before  unix.Termios
	colour  bool
	blocks  bool // it shows more than ASCII
	keys    chan string
	done    chan struct{}
	read    chan struct{} // closed when nobody reads any more
}

// The terminal's own language.
const (
	otherScreen = "\x1b[?1049h\x1b[?25l"
	firstScreen = "\x1b[?25h\x1b[?1049l"
)

// openScreen takes the terminal over; close gives it back as it was.
func openScreen(in, out *os.File) (*screen, error) {
	before, err := unix.IoctlGetTermios(int(in.Fd()), unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("take over the terminal: %w", err)
	}
	raw := *before
	raw.Lflag &^= unix.ICANON | unix.ECHO
	raw.Cc[unix.VSUSP] = 0                       // stopped, it would leave a strange terminal
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 0, 1 // a read ends after 100 ms
	if err := unix.IoctlSetTermios(int(in.Fd()), unix.TCSETS, &raw); err != nil {
		return nil, fmt.Errorf("take over the terminal: %w", err)
	}
	s := &screen{in: in, out: out, before: *before, colour: os.Getenv("NO_COLOR") == "", blocks: utf8Locale(), keys: make(chan string), done: make(chan struct{}), read: make(chan struct{})}
	io.WriteString(out, otherScreen)
	go s.runKeys()
	return s, nil
}

func (s *screen) close() {
	close(s.done)
	<-s.read
	io.WriteString(s.out, firstScreen)
	unix.IoctlSetTermios(int(s.in.Fd()), unix.TCSETS, &s.before) // there is nobody left to tell
}

// runKeys reads keys until the screen closes. A sequence of an arrow key comes
// in one read.
func (s *screen) runKeys() {
	defer close(s.read)
	buf := make([]byte, 64)
	for {
		n, _ := s.in.Read(buf) // nothing typed is the end of a file, too
		for _, k := range splitKeys(string(buf[:n])) {
			select {
			case s.keys <- k:
			case <-s.done:
				return
			}
		}
		select {
		case <-s.done:
			return
		default:
		}
	}
}

// splitKeys cuts what was typed into keys: an escape sequence is one.
func splitKeys(text string) []string {
	var all []string
	for len(text) > 0 {
		n := 1
		if len(text) >= 3 && text[0] == 0x1b && (text[1] == '[' || text[1] == 'O') {
			n = 3
			for n < len(text) && text[n-1] < '@' { // parameters come before the letter
				n++
			}
		}
		all, text = append(all, text[:n]), text[n:]
	}
	return all
}

// size is the terminal's, or a usual one.
func (s *screen) size() (width, height int) {
	w, err := unix.IoctlGetWinsize(int(s.out.Fd()), unix.TIOCGWINSZ)
	if err != nil || w.Col == 0 || w.Row == 0 {
		return 80, 24
	}
	return int(w.Col), int(w.Row)
}

// draw shows the picture in one write, so that it never flickers.
func (s *screen) draw(m *top) {
	width, height := s.size()
	picture := "\x1b[H"
	for i, line := range m.lines(width, height) {
		if i > 0 {
			picture += "\r\n"
		}
		picture += s.paint(line) + "\x1b[K"
	}
	io.WriteString(s.out, picture+"\x1b[J")
}

// paint gives a line its looks.
func (s *screen) paint(l line) string {
	codes := map[look]string{bold: "1", inverse: "7", alarm: "31", faint: "2"}
	if text := []rune(l.text); s.colour && l.alarm[1] > l.alarm[0] && l.alarm[1] <= len(text) {
		return string(text[:l.alarm[0]]) + "\x1b[31m" + string(text[l.alarm[0]:l.alarm[1]]) + "\x1b[0m" + string(text[l.alarm[1]:])
	}
	if l.look == usual || !s.colour && l.look == alarm {
		return l.text
	}
	return "\x1b[" + codes[l.look] + "m" + l.text + "\x1b[0m"
}

// utf8Locale reports whether the terminal's user says that it shows UTF-8.
func utf8Locale() bool {
	locale := strings.ToLower(cmp.Or(os.Getenv("LC_ALL"), os.Getenv("LC_CTYPE"), os.Getenv("LANG")))
	return strings.Contains(locale, "utf-8") || strings.Contains(locale, "utf8")
}
