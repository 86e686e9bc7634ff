package cluster

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cirque-lb/lb"
)

// The cluster's document is a register: the last writer wins, by (counter,
// node). Each member says which one it has; who has an older one, or none, asks
// it by the reliable channel. A document is signed by the member that made the
// edit and is passed on as it is, so nobody can edit in another's name.
const (
	maxText     = 16 << 20 // bytes of a document
	maxHeader   = 16 << 10
	maxPast     = 50
	maxLosses   = 8 // documents that lost which a member still offers
	shelf       = 16
	claimPart   = "document"
	fetchAgain  = time.Second
	maxCounter  = 1 << 62
	digestBytes = 16
)

// Document is one edit of the objects that the cluster shares.
type Document struct {
	Generation lb.Generation
	Past       []lb.Generation // the edits that it follows, the newest first
	Time       time.Time       // by its author's clock; shown, never compared
	By, Action string
	Text       []byte
	Seal       string // header and signature; Seal makes it
}

// Digest identifies the document's seal and text.
func (d Document) Digest() string {
	h := sha256.New()
	h.Write([]byte(d.Seal))
	h.Write(d.Text)
	return hex.EncodeToString(h.Sum(nil)[:digestBytes])
}

// Follows reports whether d was made in knowledge of g. Of what is older than
// its memory that is taken for granted.
func (d Document) Follows(g lb.Generation) bool {
	if len(d.Past) >= maxPast && g.Counter <= d.Past[len(d.Past)-1].Counter {
		return true
	}
	return g.IsZero() || slices.Contains(d.Past, g)
}

// Compare orders documents. Two of one generation (a node that lost its memory)
// are ordered by their digests, on every node alike.
func (d Document) Compare(o Document) int {
	if c := d.Generation.Compare(o.Generation); c != 0 {
		return c
	}
	return cmp.Compare(d.Digest(), o.Digest())
}

// header is what a seal says of a document.
type header struct {
	Generation lb.Generation   `json:"generation"`
	Past       []lb.Generation `json:"past,omitempty"`
	Time       time.Time       `json:"time"`
	By         string          `json:"by"`
	Action     string          `json:"action"`
	Sum        []byte          `json:"sum"` // SHA-256 of the text
	Key        []byte          `json:"key"` // the author's
}

// claim is what a member says of documents.
type claim struct {
	Has  heading   `json:"has"`
	Lost []heading `json:"lost,omitempty"` // what lost to Has, or to one before it
}

// heading names a document.
type heading struct {
	Generation lb.Generation `json:"g"`
	Digest     string        `json:"d"`
}

func (h heading) compare(o heading) int {
	return cmp.Or(h.Generation.Compare(o.Generation), cmp.Compare(h.Digest, o.Digest))
}

func (d Document) heading() heading { return heading{d.Generation, d.Digest()} }

// wantDocument asks for a document, to be sent to From.
type wantDocument struct {
	From string `json:"f"`
	heading
}

// register is what this node has of documents. Guarded by the cluster's mu.
type register struct {
	has     Document            // the newest that is here; zero: none
	lost    []heading           // newest first
	shelf   map[string]Document // by digest: what can be asked of us
	order   []string            // of the shelf, oldest first
	told    map[string]bool     // losses of others that were reported
	reports []Document          // that lost, not yet taken by Losses
	asked   map[string]time.Time
}

func newRegister() register {
	return register{shelf: map[string]Document{}, told: map[string]bool{}, asked: map[string]time.Time{}}
}

// Seal signs an edit that this node makes.
func (c *Cluster) Seal(d Document) Document {
	sum := sha256.Sum256(d.Text)
	d.Past = d.Past[:min(len(d.Past), maxPast)]
	c.mu.Lock()
	defer c.mu.Unlock()
	d.Seal = string(c.identity.seal(c.context("document"), plainJSON(header{
		d.Generation, d.Past, d.Time, shorten(d.By), shorten(d.Action), sum[:], c.identity.public(),
	})))
	return d
}

func shorten(s string) string { return s[:min(len(s), 256)] }

// Offer tells the others that this node has a document: its own edit, or the
// one that it kept over a restart. One that is older than what the cluster has
// loses at once.
func (c *Cluster) Offer(d Document) error {
	if err := d.valid(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.take(d)
	return nil
}

// Document is the newest one that is here; false: none.
func (c *Cluster) Document() (Document, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.documents.has, !c.documents.has.Generation.IsZero()
}

// Losses gives, once, the documents that lost to an edit made without knowing
// of them: those of this node and those that others report.
func (c *Cluster) Losses() []Document {
	c.mu.Lock()
	defer c.mu.Unlock()
	lost := c.documents.reports
	c.documents.reports = nil
	return lost
}

// Counter is the greatest counter of a document that anybody says to have: an
// edit made here takes a greater one.
func (c *Cluster) Counter() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	highest := c.documents.has.Generation.Counter
	for _, parts := range c.sayings {
		if cl, err := readClaim(parts[claimPart].Body); err == nil {
			highest = max(highest, cl.Has.Generation.Counter)
		}
	}
	return highest
}

// take puts a valid document in the register.
func (c *Cluster) take(d Document) {
	r := &c.documents
	had := r.has
	r.put(d)
	switch order := d.Compare(had); {
	case order == 0:
	case order > 0:
		r.has = d
		if !had.Generation.IsZero() && !d.Follows(had.Generation) {
			c.lose(had)
		}
	case !had.Follows(d.Generation) || had.Generation == d.Generation:
		c.lose(d)
	}
	c.claimLocked()
	signal(c.changed)
}

// lose remembers a document that nobody's newer edit takes up.
func (c *Cluster) lose(d Document) {
	r := &c.documents
	if r.told[d.Digest()] {
		return
	}
	if len(r.told) > maxMember {
		clear(r.told)
	}
	r.told[d.Digest()] = true
	r.lost = slices.Insert(r.lost, 0, d.heading())
	r.lost = r.lost[:min(len(r.lost), maxLosses)]
	r.reports = append(r.reports, d)
	if len(r.reports) > shelf {
		r.reports = r.reports[1:]
	}
	c.count.lost.Add(1)
}

func (r *register) put(d Document) {
	digest := d.Digest()
	if _, there := r.shelf[digest]; there {
		return
	}
	r.shelf[digest] = d
	r.order = append(r.order, digest)
	for len(r.order) > shelf {
		oldest := r.order[0]
		r.order = r.order[1:]
		if oldest == r.has.Digest() {
			r.order = append(r.order, oldest)
			continue
		}
		delete(r.shelf, oldest)
	}
}

// claimLocked says what we have.
func (c *Cluster) claimLocked() {
	r := &c.documents
	r.lost = slices.DeleteFunc(slices.Clone(r.lost), func(h heading) bool { return r.shelf[h.Digest].Seal == "" }) // nobody could get it
	c.sayLocked(claimPart, plainJSON(claim{r.has.heading(), r.lost}), false)
}

func readClaim(body []byte) (cl claim, err error) {
	if err := json.Unmarshal(body, &cl); err != nil {
		return cl, err
	}
	if cl.Has.Generation.Counter >= maxCounter || len(cl.Lost) > maxLosses {
		return cl, errors.New("a claim that nobody makes")
	}
	return cl, nil
}

// claimsChanged has the fetcher look at what a member has.
func (c *Cluster) claimsChanged(_, part string) {
	if part == claimPart {
		signal(c.fetch)
	}
}

// wanted lists the documents to ask for now, each of one member that has it,
// and whether there is anything still to come.
func (c *Cluster) wanted() (letters []letter, more bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := &c.documents
	now := time.Now()
	has := r.has.heading()
	ask := func(h heading, p peer) {
		more = true
		if now.Sub(r.asked[h.Digest]) < fetchAgain {
			return
		}
		r.asked[h.Digest] = now
		letters = append(letters, letter{p.Name, p.gossip, encode(kindWantDocument, wantDocument{c.view.self.Name, h})})
	}
	if len(r.asked) > maxMember {
		clear(r.asked)
	}
	var newest heading
	var holders []peer
	for name, parts := range c.sayings {
		p := c.view.peers[name]
		cl, err := readClaim(parts[claimPart].Body)
		if err != nil || !p.here() {
			continue
		}
		switch order := cl.Has.compare(newest); {
		case order > 0:
			newest, holders = cl.Has, []peer{p}
		case order == 0:
			holders = append(holders, p)
		}
		for _, h := range cl.Lost {
			if !r.told[h.Digest] {
				ask(h, p)
			}
		}
	}
	if newest.compare(has) > 0 {
		// Another one each time: a holder may be reached by gossip and not by TCP.
		ask(newest, holders[int(now.UnixNano()>>10)%len(holders)])
	}
	return letters, more
}

// giveDocument is what was asked for, if it is here.
func (c *Cluster) giveDocument(w wantDocument) (d Document, to peer, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d, ok = c.documents.shelf[w.Digest]
	to, known := c.view.peers[w.From]
	return d, to, ok && known
}

// receiveDocument takes in a document that was sent here.
func (c *Cluster) receiveDocument(d Document) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, here := c.documents.shelf[d.Digest()]; here {
		return errReplayed
	}
	if err := c.authentic(d); err != nil {
		return err
	}
	c.take(d)
	return nil
}

// authentic wants a document to be its author's: signed by the key that is
// pinned to the name; or by another one of old, when more than half of who is
// here says to have this very document.
func (c *Cluster) authentic(d Document) error {
	h, err := d.header()
	if err != nil {
		return err
	}
	author := h.Generation.Node
	key := c.identity.pins[author].Key
	if author == c.view.self.Name {
		key = c.identity.public()
	}
	if !sealedBy(h.Key, c.context("document"), []byte(d.Seal)) {
		return fmt.Errorf("document %s: %w", h.Generation, errForged)
	}
	if key == nil || bytes.Equal(h.Key, key) {
		return nil
	}
	if have, of := c.holders(d.heading()); 2*have <= of {
		return fmt.Errorf("document %s: %w", h.Generation, errForged)
	}
	return nil
}

// holders counts who is here besides us, and who of them says to have a document.
func (c *Cluster) holders(h heading) (have, of int) {
	for name, p := range c.view.peers {
		if !p.here() {
			continue
		}
		of++
		if cl, err := readClaim(c.sayings[name][claimPart].Body); err == nil && cl.Has == h {
			have++
		}
	}
	return have, of
}

// header reads and checks the document's seal against the rest of it.
func (d Document) header() (h header, err error) {
	if err := json.Unmarshal([]byte(d.Seal), &h); err != nil {
		return h, fmt.Errorf("read a document's seal: %w", err)
	}
	sum := sha256.Sum256(d.Text)
	switch g := h.Generation; {
	case g.Counter == 0 || g.Counter >= maxCounter || g.Node == "" || len(g.Node) > maxName || len(h.Past) > maxPast:
		return h, fmt.Errorf("read a document: generation %s after %d", g, len(h.Past))
	case !bytes.Equal(sum[:], h.Sum):
		return h, fmt.Errorf("read document %s: its text is another one", g)
	}
	return h, nil
}

func (d Document) valid() error {
	if len(d.Text) > maxText || len(d.Seal) > maxHeader {
		return fmt.Errorf("document of %d bytes: %w", len(d.Text), errOversized)
	}
	_, err := d.header()
	return err
}

// encodeDocument is the seal, a line's end, and the text.
func encodeDocument(d Document) []byte {
	return slices.Concat([]byte{kindDocument}, []byte(d.Seal), []byte{'\n'}, d.Text)
}

func decodeDocument(body []byte) (Document, error) {
	seal, text, _ := bytes.Cut(body[:min(len(body), maxText+maxHeader)], []byte{'\n'})
	if len(seal) > maxHeader || len(body) > maxText+maxHeader || len(text) > maxText {
		return Document{}, fmt.Errorf("document of %d bytes: %w", len(body), errOversized)
	}
	return OpenDocument(string(seal), bytes.Clone(text))
}

// OpenDocument is the document of a seal and its text, as they were kept.
func OpenDocument(seal string, text []byte) (Document, error) {
	d := Document{Seal: seal, Text: text}
	h, err := d.header()
	if err != nil {
		return d, err
	}
	d.Generation, d.Past, d.Time, d.By, d.Action = h.Generation, h.Past, h.Time, h.By, h.Action
	return d, nil
}
