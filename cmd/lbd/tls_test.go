package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"
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
  web: { bind: "127.0.0.1:%[2]d", protocol: https, tls: { certificates: [{ cert: %[1]s/a.pem, key: %[1]s/a.key }] } }
routes: [{ pool: app }]
pools: { app: { backends: [%[3]q] } }
`, s.dir, s.port, s.pool[0])
	if err := os.WriteFile(s.file(), []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// certificate writes NAME.pem and NAME.key, as renames.
func (s *site) certificate(file, name string) {
	s.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour * 1000)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		s.t.Fatal(err)
	}
	secret, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		s.t.Fatal(err)
	}
	for ext, block := range map[string]*pem.Block{".pem": {Type: "CERTIFICATE", Bytes: der}, ".key": {Type: "EC PRIVATE KEY", Bytes: secret}} {
		path := filepath.Join(s.dir, file+ext)
		if err := os.WriteFile(path+".new", pem.EncodeToMemory(block), 0o600); err != nil {
			s.t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			s.t.Fatal(err)
		}
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
