package app

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cirque-lb/lb/cmd/internal/admin"
	"github.com/cirque-lb/lb/l7/certtest"
)

// secure makes the site's listener one of HTTPS, with certificate a.
func (s *site) secure() {
	s.t.Helper()
	s.certificate("a", "a.example")
	text := fmt.Sprintf(`
node: { name: test, run_dir: %[1]s/run, data_dir: %[1]s/data }
workers: { processes: 2, threads: 2 }
fastpath: { mode: "off" }
log: { access: "off" }
drain: { timeout: 5s }
listeners:
  web: { bind: "127.0.0.1:%[2]d", protocol: https, tls: { certificates: [{ cert: a.pem, key: a.key }] } }
routes: [{ pool: app }]
pools: { app: { backends: [%[3]q] } }
`, s.dir, s.port, s.pool[0])
	if err := os.WriteFile(s.file(), []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// certificate writes FILE.pem and FILE.key.
func (s *site) certificate(file, name string) {
	s.t.Helper()
	if err := certtest.SelfSigned(time.Hour*1000, name).Write(s.dir, file); err != nil {
		s.t.Fatal(err)
	}
}

// handshake makes a connection and one request on it.
func (s *site) handshake(config *tls.Config) tls.ConnectionState {
	s.t.Helper()
	raw, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", s.port), 5*time.Second)
	if err != nil {
		s.t.Fatal(err)
	}
	defer raw.Close()
	raw.SetDeadline(time.Now().Add(20 * time.Second))
	c := tls.Client(raw, config)
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n"); err != nil {
		s.t.Fatal(err)
	}
	if _, err := io.ReadAll(c); err != nil { // with it come the session's tickets
		s.t.Fatal(err)
	}
	return c.ConnectionState()
}

func TestSessionsAreResumedAtAnyWorkerOfAnyLife(t *testing.T) {
	s := newSite(t)
	s.secure()
	c := s.start()
	if time.Now().Unix()%3600 > 3540 {
		t.Log("the hour may change: tickets of the one before are good, too")
	}
	for name, version := range map[string]uint16{"TLS 1.2": tls.VersionTLS12, "TLS 1.3": tls.VersionTLS13} {
		config := &tls.Config{InsecureSkipVerify: true, ServerName: "a.example", MaxVersion: version, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
		if s.handshake(config).DidResume {
			t.Errorf("%s: the first session is resumed", name)
		}
		resumed := func(when string) {
			t.Helper()
			const tries = 16 // at two workers of two threads
			n := 0
			for range tries {
				if s.handshake(config).DidResume {
					n++
				}
			}
			if n != tries {
				t.Errorf("%s, %s: %d of %d sessions were resumed", name, when, n, tries)
			}
		}
		resumed("at any worker")
		old := s.pids()
		c.Process.Signal(syscall.SIGUSR2)
		s.until("another crew serves", func() bool {
			now := s.pids()
			return len(now) >= 2 && !slices.Contains(old, now[0]) && !slices.Contains(old, now[1])
		})
		resumed("after an upgrade")
		c.Process.Kill()
		s.until("it is gone", func() bool { return syscall.Kill(c.Process.Pid, 0) != nil })
		c = s.start()
		resumed("after a restart of the supervisor")
		s.killWorkers()
		s.until("other workers", func() bool {
			now := s.workers()
			return len(now) == 2 && now[0].State == "ready" && now[1].State == "ready" && !now[0].Adopted && !now[1].Adopted
		})
		resumed("after all workers crashed")
	}
}

// Ticket keys follow from the cluster's key, so a client may come back to
// another node; a node of another cluster knows nothing of it.
func TestSessionsAreResumedAtAnyNodeOfACluster(t *testing.T) {
	node := func(key string) *site {
		s := newSite(t)
		s.secure()
		text, _ := os.ReadFile(s.file())
		keyFile := filepath.Join(s.dir, "cluster.key")
		os.WriteFile(keyFile, []byte(strings.Repeat(key, 32)+"\n"), 0o600)
		os.WriteFile(s.file(), fmt.Appendf(bytes.Replace(text, []byte("{ name: test,"), []byte("{ name: test, address: 127.0.0.1,"), 1),
			"cluster: { name: edge, bind: \"127.0.0.1:%d\", key_file: %q }\n", freePort(t), keyFile), 0o644)
		s.start()
		return s
	}
	one, two, stranger := node("a1"), node("a1"), node("b2")
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		config := &tls.Config{ServerName: "a.example", InsecureSkipVerify: true, MinVersion: version, MaxVersion: version, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
		if one.handshake(config).DidResume {
			t.Fatal("resumed without a ticket")
		}
		for range 5 { // at any worker
			if !two.handshake(config).DidResume || !one.handshake(config).DidResume {
				t.Fatalf("TLS %x: not resumed at the other node", version)
			}
		}
		if stranger.handshake(config).DidResume {
			t.Errorf("TLS %x: resumed at a node of another cluster", version)
		}
	}
}

// serial is what clients are shown: the number of the certificate.
func (s *site) serial() string {
	return s.handshake(&tls.Config{InsecureSkipVerify: true, ServerName: "a.example"}).PeerCertificates[0].SerialNumber.String()
}

func TestCertificatesAreRenewedUnderLoad(t *testing.T) {
	s := newSite(t)
	s.secure()
	s.start()
	before := s.serial()
	roots := &tls.Config{InsecureSkipVerify: true, ServerName: "a.example"}
	l := s.loadOver(4, roots)
	kept, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.port), roots)
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	answers := bufio.NewReader(kept)
	ask := func() {
		t.Helper()
		fmt.Fprint(kept, "HEAD / HTTP/1.1\r\nHost: a.example\r\n\r\n")
		if r, err := http.ReadResponse(answers, &http.Request{Method: "HEAD"}); err != nil || r.StatusCode != 200 {
			t.Errorf("on a connection that is kept: %v, %v", r, err)
		}
	}
	ask()

	ctl := admin.Dial(s.socket())
	shown, err := ctl.Certificates(t.Context())
	if err != nil || len(shown) != 1 || shown[0].Listener != "web" || !shown[0].Default || !slices.Equal(shown[0].Names, []string{"a.example"}) ||
		!strings.HasSuffix(shown[0].File, "a.pem") || shown[0].Serial != fmt.Sprintf("%x", serialNumber(t, before)) || time.Until(shown[0].Ends) < 900*time.Hour {
		t.Errorf("the certificates that are shown: %+v, %v", shown, err)
	}
	crew := s.pids()
	s.certificate("a", "a.example")
	s.until("the new certificate is shown", func() bool { return s.serial() != before })
	renewed := s.serial()
	os.WriteFile(filepath.Join(s.dir, "a.key"), []byte("-----BEGIN EC PRI"), 0o600)
	s.until("the broken one is told of", func() bool { return strings.Contains(s.out.String(), "files.refused") })
	if got := s.serial(); got != renewed {
		t.Errorf("certificate %s is shown, want %s, the last good one", got, renewed)
	}
	s.certificate("a", "a.example")
	s.until("the next one is shown", func() bool { return s.serial() != renewed })

	ask()
	l.endUnfailed(t)
	if now := s.pids(); !slices.Equal(now, crew) {
		t.Errorf("workers %v, were %v", now, crew)
	}
	t.Logf("%d requests, %d failed", l.sent.Load(), l.failed.Load())
}

func serialNumber(t *testing.T, decimal string) *big.Int {
	n, ok := new(big.Int).SetString(decimal, 10)
	if !ok {
		t.Fatal(decimal)
	}
	return n
}

func TestErrorsOfFilesPointIntoTheDocument(t *testing.T) {
	s := newSite(t)
	s.secure()
	os.Remove(filepath.Join(s.dir, "a.key"))
	want := s.file() + ":8:94: LB1501 cannot read a.key: no such file or directory\n"
	for _, args := range [][]string{{"validate", "-c", s.file()}, {"run", "-c", s.file()}} {
		s.out = &safeBuffer{}
		err := s.command(args...).Run()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != exitConfig {
			t.Errorf("%s: %v, want exit code %d", args[0], err, exitConfig)
		}
		got := s.out.String()
		if !strings.Contains(got, want) || !strings.Contains(got, "1 error.") {
			t.Errorf("%s said\n%s", args[0], got)
		}
	}
}

// The workers have no path to the authorities, only what the supervisor sent.
func TestBackendsAreVerifiedByTheSystemsCAs(t *testing.T) {
	s := newSite(t)
	backend := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "backend over TLS") }))
	defer backend.Close()
	s.secure()
	text, _ := os.ReadFile(s.file())
	text = bytes.Replace(text, []byte("pools: { app: {"), []byte("pools: { app: { tls: { server_name: example.com },"), 1)
	text = bytes.Replace(text, []byte(s.pool[0]), []byte(backend.Listener.Addr().String()), 1)
	os.WriteFile(s.file(), text, 0o644)
	cas := filepath.Join(s.dir, "cas.pem")
	os.WriteFile(cas, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: backend.Certificate().Raw}), 0o600)
	t.Setenv("SSL_CERT_FILE", cas)
	s.start()
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, ServerName: "a.example"}}}
	r, err := c.Get(fmt.Sprintf("https://127.0.0.1:%d/", s.port))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if body, _ := io.ReadAll(r.Body); r.StatusCode != 200 || string(body) != "backend over TLS\n" {
		t.Errorf("%s %q", r.Status, body)
	}
}
