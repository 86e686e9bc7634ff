// Command h2spec runs h2spec, the conformance tests of HTTP/2, strict ones
// included, on lbd: in clear text, on a port that serves HTTP/1 too, and over
// TLS.
//
//	make h2spec
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cirque-lb/lb/bench/rig"
	"github.com/cirque-lb/lb/l7/certtest"
)

func main() {
	lbd := flag.String("lbd", "bin/lbd", "the program")
	gobin := flag.String("go", "go", "the go command")
	flag.Parse()
	rig.EndOnInterrupt()
	if err := run(*lbd, *gobin, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "h2spec:", err)
		os.Exit(1)
	}
}

func run(lbd, gobin string, sections []string) error {
	p, err := start(lbd)
	if err != nil {
		return err
	}
	defer p.stop()
	plain, err := test(gobin, p.web, sections)
	if err != nil {
		return err
	}
	secure, err := test(gobin, p.tls, append([]string{"--tls", "--insecure"}, sections...))
	if err != nil {
		return err
	}
	fmt.Printf("clear text: %v\nTLS: %v\n", plain, secure)
	if !plain.all() || !secure.all() {
		return errors.New("not all passed")
	}
	return nil
}

type result struct{ of, passed, skipped, failed int }

func (r result) all() bool      { return r.of > 0 && r.passed == r.of }
func (r result) String() string { return fmt.Sprintf("%d of %d", r.passed, r.of) }

// test runs h2spec, which prints what it tries, and reads its last line.
func test(gobin string, port int, more []string) (r result, err error) {
	c := exec.Command(gobin, append([]string{"tool", "h2spec", "--strict", "--host", "127.0.0.1", "--port", strconv.Itoa(port)}, more...)...)
	var said bytes.Buffer
	c.Stdout, c.Stderr = io.MultiWriter(os.Stdout, &said), os.Stderr
	failed := c.Run()
	lines := strings.Split(strings.TrimSpace(said.String()), "\n")
	if _, err := fmt.Sscanf(lines[len(lines)-1], "%d tests, %d passed, %d skipped, %d failed", &r.of, &r.passed, &r.skipped, &r.failed); err != nil {
		return r, fmt.Errorf("run h2spec: %w", errors.Join(failed, err))
	}
	return r, nil
}

const document = `
node: { data_dir: "%[1]s/data", run_dir: "%[1]s/run" }
workers: { processes: 1, threads: 1 }
fastpath: { mode: off }
log: { level: error, access: off }
listeners:
  web: { bind: "127.0.0.1:%[2]d" }
  tls: { bind: "127.0.0.1:%[3]d", protocol: https, tls: { certificates: [{ cert: "%[1]s/cert.pem", key: "%[1]s/cert.key" }] } }
routes: [ { pool: app } ]
pools: { app: { backends: [%[4]q] } }
`

// proxy is a running lbd.
type proxy struct {
	cmd      *exec.Cmd
	dir      string
	web, tls int
}

func start(lbd string) (*proxy, error) {
	origin, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go http.Serve(origin, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, "a body that is long enough for windows to matter\n")
	}))
	dir, err := os.MkdirTemp("", "h2spec-")
	if err != nil {
		return nil, err
	}
	p := &proxy{dir: dir, web: freePort(), tls: freePort()}
	file := filepath.Join(dir, "lbd.yaml")
	text := fmt.Appendf(nil, document, dir, p.web, p.tls, origin.Addr().String())
	if err := errors.Join(os.Chmod(dir, 0o755), certtest.SelfSigned(24*time.Hour, "h2spec").Write(dir, "cert"), os.WriteFile(file, text, 0o644)); err != nil {
		return nil, err
	}
	p.cmd = exec.Command(lbd, "run", "-c", file)
	p.cmd.Stderr = os.Stderr
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", p.tls)); err == nil {
			c.Close()
			return p, nil
		}
	}
	p.stop()
	return nil, errors.New("lbd does not answer")
}

func (p *proxy) stop() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(10*time.Second, func() { p.cmd.Process.Kill() })
	p.cmd.Wait()
	kill.Stop()
	os.RemoveAll(p.dir)
}

func freePort() int {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}
