package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cirque-lb/lb/cmd/internal/admin"
)

// typist is somebody who types to a shell on a terminal.
type typist struct {
	t     *testing.T
	tty   *os.File
	mu    sync.Mutex // guards what follows
	shown strings.Builder
	from  int // what was shown before is old
}

// typing starts a shell that knows lbctl, and whose lbctl knows a daemon.
func typing(t *testing.T, socket string, shell ...string) *typist {
	t.Helper()
	c := exec.Command(shell[0], shell[1:]...)
	home := t.TempDir()
	c.Env = append(os.Environ(), "LBCTL_ADDR="+socket, "TERM=xterm", "PS1=> ", "HOME="+home, "ZDOTDIR="+home, "INPUTRC=/dev/null", "HISTFILE=")
	c.Dir = home
	w := &typist{t: t, tty: startOnTerminal(t, 200, 50, c)}
	var reading sync.WaitGroup
	reading.Go(func() {
		buf := make([]byte, 32<<10)
		for {
			n, err := w.tty.Read(buf)
			if err != nil {
				return // the shell is gone
			}
			w.mu.Lock()
			w.shown.Write(buf[:n])
			w.mu.Unlock()
		}
	})
	t.Cleanup(func() {
		c.Process.Kill()
		c.Wait()
		w.tty.Close()
		reading.Wait()
	})
	return w
}

// looks are what a terminal obeys instead of showing it.
var looks = regexp.MustCompile("\x1b(?:\\[[0-9;?<>=]*[a-zA-Z]|\\][^\x07]*\x07|[()][0-9A-B]|[=>78])|[\r\a\b]")

// types presses keys and waits until what is shown since matches.
func (w *typist) types(keys, pattern string) {
	w.t.Helper()
	w.mu.Lock()
	w.from = w.shown.Len()
	w.mu.Unlock()
	if _, err := w.tty.WriteString(keys); err != nil {
		w.t.Fatal(err)
	}
	want, text := regexp.MustCompile(pattern), ""
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		w.mu.Lock()
		text = looks.ReplaceAllString(w.shown.String()[w.from:], "")
		w.mu.Unlock()
		if want.MatchString(text) {
			return
		}
	}
	w.t.Fatalf("after %q not within %s: %s; shown:\n%q", keys, patience, pattern, text)
}

// completionOf is a file with lbctl's completion for a shell.
func completionOf(t *testing.T, shell, name string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	script, err := exec.Command("lbctl", "completion", shell).Output()
	if err == nil {
		err = os.WriteFile(file, script, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func needs(t *testing.T, shell string) {
	t.Helper()
	if _, err := exec.LookPath(shell); err != nil {
		t.Skip("needs " + shell)
	}
}

// known is a daemon with two backends, for as long as the test.
func known(t *testing.T, c admin.Control) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "lbd.sock")
	stop, err := serve(socket, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return socket
}

// Each shell completes words of lbctl, flags, and what the daemon has: names with
// colons and slashes in them, too.
func TestBashCompletesWithoutItsPackage(t *testing.T) {
	needs(t, "bash")
	w := typing(t, known(t, newFakeNode("document")), "bash", "--norc", "--noprofile", "-i")
	w.types("declare -F _get_comp_words_by_ref || echo a''lone\n", "alone")
	w.types("source "+completionOf(t, "bash", "lbctl.bash")+"; echo re''ady\n", "ready")
	w.types("lbctl backend dr\t", "drain $")
	w.types("ap\t", `app/10\.0\.1\.$`)
	w.types("2\t", `2:8080 $`)
	w.types("--ti\t", `--timeout(=| )$`)
	w.types("\x15lbctl why backend app/10.0.1.1:\t", `8080 $`)
	w.types("\x15lbctl backend drain app/\t", `app/10\.0\.1\.$`)
	w.types("\t\t", `1:8080 +\(up\)`)
	w.types("\x15touch next.yaml; echo ma''de\n", "made")
	w.types("true && lbctl config apply -f nex\t", `next\.yaml $`)
}

func TestBashCompletesWithItsPackage(t *testing.T) {
	needs(t, "bash")
	completion := "/usr/share/bash-completion/bash_completion"
	if _, err := os.Stat(completion); err != nil {
		t.Skip("needs the package bash-completion")
	}
	w := typing(t, known(t, newFakeNode("document")), "bash", "--norc", "--noprofile", "-i")
	w.types("source "+completion+"; source "+completionOf(t, "bash", "lbctl.bash")+"; echo re''ady\n", "ready")
	w.types("lbctl backend drain ap\t", `app/10\.0\.1\.$`)
	w.types("2\t", `2:8080 $`)
}

func TestZshCompletes(t *testing.T) {
	needs(t, "zsh")
	w := typing(t, known(t, newFakeNode("document")), "zsh", "-f", "-i")
	w.types(fmt.Sprintf("fpath=(%s $fpath); autoload -U compinit; compinit -u -D; echo re''ady\n", filepath.Dir(completionOf(t, "zsh", "_lbctl"))), "ready")
	w.types("lbctl backend dr\t", "drain $")
	w.types("ap\t", `app/10\.0\.1\.`)
	w.types("2\t", `2\\?:8080`)
}

func TestFishCompletes(t *testing.T) {
	needs(t, "fish")
	socket, script := known(t, newFakeNode("document")), completionOf(t, "fish", "lbctl.fish")
	for line, want := range map[string]string{
		"lbctl backend dr":       "drain\t",
		"lbctl backend drain ap": "app/10.0.1.1:8080\tup\napp/10.0.1.2:8080\tup\n",
	} {
		c := exec.Command("fish", "--no-config", "-c", "source "+script+"; complete -C '"+line+"'")
		c.Env = append(os.Environ(), "LBCTL_ADDR="+socket, "HOME="+t.TempDir())
		out, err := c.CombinedOutput()
		if err != nil || !strings.HasPrefix(string(out), want) {
			t.Errorf("%s: %q, %v; want %q", line, out, err, want)
		}
	}
}
