package cluster

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/renameio/v2"

	"github.com/cirque-lb/lb"
)

// Whoever holds the cluster's key may speak, but only for itself. What a member
// says of itself is signed by a key of its own, which the others pin to its name
// at first sight. A signature and not a MAC: what one member says reaches many,
// and most of it by way of others, so with a shared secret every listener could
// speak for every speaker.
//
// A pinned name takes another key (a host that was installed anew) only after
// its holder has been gone for as long as a dead name takes to be free.

// identity is this node's key and the order of what it signs.
type identity struct {
	file string
	key  ed25519.PrivateKey
	seq  uint64 // of the last thing said: the life above, a count below
	pins map[string]pin
}

// pin is what is known of who speaks for a name.
type pin struct {
	Key []byte `json:"key"`
	// Seq is the newest about that was heard: an older one is a replay.
	Seq uint64 `json:"-"`
}

// keptIdentity is the content of the identity file.
type keptIdentity struct {
	Seed []byte         `json:"seed"`
	Life uint64         `json:"life"` // starts so far: what a life says is newer than all of the one before
	Pins map[string]pin `json:"pins"`
}

const lifeBits = 24 // of seq's upper part remain 40 bits for lives

// newIdentity reads the identity file and begins another life. The error says
// why what was kept cannot be used; the identity is good all the same.
func newIdentity(file string) (*identity, error) {
	id := &identity{file: file, pins: map[string]pin{}}
	var kept keptIdentity
	text, err := os.ReadFile(file)
	switch {
	case file == "" || errors.Is(err, fs.ErrNotExist):
		err = nil
	case err == nil:
		if err = json.Unmarshal(text, &kept); err == nil && len(kept.Seed) != ed25519.SeedSize {
			err = errors.New("it holds no key")
		}
		if err != nil {
			os.Rename(file, file+".corrupt")
		}
	}
	if err != nil {
		err = fmt.Errorf("read %s: %w; peers accept the new identity when the old one has been gone for a while", file, err)
		kept = keptIdentity{}
	}
	if len(kept.Seed) == 0 {
		_, private, _ := ed25519.GenerateKey(nil) // never fails
		kept.Seed = private.Seed()
	}
	id.key = ed25519.NewKeyFromSeed(kept.Seed)
	for name, p := range kept.Pins {
		if len(p.Key) == ed25519.PublicKeySize {
			id.pins[name] = p
		}
	}
	id.seq = (kept.Life + 1) << lifeBits
	return id, errors.Join(err, id.begin())
}

// begin keeps that there is another life before anything is said in it. It does
// not wait for the disk: after a power cut peers remember how far we were.
func (id *identity) begin() error {
	if id.file == "" {
		return nil
	}
	err := os.MkdirAll(filepath.Dir(id.file), 0o700)
	if err == nil {
		err = os.WriteFile(id.file+".next", id.text(), 0o600)
	}
	if err == nil {
		err = os.Rename(id.file+".next", id.file)
	}
	return err
}

// text is what the file holds.
func (id *identity) text() []byte {
	return plainJSON(keptIdentity{id.key.Seed(), id.seq >> lifeBits, id.pins})
}

// saveIdentity keeps key, life and pins when they changed. One that is lost in
// between is no harm: the peers remember how far we were.
func (c *Cluster) saveIdentity() {
	c.mu.Lock()
	due, text, file := c.pinsChanged, c.identity.text(), c.identity.file
	c.pinsChanged = false
	c.mu.Unlock()
	if !due || file == "" {
		return
	}
	err := os.MkdirAll(filepath.Dir(file), 0o700)
	if err == nil {
		err = renameio.WriteFile(file, text, 0o600) // the seed is a secret
	}
	if err != nil {
		c.options.Log.Error("the identity is not kept", "file", file, "error", err)
	}
}

func (id *identity) public() []byte { return id.key.Public().(ed25519.PublicKey) }

// next is the number of what is said next.
func (id *identity) next() uint64 {
	id.seq++
	return id.seq
}

// beyond makes what is said next newer than seq: somebody remembers more of us
// than we do.
func (id *identity) beyond(seq uint64) {
	if seq > id.seq && seq < 1<<62 {
		id.seq = (seq>>lifeBits + 1) << lifeBits
	}
}

// A sealed text is a JSON object whose last member is the signature of all
// before it. Who knows nothing of signatures reads it as it is, and who knows
// less of its members than its author did can verify it all the same.
const (
	sealBegins = `,"s":"`
	sealEnds   = `"}`
)

var sealText = base64.RawURLEncoding

func sealLength() int {
	return len(sealBegins) + sealText.EncodedLen(ed25519.SignatureSize) + len(sealEnds)
}

// seal signs a JSON object that has members, in a context that keeps it from
// being taken for something else.
func (id *identity) seal(context string, object []byte) []byte {
	body := object[:len(object)-1] // without its brace
	signature := ed25519.Sign(id.key, signed(context, body))
	return slices.Concat(body, []byte(sealBegins), []byte(sealText.EncodeToString(signature)), []byte(sealEnds))
}

// sealedBy reports whether key sealed the text in this context.
func sealedBy(key []byte, context string, text []byte) bool {
	at := len(text) - sealLength()
	if at < 1 || len(key) != ed25519.PublicKeySize {
		return false
	}
	body, seal := text[:at], text[at:]
	signature, begins := bytes.CutPrefix(seal, []byte(sealBegins))
	signature, ends := bytes.CutSuffix(signature, []byte(sealEnds))
	raw, err := sealText.DecodeString(string(signature))
	return begins && ends && err == nil && ed25519.Verify(key, signed(context, body), raw)
}

func signed(context string, body []byte) []byte {
	return slices.Concat([]byte(context), []byte{0}, body)
}

// errForged is what is said by somebody for somebody else.
var errForged = errors.New("it is not signed by the key of that name")

// vouch decides whether key may speak for name, and pins it. free says since
// when nobody has held the name. Called with the cluster's mu held.
func (c *Cluster) vouch(name string, key []byte, free time.Duration) (first bool, err error) {
	id := c.identity
	known, pinned := id.pins[name]
	switch {
	case pinned && bytes.Equal(known.Key, key):
		return false, nil
	case pinned && free < c.reclaim:
		return false, errForged
	case !pinned && len(id.pins) >= maxMember && !c.forgetName():
		return false, errors.New("more names than can be remembered")
	}
	id.pins[name] = pin{Key: bytes.Clone(key)}
	c.pinsChanged = true
	delete(c.sayings, name) // what the other holder said
	return true, nil
}

// forgetName makes room for a name: the one that is free for longest goes, with
// what it said. Names that come and go with their hosts would else leave none in
// the end for new ones.
func (c *Cluster) forgetName() bool {
	oldest, longest := "", c.reclaim
	for name := range c.identity.pins {
		if free := c.freeFor(name); free >= longest && name != c.view.self.Name {
			oldest, longest = name, free
		}
	}
	if oldest == "" {
		return false
	}
	delete(c.identity.pins, oldest)
	delete(c.sayings, oldest)
	return true
}

// freeFor is how long nobody has held a name, as far as we know.
func (c *Cluster) freeFor(name string) time.Duration {
	since := c.opened
	if p, known := c.view.peers[name]; known {
		if p.here() {
			return 0
		}
		since = p.since
	}
	return time.Since(since)
}

// unforged is epochs without those that would become current and have somebody
// who is here, in the same life, at another address than it says itself, signed.
// Whom an epoch lists, and with which weight, any member may say: who is listed
// wrongly sets it right by the next epoch. But nobody sends another's flows
// elsewhere. Who is meant takes the epoch in, to mint the next one: so all agree
// in the end, whoever took it before.
func (c *Cluster) unforged(epochs []lb.Epoch) (rest []lb.Epoch, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range epochs {
		if name, forged := c.forgedLocked(e); forged {
			err = fmt.Errorf("epoch %d@%s has %s at another address: %w", e.Counter, e.Origin, name, errForged)
			continue
		}
		rest = append(rest, e)
	}
	return rest, err
}

func (c *Cluster) forgedLocked(e lb.Epoch) (name string, forged bool) {
	v := c.view
	if e.Compare(v.current()) < 0 {
		return "", false
	}
	for _, m := range e.Members {
		p := v.peers[m.Name]
		if _, signs := c.identity.pins[m.Name]; signs && p.here() && m.Boot == p.Boot && m.Address != p.Address {
			return m.Name, true
		}
	}
	return "", false
}
