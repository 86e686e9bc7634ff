package l7

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"strings"

	"github.com/cirque-lb/lb"
)

// secrets are what files hold that TLS needs, parsed, by a digest of their
// contents: a reload parses what has changed, and backends share what they are
// verified by. They are never changed once they are built.
type secrets struct {
	pairs map[[32]byte]*namedPair
	pools map[[32]byte]*x509.CertPool
}

// namedPair is a certificate with its chain and key, and the names it is good
// for. Its Leaf is not kept: it is twice the size of all the rest, and rarely
// looked at.
type namedPair struct {
	tls.Certificate
	names []string // in lower case; a wildcard begins with *
}

func newNamedPair(c tls.Certificate) *namedPair {
	p := &namedPair{Certificate: c}
	for _, name := range c.Leaf.DNSNames {
		p.names = append(p.names, strings.ToLower(name))
	}
	if len(p.names) == 0 && c.Leaf.Subject.CommonName != "" {
		p.names = []string{strings.ToLower(c.Leaf.Subject.CommonName)}
	}
	p.Leaf = nil
	return p
}

// withLeaf is a certificate with its leaf.
func withLeaf(c *tls.Certificate) *tls.Certificate {
	full := *c
	if full.Leaf == nil {
		full.Leaf, _ = x509.ParseCertificate(full.Certificate[0]) // it was parsed before
	}
	return &full
}

// secretReader reads secrets for one configuration.
type secretReader struct {
	files    map[string][]byte
	digests  map[string][32]byte // of those that were looked at
	old, now secrets
}

// secretsFrom begins to read; what the last configuration had is not parsed
// again.
func (p *Proxy) secretsFrom(files map[string][]byte) *secretReader {
	p.mu.Lock()
	defer p.mu.Unlock()
	return &secretReader{files, map[string][32]byte{}, p.secrets, secrets{map[[32]byte]*namedPair{}, map[[32]byte]*x509.CertPool{}}}
}

// keepSecrets has the next configuration find what this one read.
func (p *Proxy) keepSecrets(r *secretReader) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.secrets = r.now
}

// pair is a certificate with its chain and key.
func (r *secretReader) pair(f lb.CertificateFiles) (*namedPair, error) {
	for _, name := range []string{f.Cert, f.Key} {
		if len(r.files[name]) == 0 {
			return nil, fmt.Errorf("certificate file %s is empty or missing", name)
		}
	}
	id := r.digest(f.Cert, f.Key)
	found := r.now.pairs[id]
	if found == nil {
		found = r.old.pairs[id]
	}
	if found == nil {
		made, err := tls.X509KeyPair(r.files[f.Cert], r.files[f.Key])
		if err != nil {
			return nil, fmt.Errorf("certificate %s with key %s: %w", f.Cert, f.Key, err)
		}
		found = newNamedPair(made)
	}
	r.now.pairs[id] = found
	return found, nil
}

// pool is the authorities in a file.
func (r *secretReader) pool(name string) (*x509.CertPool, error) {
	id := r.digest(name)
	found := r.now.pools[id]
	if found == nil {
		found = r.old.pools[id]
	}
	if found == nil {
		found = x509.NewCertPool()
		if !found.AppendCertsFromPEM(r.files[name]) {
			if name == lb.SystemCAs {
				name = "of the system"
			}
			return nil, fmt.Errorf("CA file %s holds no certificate", name)
		}
	}
	r.now.pools[id] = found
	return found, nil
}

// digest tells the contents of files apart.
func (r *secretReader) digest(names ...string) [32]byte {
	h := sha256.New()
	for _, name := range names {
		one, known := r.digests[name]
		if !known {
			one = sha256.Sum256(r.files[name])
			r.digests[name] = one
		}
		h.Write(one[:])
	}
	return [32]byte(h.Sum(nil))
}
