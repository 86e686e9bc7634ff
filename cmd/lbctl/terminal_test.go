package main

import (
	"fmt"
	"html"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal is a pseudo-terminal with a program on it, and the screen that a person
// in front of it sees.
type terminal struct {
	t       *testing.T
	master  *os.File
	program *exec.Cmd
	ended   chan error

	mu     sync.Mutex // guards the rest
	first  *display   // what was there before the program took the screen
	screen *display
	other  bool // the program's own screen shows
	cursor bool
	rest   string // of a sequence that is not whole yet
}

// display is rows of characters with their looks.
type display struct {
	cells    [][]glyph
	row, col int
	pen      string
}

type glyph struct {
	char rune
	pen  string // SGR codes, separated by semicolons
}

func newDisplay(width, height int) *display {
	d := &display{cells: make([][]glyph, height)}
	for i := range d.cells {
		d.cells[i] = blank(width)
	}
	return d
}

func blank(width int) []glyph {
	row := make([]glyph, width)
	for i := range row {
		row[i].char = ' '
	}
	return row
}

// onTerminal starts a program on a terminal of that size.
func onTerminal(t *testing.T, width, height int, c *exec.Cmd) *terminal {
	t.Helper()
	w := &terminal{t: t, program: c, ended: make(chan error, 1), screen: newDisplay(width, height), cursor: true}
	w.master = startOnTerminal(t, width, height, c)
	go w.runReader()
	go func() { w.ended <- c.Wait() }()
	t.Cleanup(func() { c.Process.Kill(); w.master.Close() })
	return w
}

// startOnTerminal gives the other end of the terminal.
func startOnTerminal(t *testing.T, width, height int, c *exec.Cmd) *os.File {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(height), Col: uint16(width)})
	}
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	c.Stdin, c.Stdout, c.Stderr = slave, slave, slave
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	return master
}

func (w *terminal) runReader() {
	buf := make([]byte, 32<<10)
	for {
		n, err := w.master.Read(buf)
		if err != nil {
			return // the program is gone, or the test is over
		}
		w.mu.Lock()
		w.write(w.rest + string(buf[:n]))
		w.mu.Unlock()
	}
}

// resize makes the window another size; the kernel tells the program.
func (w *terminal) resize(width, height int) {
	w.t.Helper()
	if err := unix.IoctlSetWinsize(int(w.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(height), Col: uint16(width)}); err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	w.screen = newDisplay(width, height)
	w.mu.Unlock()
}

func (w *terminal) press(keys string) {
	w.t.Helper()
	if _, err := w.master.WriteString(keys); err != nil {
		w.t.Fatal(err)
	}
}

// write obeys as much of a terminal's language as lbctl speaks; anything else fails
// the test. Called with mu held.
func (w *terminal) write(text string) {
	w.rest = ""
	for len(text) > 0 {
		if text[0] == 0x1b {
			end := strings.IndexFunc(text[min(2, len(text)):], func(r rune) bool { return r >= '@' && r <= '~' })
			if end < 0 {
				w.rest = text
				return
			}
			w.obey(text[2:2+end], text[2+end])
			text = text[3+end:]
			continue
		}
		r := []rune(text[:min(4, len(text))])[0]
		if r == '\uFFFD' && len(text) < 4 {
			w.rest = text
			return
		}
		w.screen.put(r)
		text = text[len(string(r)):]
	}
}

// obey carries a sequence out.
func (w *terminal) obey(parameters string, final byte) {
	d := w.screen
	switch sequence := parameters + string(final); {
	case sequence == "?1049h":
		w.first, w.screen, w.other = d, newDisplay(len(d.cells[0]), len(d.cells)), true
	case sequence == "?1049l":
		w.screen, w.other = w.first, false
	case sequence == "?25l", sequence == "?25h":
		w.cursor = final == 'h'
	case sequence == "H":
		d.row, d.col = 0, 0
	case sequence == "K":
		copy(d.cells[d.row][min(d.col, len(d.cells[0])):], blank(len(d.cells[0])))
	case sequence == "J":
		copy(d.cells[d.row][min(d.col, len(d.cells[0])):], blank(len(d.cells[0])))
		for i := d.row + 1; i < len(d.cells); i++ {
			d.cells[i] = blank(len(d.cells[0]))
		}
	case final == 'm':
		d.pen = strings.TrimPrefix(parameters, "0;")
		if parameters == "0" || parameters == "" {
			d.pen = ""
		}
	default:
		w.t.Errorf("a sequence that no terminal of the tests knows: ESC [ %s", sequence)
	}
}

func (d *display) put(r rune) {
	switch {
	case r == '\r':
		d.col = 0
	case r == '\n' && d.row < len(d.cells)-1:
		d.row++
	case r == '\n': // it scrolls
		d.cells = append(d.cells[1:], blank(len(d.cells[0])))
	case r >= ' ':
		if d.col < len(d.cells[0]) {
			d.cells[d.row][d.col] = glyph{r, d.pen}
		}
		d.col++
	}
}

// text is what the screen shows, a line per row.
func (w *terminal) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var s strings.Builder
	for _, row := range w.screen.cells {
		var line strings.Builder
		for _, g := range row {
			line.WriteRune(g.char)
		}
		s.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	return s.String()
}

// taken reports whether the program's own screen shows, and the cursor.
func (w *terminal) taken() (other, cursor bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.other, w.cursor
}

// until waits for what the screen shall show.
func (w *terminal) until(what string, holds func(text string) bool) {
	w.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if holds(w.text()) {
			return
		}
	}
	w.t.Fatalf("not within %s: %s; the screen:\n%s", patience, what, w.text())
}

// picture keeps the screen as a picture where ARTEFACTS says, if it does: Chromium
// draws it.
func (w *terminal) picture(name string) {
	w.t.Helper()
	dir := os.Getenv("ARTEFACTS")
	chromium, err := exec.LookPath("chromium")
	if dir == "" || err != nil {
		return
	}
	w.mu.Lock()
	page := w.screen.page()
	width, height := len(w.screen.cells[0]), len(w.screen.cells)
	w.mu.Unlock()
	file := filepath.Join(w.t.TempDir(), "screen.html")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(page), 0o644); err != nil {
		w.t.Fatal(err)
	}
	c := exec.Command(chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-background-networking",
		"--user-data-dir="+w.t.TempDir(), fmt.Sprintf("--window-size=%d,%d", width*9+24, height*18+24), "--screenshot="+filepath.Join(dir, name+".png"), "file://"+file)
	if out, err := c.CombinedOutput(); err != nil {
		w.t.Errorf("draw %s: %v\n%.500s", name, err, out)
	}
}

// page is the screen as HTML, in the colours of a usual terminal.
func (d *display) page() string {
	var s strings.Builder
	s.WriteString(`<!doctype html><meta charset=utf-8><style>body{margin:12px;background:#14181e;color:#d6dae0;font:15px/18px "DejaVu Sans Mono",monospace}
pre{margin:0;font:inherit}span{display:inline-block;width:9px;height:18px;vertical-align:top}</style><pre>`)
	for _, row := range d.cells {
		for _, g := range row {
			fmt.Fprintf(&s, "<span style=%q>%s</span>", style(g.pen), html.EscapeString(string(g.char)))
		}
		s.WriteString("\n")
	}
	return s.String() + "</pre>"
}

// style is what SGR codes look like.
func style(pen string) string {
	ink, paper, more := "#d6dae0", "", ""
	inverse := false
	for code := range strings.SplitSeq(pen, ";") {
		switch n, _ := strconv.Atoi(code); {
		case n == 1:
			more += "font-weight:bold;"
		case n == 2:
			more += "opacity:.6;"
		case n == 7:
			inverse = true
		case n >= 31 && n <= 36:
			ink = []string{"#ff6b60", "#6fd08c", "#e8b45a", "#6db1ff", "#c3a1ff", "#5fd0d0"}[n-31]
		}
	}
	if inverse {
		ink, paper = "#14181e", ink
	}
	if paper != "" {
		more += "background:" + paper + ";"
	}
	return "color:" + ink + ";" + more
}
