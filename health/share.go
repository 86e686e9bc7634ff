package health

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cirque-lb/lb"
)

// What the nodes of a cluster tell each other of backends.
//
// Up to everybody nodes each probes every backend and acts on its own results.
// Above, each backend has probers chosen by rendezvous, who act on their own
// results; the others act on the majority of what the probers say, and probe
// themselves when no prober's word is fresh. A word counts when its author is
// here, has said something lately, sees the same nodes, and probes the very same
// set of backends with the same check; so what is said needs to list only the
// backends that are down.
const (
	everybody   = 5 // nodes, up to which all probe all
	probers     = 3 // of a backend, above
	stale       = 30 * time.Second
	shares      = 16 // parts that the list of those down is cut into, so that a change resends little
	maxDownPart = 5000
	headPart    = "health"
)

// Word is a part of what a node says by gossip.
type Word struct {
	Member string
	Part   string
	Body   []byte
	Heard  time.Time // on this node's monotonic clock
}

// head is what a node says of its probing. Who reads it leaves what it does not
// know.
type head struct {
	Ring uint64 `json:"ring"` // of the nodes it sees
	Sets []byte `json:"sets"` // digests of the pools whose backends it knows, 8 bytes each, sorted
}

// downList is which of a share's backends a node finds down.
type downList struct {
	Down []byte `json:"down,omitempty"` // hashes of targets, 8 bytes each, sorted
}

// sharing is what the monitor knows of the other nodes. Guarded by the
// monitor's mu.
type sharing struct {
	self  string
	ring  []string // the nodes that probe, sorted; none: this node is alone
	hash  uint64   // of ring
	peers map[string]*peerView
	sets  map[string]uint64 // digest by pool
	fresh map[string]bool   // which nodes' words count by age; set by Share
}

// peerView is what another node said last.
type peerView struct {
	ring  uint64
	sets  map[uint64]bool
	down  [shares]map[uint64]bool
	heard map[string]time.Time // by part
}

// opinion is what is known of a target besides our own probes.
type opinion struct {
	up, down int // fresh words of other nodes that probe it
}

// Share takes in what the nodes say by gossip, this one among them, and gives
// what this one says of its own. A node without a cluster never calls it.
func (m *Monitor) Share(self string, words []Word) map[string][]byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := &m.sharing
	s.self = self
	ring := []string{self}
	heard := map[string]bool{}
	s.fresh = map[string]bool{}
	for _, w := range words {
		if w.Member == self {
			continue
		}
		heard[w.Member] = true
		if w.Part == headPart {
			ring = append(ring, w.Member)
			s.fresh[w.Member] = time.Since(w.Heard) < stale
		}
		s.hear(w)
	}
	for name := range s.peers {
		if !heard[name] {
			delete(s.peers, name)
		}
	}
	slices.Sort(ring)
	if ring = slices.Compact(ring); !slices.Equal(ring, s.ring) {
		s.ring, s.hash = ring, hashOf(ring...)
		m.appoint()
	}
	m.heed()
	return m.words()
}

// hear decodes a word that is newer than the one before.
func (s *sharing) hear(w Word) {
	if s.peers == nil {
		s.peers = map[string]*peerView{}
	}
	p := s.peers[w.Member]
	if p == nil {
		p = &peerView{heard: map[string]time.Time{}}
		s.peers[w.Member] = p
	}
	if p.heard[w.Part].Equal(w.Heard) {
		return
	}
	p.heard[w.Part] = w.Heard
	if w.Part == headPart {
		var h head
		if json.Unmarshal(w.Body, &h) == nil {
			p.ring, p.sets = h.Ring, hashes(h.Sets)
		}
		return
	}
	var share int
	var list downList
	if n, _ := fmt.Sscanf(w.Part, headPart+".%d", &share); n == 1 && share >= 0 && share < shares && json.Unmarshal(w.Body, &list) == nil {
		p.down[share] = hashes(list.Down)
	}
}

func hashes(packed []byte) map[uint64]bool {
	all := make(map[uint64]bool, len(packed)/8)
	for ; len(packed) >= 8; packed = packed[8:] {
		all[binary.BigEndian.Uint64(packed)] = true
	}
	return all
}

func packed(all []uint64) []byte {
	slices.Sort(all)
	out := make([]byte, 0, 8*len(all))
	for _, h := range all {
		out = binary.BigEndian.AppendUint64(out, h)
	}
	return out
}

func hashOf(parts ...string) uint64 {
	h := fnv.New64a()
	for _, p := range parts {
		var n [4]byte
		binary.BigEndian.PutUint32(n[:], uint32(len(p)))
		h.Write(n[:])
		h.Write([]byte(p))
	}
	return mix(h.Sum64())
}

// mix spreads FNV's bits, whose upper ones hardly depend on the last bytes.
func mix(x uint64) uint64 {
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// appoint decides, for every target, who probes it.
func (m *Monitor) appoint() {
	s := &m.sharing
	s.sets = map[string]uint64{}
	for _, t := range m.targets {
		s.sets[t.ID.Pool] += t.hash // in any order
		t.probers = nil
		t.mine = len(s.ring) <= everybody
		if !t.mine {
			t.probers = rendezvous(s.ring, t.hash)
			t.mine = slices.Contains(t.probers, s.self)
		}
	}
	for pool, sum := range s.sets {
		s.sets[pool] = mix(sum ^ hashOf(pool))
	}
}

// rendezvous gives the nodes that probe a target: the same on all nodes, and a
// node that goes moves only its own.
func rendezvous(ring []string, target uint64) []string {
	type vote struct {
		name   string
		weight uint64
	}
	best := make([]vote, 0, probers+1)
	for _, name := range ring {
		v := vote{name, mix(target ^ hashOf(name))}
		at, _ := slices.BinarySearchFunc(best, v, func(a, b vote) int {
			return cmp.Or(cmp.Compare(b.weight, a.weight), strings.Compare(a.name, b.name))
		})
		if best = slices.Insert(best, at, v); len(best) > probers {
			best = best[:probers]
		}
	}
	names := make([]string, len(best))
	for i, v := range best {
		names[i] = v.name
	}
	return names
}

// heed gathers the others' words on each target, takes up those that we only
// hear of, and begins or ends to probe.
func (m *Monitor) heed() {
	s := &m.sharing
	for _, t := range m.targets {
		t.others = s.opinionOf(t)
		of := t.others.up + t.others.down
		probe := t.mine || of == 0
		if probe && !t.probing {
			m.begin(t)
		}
		t.probing = probe
		if probe {
			continue
		}
		now := lb.Up
		if 2*t.others.down > of {
			now = lb.Down
		}
		if from := t.state.health; now != from {
			m.turn(t, now, fmt.Sprintf("%d of %d nodes that probe it find it %s", max(t.others.up, t.others.down), of, now))
		}
		t.state = state{health: now, ok: now != lb.Down}
	}
	m.dropIdle()
}

// turn changes a target's health by what others say. Up after unknown is no
// news: unknown counts as up.
func (m *Monitor) turn(t *target, to lb.Health, why string) {
	from := t.state.health
	t.since, t.reason = time.Now(), why
	m.tell(Change{ID: t.ID, From: from, To: to, At: t.since, Detail: why})
}

func (s *sharing) opinionOf(t *target) (o opinion) {
	among := t.probers
	if among == nil {
		among = s.ring
	}
	for _, name := range among {
		p := s.peers[name]
		if name == s.self || p == nil || !s.fresh[name] || !p.sets[s.sets[t.ID.Pool]] {
			continue
		}
		if len(s.ring) > everybody && p.ring != s.hash {
			continue
		}
		if p.down[t.hash%shares][t.hash] {
			o.down++
		} else {
			o.up++
		}
	}
	return o
}

// begin puts a target that was only heard of in the schedule, within one
// interval: when a node goes, those that take over its targets do not all ask at
// once.
func (m *Monitor) begin(t *target) {
	if t.flying || t.scheduled {
		return
	}
	t.next = time.Now()
	if t.state.health != lb.Unknown && len(m.sharing.ring) > everybody {
		t.next = time.Now().Add(time.Duration(t.hash % uint64(t.Check.Interval)))
	}
	m.push(t)
}

// words are what this node says.
func (m *Monitor) words() map[string][]byte {
	s := &m.sharing
	unknown := map[string]bool{}
	var down [shares][]uint64
	for _, t := range m.targets {
		switch {
		case !t.mine:
		case t.state.health == lb.Unknown:
			unknown[t.ID.Pool] = true
		case t.state.health == lb.Down:
			at := t.hash % shares
			down[at] = append(down[at], t.hash)
		}
	}
	var sets []uint64
	for pool, digest := range s.sets {
		if !unknown[pool] {
			sets = append(sets, digest)
		}
	}
	out := map[string][]byte{headPart: encode(head{s.hash, packed(sets[:min(len(sets), maxDownPart)])})}
	for i := range shares {
		// An empty one is said, too: it replaces what an earlier life said.
		out[fmt.Sprintf("%s.%d", headPart, i)] = encode(downList{packed(down[i][:min(len(down[i]), maxDownPart)])})
	}
	return out
}

func encode(what any) []byte {
	text, err := json.Marshal(what)
	if err != nil {
		panic(err) // plain structs of plain fields
	}
	return text
}

// Remember gives the health of every target, for Recall in another life.
func (m *Monitor) Remember() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	known := map[string]lb.Health{}
	for _, t := range m.targets {
		if t.state.health != lb.Unknown {
			known[fmt.Sprintf("%016x", t.hash)] = t.state.health
		}
	}
	return encode(known)
}

// Recall has targets that are yet to come begin with the health of an earlier
// life, as though they had been probed all the time: a supervisor that is
// replaced does not send requests to backends that it knew to be down.
func (m *Monitor) Recall(text []byte) error {
	known := map[string]lb.Health{}
	if err := json.Unmarshal(text, &known); err != nil {
		return fmt.Errorf("read the health of an earlier life: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.recalled = map[uint64]lb.Health{}
	for text, h := range known {
		var hash uint64
		if n, _ := fmt.Sscanf(text, "%x", &hash); n == 1 {
			m.recalled[hash] = h
		}
	}
	return nil
}

// Suspect has a backend probed soon and often: requests to it fail.
func (m *Monitor) Suspect(id lb.BackendID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, t := range m.targets {
		if t.ID != id || !t.probing {
			continue
		}
		t.suspect = max(t.Check.Fall, t.Check.Rise)
		if now := time.Now(); t.scheduled && t.next.After(now) {
			t.next = now
			m.reschedule()
		}
	}
}

// load counts what the monitor has to do; a test bounds it.
func (m *Monitor) load() (probing int, perSecond float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for t := range maps.Values(m.targets) {
		if t.probing {
			probing++
			perSecond += float64(time.Second) / float64(t.interval())
		}
	}
	return probing, perSecond
}
