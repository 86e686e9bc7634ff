package l7

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cirque-lb/lb"
)

const manyCertificates = 10_000

// many is a configuration with 10 000 certificates, each for a name and for a
// wildcard, and its files. Signing them takes a second, once.
var many = sync.OnceValues(func() (*lb.Config, map[string][]byte) {
	a := newAuthority("ca")
	secret, err := x509.MarshalECPrivateKey(a.Key)
	if err != nil {
		panic(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: secret})
	files := map[string][]byte{}
	var list strings.Builder
	for i := range manyCertificates {
		template := &x509.Certificate{SerialNumber: big.NewInt(int64(i)), NotAfter: time.Now().Add(time.Hour),
			DNSNames: []string{fmt.Sprintf("shop-%d.example", i), fmt.Sprintf("*.shop-%d.example", i)}}
		der, err := x509.CreateCertificate(rand.Reader, template, a.Certificate, &a.Key.PublicKey, a.Key)
		if err != nil {
			panic(err)
		}
		files[fmt.Sprintf("%d.pem", i)] = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		files[fmt.Sprintf("%d.key", i)] = append([]byte(fmt.Sprintf("# %d\n", i)), text...) // as if each had its own
		fmt.Fprintf(&list, "    - { cert: %d.pem, key: %d.key }\n", i, i)
	}
	c, err := lb.Parse([]byte("listeners:\n web:\n  bind: \"127.0.0.1:1\"\n  protocol: https\n  tls:\n   certificates:\n"+list.String()+
		"routes: [{ respond: { status: 204 } }]\n"), lb.Options{})
	if err != nil {
		panic(err)
	}
	return c, files
})

// hello asks for a name, as a client of today does.
func hello(name string) *tls.ClientHelloInfo {
	return &tls.ClientHelloInfo{ServerName: name, SupportedVersions: []uint16{tls.VersionTLS13}, SupportedCurves: []tls.CurveID{tls.X25519, tls.CurveP256},
		SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256}}
}

func prepared(t testing.TB, p *Proxy, c *lb.Config, files map[string][]byte) *Snapshot {
	s, err := p.Prepare(1, c, files)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestEachOfManyNamesHasItsCertificate(t *testing.T) {
	c, files := many()
	p, _ := New(Options{})
	defer p.closeLoops()
	names := &prepared(t, p, c, files).listeners["web"].secure.names
	for i := 0; i < manyCertificates; i += 997 {
		for _, name := range []string{fmt.Sprintf("shop-%d.example", i), fmt.Sprintf("SHOP-%d.example.", i), fmt.Sprintf("www.shop-%d.example", i)} {
			got, err := names.choose(hello(name))
			if err != nil || number(t, got) != int64(i) {
				t.Errorf("%s: got certificate %d, %v", name, number(t, got), err)
			}
		}
	}
	for _, name := range []string{"", "example", "other.example", "x.www.shop-1.example", "shop-10000.example"} {
		if got, _ := names.choose(hello(name)); number(t, got) != 0 {
			t.Errorf("%q: got certificate %d, want the first", name, number(t, got))
		}
	}
}

// A name may have two certificates of different kinds: each client gets one
// that it understands.
func TestANameMayHaveCertificatesOfTwoKinds(t *testing.T) {
	a := newAuthority("ca")
	files := map[string][]byte{}
	files["a.pem"], files["a.key"] = a.issue("ecdsa", "a.example")
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "rsa"}, NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"a.example"}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.Certificate, &key.PublicKey, a.Key)
	if err != nil {
		t.Fatal(err)
	}
	files["b.pem"] = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	files["b.key"] = pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	l := startSecure(t, a, labOptions{files: files},
		strings.Replace(secured("", "127.0.0.1:9"), "key: a.key }", "key: a.key }, { cert: b.pem, key: b.key }", 1))
	for want, suite := range map[string]uint16{"ecdsa": tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, "rsa": tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256} {
		_, c := l.dialTLS(&tls.Config{InsecureSkipVerify: true, ServerName: "a.example", MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{suite}})
		if got := c.ConnectionState().PeerCertificates[0].Subject.CommonName; got != want {
			t.Errorf("got certificate %s, want %s", got, want)
		}
	}
}

func number(t *testing.T, c *tls.Certificate) int64 {
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return leaf.SerialNumber.Int64()
}

func TestAReloadParsesWhatHasChanged(t *testing.T) {
	a := newAuthority("ca")
	files := map[string][]byte{"ca.pem": a.PEM()}
	for _, name := range []string{"a", "b"} {
		files[name+".pem"], files[name+".key"] = a.issue(name, name+".example")
	}
	document := strings.Replace(secured("", "127.0.0.1:9"), "key: a.key }", "key: a.key }, { cert: b.pem, key: b.key }", 1)
	c, err := lb.Parse([]byte(document), lb.Options{})
	if err != nil {
		t.Fatal(err)
	}
	p, _ := New(Options{})
	defer p.closeLoops()
	pair := func(s *Snapshot, name string) *tls.Certificate {
		got, _ := s.listeners["web"].secure.names.choose(hello(name))
		return got
	}
	before := prepared(t, p, c, files)
	files["b.pem"], files["b.key"] = a.issue("renewed", "b.example")
	after := prepared(t, p, c, files)
	if pair(before, "a.example") != pair(after, "a.example") {
		t.Error("a certificate that is the same was parsed again")
	}
	if pair(before, "b.example") == pair(after, "b.example") {
		t.Error("a renewed certificate is not there")
	}
}

func BenchmarkChooseAmongManyCertificates(b *testing.B) {
	c, files := many()
	p, _ := New(Options{})
	defer p.closeLoops()
	names := &prepared(b, p, c, files).listeners["web"].secure.names
	for name, asked := range map[string]string{"exact": "shop-9999.example", "wildcard": "www.shop-9999.example", "none": "other.example"} {
		h := hello(asked)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				names.choose(h)
			}
		})
	}
}

// BenchmarkPrepareManyCertificates is what a start costs, and a reload after
// which one certificate is another.
func BenchmarkPrepareManyCertificates(b *testing.B) {
	c, files := many()
	b.Run("start", func(b *testing.B) {
		var kept *Snapshot
		var before, after runtime.MemStats
		for b.Loop() {
			p, _ := New(Options{})
			runtime.GC()
			runtime.ReadMemStats(&before)
			kept = prepared(b, p, c, files)
			runtime.GC()
			runtime.ReadMemStats(&after)
			p.closeLoops()
		}
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/manyCertificates, "B/certificate")
		runtime.KeepAlive(kept)
	})
	b.Run("reload", func(b *testing.B) {
		p, _ := New(Options{})
		defer p.closeLoops()
		prepared(b, p, c, files)
		for b.Loop() {
			files["1.pem"], files["2.pem"] = files["2.pem"], files["1.pem"]
			prepared(b, p, c, files)
		}
	})
}
