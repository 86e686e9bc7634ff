// Package certtest makes certificates for tests and benches: ECDSA P-256, good
// from now on. It panics where only a broken source of randomness can fail.
package certtest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
)

// Authority signs certificates.
type Authority struct {
	Certificate *x509.Certificate
	Key         *ecdsa.PrivateKey
}

// Pair is a certificate and its key, both as PEM.
type Pair struct{ Cert, Key []byte }

var serial atomic.Int64

// New makes an authority that is good for a day.
func New(name string) *Authority {
	template := leaf(24*time.Hour, name)
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	key := newKey()
	c, err := x509.ParseCertificate(sign(template, template, key, key))
	return &Authority{must(c, err), key}
}

// PEM is the authority's own certificate.
func (a *Authority) PEM() []byte { return block("CERTIFICATE", a.Certificate.Raw) }

// Pool believes this authority alone.
func (a *Authority) Pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.Certificate)
	return p
}

// Issue makes a certificate for servers and clients, for host names and
// addresses. A negative time makes one that has expired.
func (a *Authority) Issue(good time.Duration, subject string, names ...string) Pair {
	key := newKey()
	return pair(sign(leaf(good, subject, names...), a.Certificate, key, a.Key), key)
}

// SelfSigned makes a certificate that nobody believes, its first name the
// subject.
func SelfSigned(good time.Duration, names ...string) Pair {
	template, key := leaf(good, names[0], names...), newKey()
	return pair(sign(template, template, key, key), key)
}

// TLS is the pair as package tls takes it.
func (p Pair) TLS() tls.Certificate { return must(tls.X509KeyPair(p.Cert, p.Key)) }

// Write replaces NAME.pem, NAME.key and NAME.both, which is how HAProxy has
// them, in a directory, each by a rename.
func (p Pair) Write(dir, name string) error {
	path := filepath.Join(dir, name)
	return errors.Join(replace(path+".pem", p.Cert), replace(path+".key", p.Key), replace(path+".both", p.Cert, p.Key))
}

func replace(path string, texts ...[]byte) error {
	if err := os.WriteFile(path+".new", bytes.Join(texts, nil), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func leaf(good time.Duration, subject string, names ...string) *x509.Certificate {
	now := time.Now()
	c := &x509.Certificate{
		SerialNumber: big.NewInt(now.Unix()<<20 + serial.Add(1)), Subject: pkix.Name{CommonName: subject},
		NotBefore: now.Add(min(-time.Hour, 2*good)), NotAfter: now.Add(good),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			c.IPAddresses = append(c.IPAddresses, ip)
		} else {
			c.DNSNames = append(c.DNSNames, n)
		}
	}
	return c
}

func newKey() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) }

func sign(c, by *x509.Certificate, key, signer *ecdsa.PrivateKey) []byte {
	return must(x509.CreateCertificate(rand.Reader, c, by, &key.PublicKey, signer))
}

func pair(der []byte, key *ecdsa.PrivateKey) Pair {
	return Pair{block("CERTIFICATE", der), block("PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(key)))}
}

func block(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
