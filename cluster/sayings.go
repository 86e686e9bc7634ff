package cluster

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"
	"time"
)

// What a member says of itself beyond memberlist's 512 bytes is a few named
// parts, each replaced as a whole: the newest number wins, and only the member's
// key makes one. UDP gossip carries small ones, and of larger ones that they are
// there; push/pull compares the numbers of all, so whoever was away catches up.
const (
	maxPart    = 64 << 10 // bytes of a part
	maxParts   = 64       // of a member
	smallPart  = 700      // sealed bytes that go by UDP as they are
	maxWanted  = 256      // parts in a question, and in its answer
	answerSize = 1 << 20  // bytes of an answer
)

var (
	errOversized = errors.New("too large")
	errReplayed  = errors.New("heard before")
)

// saying is one part of what a member says of itself.
type saying struct {
	Member string `json:"m"`
	Part   string `json:"p"`
	Seq    uint64 `json:"n"`
	Body   []byte `json:"b,omitempty"`

	raw   []byte    // sealed, as its author made it
	heard time.Time // here, on the monotonic clock
}

// news says that holder has a saying.
type news struct {
	Member string `json:"m"`
	Part   string `json:"p"`
	Seq    uint64 `json:"n"`
	Holder string `json:"h,omitempty"`
}

// want asks for sayings, to be sent to From.
type want struct {
	From string `json:"f"`
	Want []news `json:"w"`
}

// sum tells a peer what is here, in one number. Gossip leaves a hole now and
// then, and a push/pull is ten seconds away.
type sum struct {
	From string `json:"f"`
	Sum  uint64 `json:"s"`
}

// numbers lists everything said that is here.
type numbers struct {
	From string `json:"f"`
	Said []news `json:"w"`
}

// sumNow is for a peer chosen at random; false: nobody is here.
func (c *Cluster) sumNow() (s sum, to peer, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.view.peers { // in random order
		if p.here() {
			return sum{c.view.self.Name, c.sumLocked()}, p, true
		}
	}
	return s, to, false
}

// sumLocked does not depend on an order.
func (c *Cluster) sumLocked() (total uint64) {
	for member, parts := range c.sayings {
		for part, s := range parts {
			h := fnv.New64a()
			fmt.Fprintf(h, "%s\x00%s\x00%d", member, part, s.Seq)
			total += h.Sum64()
		}
	}
	return total
}

// compare gives what is here to a peer that has something else.
func (c *Cluster) compare(s sum) (n numbers, to peer, differs bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	to, known := c.view.peers[s.From]
	if !known || s.Sum == c.sumLocked() {
		return n, to, false
	}
	return numbers{c.view.self.Name, c.numbers()}, to, true
}

// Saying is a part of what a member says of itself, as Said gives it.
type Saying struct {
	Member string
	Alive  bool // the member is here; this node always is
	Body   []byte
	Heard  time.Time // when its newest version came, on this node's monotonic clock
}

// Say replaces a part of what this node says of itself; nil takes it back. The
// same bytes again are said again only when repeat is set: who hears them knows
// that they still hold.
func (c *Cluster) Say(part string, body []byte, repeat bool) error {
	if part == "" || len(part) > maxName || len(body) > maxPart {
		return fmt.Errorf("say %d bytes of %q: %w", len(body), part, errOversized)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sayLocked(part, body, repeat)
}

func (c *Cluster) sayLocked(part string, body []byte, repeat bool) error {
	self := c.view.self.Name
	old, said := c.sayings[self][part]
	if !repeat && bytes.Equal(old.Body, body) && (said || body == nil) {
		return nil
	}
	if !said && len(c.sayings[self]) >= maxParts {
		return fmt.Errorf("say %q: more than %d parts", part, maxParts)
	}
	s := saying{Member: self, Part: part, Seq: c.identity.next(), Body: bytes.Clone(body)}
	s.raw = c.identity.seal(c.context("saying"), plainJSON(s))
	c.keep(s)
	c.gossip.spread(s)
	return nil
}

// Said lists what the members say of a part, by name, this node among them.
func (c *Cluster) Said(part string) []Saying {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []Saying
	for name, parts := range c.sayings {
		if s, ok := parts[part]; ok && s.Body != nil {
			all = append(all, Saying{name, c.hereLocked(name), s.Body, s.heard})
		}
	}
	slices.SortFunc(all, func(a, b Saying) int { return strings.Compare(a.Member, b.Member) })
	return all
}

// SaidParts lists the parts of which any member says something, by a prefix.
func (c *Cluster) SaidParts(prefix string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	found := map[string]bool{}
	for _, parts := range c.sayings {
		for part := range parts {
			if strings.HasPrefix(part, prefix) {
				found[part] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

func (c *Cluster) hereLocked(name string) bool {
	return name == c.view.self.Name || c.view.peers[name].here()
}

// context is what a signature is for; it holds in one cluster only.
func (c *Cluster) context(use string) string { return "cirque " + use + " of " + c.options.Name }

func (c *Cluster) keep(s saying) {
	if c.sayings[s.Member] == nil {
		c.sayings[s.Member] = map[string]saying{}
	}
	s.heard = time.Now()
	c.sayings[s.Member][s.Part] = s
	signal(c.changed)
}

// parseSaying reads a sealed saying, without believing it.
func parseSaying(raw []byte) (s saying, err error) {
	if len(raw) > 2*maxPart {
		return s, fmt.Errorf("read a saying of %d bytes: %w", len(raw), errOversized)
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		return s, fmt.Errorf("read a saying: %w", err)
	}
	switch {
	case s.Member == "" || len(s.Member) > maxName || s.Part == "" || len(s.Part) > maxName || s.Seq == 0 || s.Seq >= 1<<62:
		return s, fmt.Errorf("read a saying: %q of %q number %d", s.Part, s.Member, s.Seq)
	case len(s.Body) > maxPart:
		return s, fmt.Errorf("read %s of %s: %w", s.Part, s.Member, errOversized)
	}
	s.raw = bytes.Clone(raw)
	return s, nil
}

// hearSaying takes in what a member says, from wherever it came. What is not
// newer than what is here has no effect.
func (c *Cluster) hearSaying(s saying) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	known, pinned := c.identity.pins[s.Member]
	key := known.Key
	own := s.Member == c.view.self.Name
	if own {
		key, pinned = c.identity.public(), true
	}
	old, said := c.sayings[s.Member][s.Part]
	switch {
	case !pinned:
		return nil // we have not met it: whoever tells us of it offers this again
	case s.Seq <= old.Seq:
		return errReplayed
	case !sealedBy(key, c.context("saying"), s.raw):
		return fmt.Errorf("%s of %s: %w", s.Part, s.Member, errForged)
	case own:
		c.repeatAll(s)
		return nil
	case !said && len(c.sayings[s.Member]) >= maxParts:
		return fmt.Errorf("%s of %s: %w", s.Part, s.Member, errOversized)
	}
	c.keep(s)
	c.gossip.spread(s)
	c.claimsChanged(s.Member, s.Part)
	return nil
}

// repeatAll says everything anew, since a peer remembers something of us that
// is newer than what we say now: our own memory was older.
func (c *Cluster) repeatAll(theirs saying) {
	c.identity.beyond(theirs.Seq)
	c.pinsChanged = true
	signal(c.wake)
	self := c.view.self.Name
	if _, ours := c.sayings[self][theirs.Part]; !ours {
		c.keep(saying{Member: self, Part: theirs.Part}) // nothing, which is said now
	}
	for part, s := range c.sayings[self] {
		c.sayLocked(part, s.Body, true)
	}
}

// numbers lists everything said, for a push/pull.
func (c *Cluster) numbers() []news {
	var all []news
	for member, parts := range c.sayings {
		for part, s := range parts {
			all = append(all, news{Member: member, Part: part, Seq: s.Seq})
		}
	}
	slices.SortFunc(all, func(a, b news) int {
		return cmp.Or(strings.Compare(a.Member, b.Member), strings.Compare(a.Part, b.Part))
	})
	return all
}

// lackingSayings are those of the news that are newer than what is here, and
// the peer to ask for them.
func (c *Cluster) lackingSayings(told []news, holder string) (w want, from peer, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	for _, n := range told {
		key := [2]string{n.Member, n.Part}
		asked := c.asked[key]
		_, pinned := c.identity.pins[n.Member]
		switch {
		case !pinned && n.Member != c.view.self.Name, n.Seq <= c.sayings[n.Member][n.Part].Seq:
			continue
		case n.Seq <= asked.seq && now.Sub(asked.at) < askAgain:
			continue // the answer is on its way
		case len(w.Want) == maxWanted:
			continue // the next push/pull tells of them again
		}
		c.asked[key] = inquiry{n.Seq, now}
		w.Want = append(w.Want, news{Member: n.Member, Part: n.Part, Seq: n.Seq})
	}
	if len(c.asked) > maxMember*4 {
		clear(c.asked)
	}
	w.From = c.view.self.Name
	from, ok = c.view.peers[holder]
	return w, from, ok && len(w.Want) > 0
}

// inquiry is when a saying was asked for last.
type inquiry struct {
	seq uint64
	at  time.Time
}

const askAgain = time.Second

// answerSayings are the wanted ones that are here.
func (c *Cluster) answerSayings(w want) (texts [][]byte, to peer, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	size := 0
	for _, n := range w.Want[:min(len(w.Want), maxWanted)] {
		if s := c.sayings[n.Member][n.Part]; s.raw != nil && size < answerSize {
			texts, size = append(texts, s.raw), size+len(s.raw)
		}
	}
	to, ok = c.view.peers[w.From]
	return texts, to, ok && len(texts) > 0
}

func plainJSON(what any) []byte {
	text, err := json.Marshal(what)
	if err != nil {
		panic(err) // plain structs of plain fields
	}
	return text
}
