package filter

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/crypto/bcrypt"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7"
)

// basicAuth asks for a name and a password, and answers 401 without:
//
//	basic_auth:
//	  realm: shop
//	  users: { alice: "$2y$10$..." }   # bcrypt, as `htpasswd -nB alice` prints it
//	  file: /etc/lbd/shop.htpasswd     # more of them, a line of name:hash each
//	  header: x-user                   # tells the backend the name
//
// Bcrypt is slow on purpose: it runs off the loop, on half of the cores at most.
// What was verified is remembered, as a keyed hash of name and password, until
// the configuration or the file changes; what was wrong, too.
func basicAuth(n lb.Node) (l7.Filter, error) {
	var c struct {
		Realm  string            `yaml:"realm" default:"restricted" range:"1..128"`
		Users  map[string]string `yaml:"users" range:"0..10000"`
		File   lb.File           `yaml:"file"`
		Header string            `yaml:"header"`
	}
	if err := n.Decode(&c); err != nil {
		return l7.Filter{}, err
	}
	if len(c.Users) == 0 && c.File.Name == "" {
		return l7.Filter{}, n.Errorf("basic_auth wants users, or a file of them")
	}
	if err := checkValue(n.Key("realm"), "WWW-Authenticate", c.Realm); err != nil || strings.ContainsAny(c.Realm, `"\`) {
		return l7.Filter{}, n.Key("realm").Errorf("realm %q has a quote, a backslash or a control character", c.Realm)
	}
	g := newGuard(c.Realm)
	for name, hash := range c.Users {
		if err := g.add(name, hash); err != nil {
			return l7.Filter{}, n.Key("users").Errorf("user %q: %v", name, err)
		}
	}
	if err := g.addFile(c.File); err != nil {
		return l7.Filter{}, n.Key("file").Errorf("%v", err)
	}
	f := l7.Filter{Name: "basic_auth", Blocking: true, Inline: g.known, Request: g.request}
	if c.Header == "" {
		return f, nil
	}
	if err := checkName(n.Key("header"), c.Header); err != nil {
		return l7.Filter{}, err
	}
	return l7.Filter{Name: f.Name, Blocking: true, Inline: f.Inline, Request: func(s *l7.Session) (*l7.Response, error) {
		// Among the request's own fields, so that no phase has to leave the loop
		// for it again.
		s.Request.Header.Del(c.Header)
		if res, err := g.request(s); res != nil || err != nil {
			return res, err
		}
		s.Request.Header.Add(c.Header, g.claims.Of(s).name)
		return nil, nil
	}}, nil
}

// guard knows who may come in.
type guard struct {
	challenge *l7.Error
	hashes    map[string][]byte
	dummy     []byte // what an unknown name is compared with, so that it takes as long
	claims    l7.Local[claim]
	key       [32]byte // of the digests
	right     verdicts
	wrong     verdicts
	waiting   atomic.Int64
}

// claim is what a request says of its user.
type claim struct {
	name, password string
	digest         [32]byte
	given          bool
}

func newGuard(realm string) *guard {
	g := &guard{hashes: map[string][]byte{}, challenge: &l7.Error{Status: 401, Source: l7.FromClient, Reason: lb.Unauthorized,
		Header: l7.Header{{Name: "WWW-Authenticate", Value: `Basic realm="` + realm + `", charset="UTF-8"`}}}}
	rand.Read(g.key[:]) // never fails (crypto/rand)
	return g
}

// maxCost bounds how long a hash may take: 14 is about a second.
const maxCost = 14

func (g *guard) add(name, hash string) error {
	if name == "" || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f || r == ':' }) {
		return fmt.Errorf("a name has no colon and no control character")
	}
	cost, err := bcrypt.Cost([]byte(hash))
	switch {
	case err != nil:
		return fmt.Errorf("its hash is not of bcrypt: make one with htpasswd -B")
	case cost > maxCost:
		return fmt.Errorf("its hash has cost %d; at most %d is taken", cost, maxCost)
	case g.hashes[name] != nil:
		return fmt.Errorf("it stands twice")
	}
	g.hashes[name] = []byte(hash)
	if old, err := bcrypt.Cost(g.dummy); err != nil || old < cost {
		g.dummy = []byte(hash)
	}
	return nil
}

// addFile reads lines of name:hash; a # begins a comment.
func (g *guard) addFile(f lb.File) error {
	if !f.Read {
		return nil
	}
	for number, line := range bytes.Split(f.Content, []byte("\n")) {
		text := strings.TrimSpace(string(line))
		if text == "" || text[0] == '#' {
			continue
		}
		name, hash, ok := strings.Cut(text, ":")
		if !ok {
			return fmt.Errorf("%s:%d: not name:hash", f.Name, number+1)
		}
		if err := g.add(name, hash); err != nil {
			return fmt.Errorf("%s:%d: user %q: %w", f.Name, number+1, name, err)
		}
	}
	if len(g.hashes) == 0 {
		return fmt.Errorf("%s names no user", f.Name)
	}
	return nil
}

// known reports whether the answer needs no bcrypt.
func (g *guard) known(s *l7.Session) bool {
	c := g.claims.Of(s)
	g.read(c, s.Request.Header.Get("authorization"))
	return !c.given || g.right.has(&c.digest) || g.wrong.has(&c.digest)
}

// maxCredentials bounds what is hashed of a field.
const maxCredentials = 1 << 10

// read takes credentials apart (RFC 7617).
func (g *guard) read(c *claim, field string) {
	*c = claim{}
	scheme, encoded, _ := strings.Cut(field, " ")
	encoded = strings.TrimSpace(encoded)
	if !strings.EqualFold(scheme, "basic") || len(encoded) > maxCredentials {
		return
	}
	text, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return
	}
	name, password, ok := strings.Cut(string(text), ":")
	if !ok {
		return
	}
	var buf [len(g.key) + maxCredentials]byte
	c.name, c.password, c.given = name, password, true
	c.digest = sha256.Sum256(append(append(buf[:0], g.key[:]...), text...))
}

func (g *guard) request(s *l7.Session) (*l7.Response, error) {
	c := g.claims.Of(s)
	switch {
	case !c.given || g.wrong.has(&c.digest):
		return nil, g.challenge
	case g.right.has(&c.digest):
		return nil, nil
	}
	return nil, g.verify(s, c)
}

// hashing bounds the bcrypts of a process: the other half of the cores goes on
// with everything else.
var hashing = make(chan struct{}, max(1, runtime.NumCPU()/2))

// maxWaiting bounds who waits for one, in a route.
const maxWaiting = 64

// verify runs off the loop.
func (g *guard) verify(s *l7.Session, c *claim) error {
	if g.waiting.Add(1) > maxWaiting {
		g.waiting.Add(-1)
		return &l7.Error{Status: 503, Reason: lb.Overload}
	}
	defer g.waiting.Add(-1)
	select {
	case hashing <- struct{}{}:
		defer func() { <-hashing }()
	case <-s.Context().Done():
		return &l7.Error{Status: 503, Reason: lb.Overload, Err: s.Context().Err()}
	}
	if g.right.has(&c.digest) { // somebody with the same was before us
		return nil
	}
	hash, exists := g.hashes[c.name]
	if !exists {
		hash = g.dummy
	}
	if err := bcrypt.CompareHashAndPassword(hash, []byte(c.password)); err != nil || !exists {
		g.wrong.note(&c.digest)
		return g.challenge
	}
	g.right.note(&c.digest)
	return nil
}

// verdicts remembers digests; when it is full, any one makes room.
type verdicts struct {
	mu   sync.RWMutex
	seen map[[32]byte]struct{}
}

const maxVerdicts = 4096

func (v *verdicts) has(digest *[32]byte) bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	_, ok := v.seen[*digest]
	return ok
}

func (v *verdicts) note(digest *[32]byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.seen == nil {
		v.seen = map[[32]byte]struct{}{}
	}
	if len(v.seen) >= maxVerdicts {
		for any := range v.seen { // maps begin anywhere
			delete(v.seen, any)
			break
		}
	}
	v.seen[*digest] = struct{}{}
}
