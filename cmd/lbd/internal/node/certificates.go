package node

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"time"

	"github.com/cirque-lb/lb"
)

// Certificate is one that this node shows: to clients of a listener, or to the
// backends of a pool.
type Certificate struct {
	Listener  string // "": it is for the backends of Pool
	Pool      string
	Default   bool // for clients that ask for no name that there is
	Subject   string
	Names     []string // host names and addresses
	Issuer    string
	Serial    string
	Key       string // ECDSA P-256, RSA 2048...
	NotBefore time.Time
	NotAfter  time.Time
	File      string
}

// Where says who uses the certificate.
func (c Certificate) Where() string {
	if c.Listener != "" {
		return "listener " + c.Listener
	}
	return "pool " + c.Pool
}

// Title is the name by which people know it.
func (c Certificate) Title() string {
	if len(c.Names) > 0 {
		return c.Names[0]
	}
	return c.Subject
}

// certificates lists those of a configuration, in the document's order.
func certificates(c *lb.Config, contents map[string][]byte) []Certificate {
	var all []Certificate
	add := func(file string, as Certificate) {
		if leaf := leafOf(contents[file]); leaf != nil {
			all = append(all, described(as, leaf, file))
		}
	}
	for _, l := range c.Listeners {
		if l.TLS == nil {
			continue
		}
		for i, f := range l.TLS.Certificates {
			add(f.Cert, Certificate{Listener: l.Name, Default: i == 0})
		}
	}
	for _, p := range c.Pools {
		if p.TLS != nil && p.TLS.Cert != "" {
			add(p.TLS.Cert, Certificate{Pool: p.Name})
		}
	}
	return all
}

// leafOf is the first certificate of a PEM text, or nil.
func leafOf(text []byte) *x509.Certificate {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return nil
		}
		if block.Type == "CERTIFICATE" {
			leaf, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil // ReadFiles says so
			}
			return leaf
		}
	}
}

func described(c Certificate, leaf *x509.Certificate, file string) Certificate {
	c.Subject, c.Issuer = leaf.Subject.String(), leaf.Issuer.String()
	c.Names = slices.Clone(leaf.DNSNames)
	for _, ip := range leaf.IPAddresses {
		c.Names = append(c.Names, ip.String())
	}
	c.Serial, c.Key, c.File = leaf.SerialNumber.Text(16), keyText(leaf.PublicKey), file
	c.NotBefore, c.NotAfter = leaf.NotBefore, leaf.NotAfter
	return c
}

func keyText(key any) string {
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		return "ECDSA " + key.Curve.Params().Name
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", key.N.BitLen())
	case ed25519.PublicKey:
		return "Ed25519"
	}
	return fmt.Sprintf("%T", key)
}

// Certificates lists what this node shows, in the document's order. Nobody may
// change it.
func (s *Snapshot) Certificates() []Certificate { return s.running.pairs }

// expiring is how long before its end a certificate is worth a note.
const expiring = 7 * 24 * time.Hour

// judgeEvery is how often somebody looks whether certificates have ended.
const judgeEvery = 10 * time.Minute

// tickCertificates reports whether it is time to look at their ends again.
func (n *Node) tickCertificates() bool {
	now := n.o.Now()
	if len(n.running.pairs) == 0 || now.Sub(n.judged) < judgeEvery {
		return false
	}
	n.judged = now
	return true
}

// ends tells of certificates that have ended, and of those that soon will.
func ends(pairs []Certificate, now time.Time) (problems []Problem, notes []string) {
	const most = 5
	line := func(c Certificate, how string) string {
		return fmt.Sprintf("certificate %s of %s (%s) %s on %s", c.Title(), c.Where(), c.File, how, c.NotAfter.UTC().Format(time.DateOnly))
	}
	for _, c := range pairs {
		switch left := c.NotAfter.Sub(now); {
		case left < 0 && len(problems) < most:
			problems = append(problems, Problem{"certificate", line(c, "ended"), "put a new one in its place: it is read within seconds"})
		case left >= 0 && left < expiring && len(notes) < most:
			notes = append(notes, line(c, "ends"))
		}
	}
	return problems, notes
}

// fileSamples counts renewals and says when each listener's first certificate
// ends.
func (n *Node) fileSamples(s *Snapshot) []lb.Sample {
	all := []lb.Sample{
		{Name: "lbd_file_renewals_total", Labels: []string{"result", "applied"}, Value: float64(n.renewals.applied.Load())},
		{Name: "lbd_file_renewals_total", Labels: []string{"result", "refused"}, Value: float64(n.renewals.refused.Load())},
	}
	first := map[string]time.Time{}
	counts := map[string]int{}
	for _, c := range s.Certificates() {
		if c.Listener == "" {
			continue
		}
		counts[c.Listener]++
		if end, ok := first[c.Listener]; !ok || c.NotAfter.Before(end) {
			first[c.Listener] = c.NotAfter
		}
	}
	for _, l := range s.Config.Listeners {
		if counts[l.Name] > 0 {
			all = append(all,
				gauge("lbd_certificates", float64(counts[l.Name]), "listener", l.Name),
				gauge("lbd_certificate_first_expiry_timestamp_seconds", float64(first[l.Name].Unix()), "listener", l.Name))
		}
	}
	return all
}
