package cluster

import (
	"bytes"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// Key is a cluster's secret: gossip is encrypted with it, the flow hash's seed,
// the encapsulation tag and the secret of session tickets are derived from it.
type Key [32]byte

// NewKey makes a random key.
func NewKey() Key {
	var k Key
	rand.Read(k[:]) // never fails
	return k
}

// String is the key as key_file has it. It is a secret.
func (k Key) String() string { return hex.EncodeToString(k[:]) }

// ParseKeys reads a key_file: one key in hex per line, at most two. Blank
// lines and lines that begin with # are skipped.
func ParseKeys(file []byte) ([]Key, error) {
	var keys []Key
	number := 0
	for line := range bytes.Lines(file) {
		number++
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		var k Key
		if n, err := hex.Decode(k[:], line[:min(len(line), 2*len(k))]); err != nil || n != len(k) || len(line) != 2*len(k) {
			return nil, fmt.Errorf("line %d: a key is 64 hexadecimal digits, this is not (make one with lbctl cluster key new)", number)
		}
		if len(keys) == 2 {
			return nil, fmt.Errorf("line %d: a third key; a rotation needs two", number)
		}
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("no key in it (make one with lbctl cluster key new)")
	}
	return keys, nil
}

// Seed keys the hash that puts flows in rows: every node of a cluster has the
// same and nobody outside can guess it. It is made of the key that the cluster
// began with and stays when keys rotate; nodes that join learn it by encrypted
// gossip before they are Synced.
func (c *Cluster) Seed() [16]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.view.seed
}

// seed is what a cluster that begins with these options has. Without a key
// (loopback only) it follows from the cluster's name.
func (o Options) seed() [16]byte {
	if len(o.Keys) == 0 {
		return [16]byte(derive([]byte(o.Name), "lb flow seed, no key", 16))
	}
	return [16]byte(derive(o.Keys[0][:], "lb flow seed", 16))
}

// Tags authenticate encapsulated packets: of the first key, then of the one
// being rotated. Without a key there is none, and no encapsulation.
func (c *Cluster) Tags() []uint32 {
	var tags []uint32
	for _, k := range c.Keys() {
		tags = append(tags, binary.BigEndian.Uint32(derive(k[:], "lb encapsulation tag", 4)))
	}
	return tags
}

// Keys are those in use: the first one signs and encrypts, all open.
func (c *Cluster) Keys() []Key {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.options.Keys)
}

// SetKeys changes the keys while the cluster runs. The seed of the flow hash
// stays: it is the cluster's, not the key's.
func (c *Cluster) SetKeys(keys []Key) error {
	ring := c.gossip.keyring
	if ring == nil || len(keys) == 0 {
		return errors.New("a cluster without a key gets one, or loses it, by a restart")
	}
	for _, k := range keys {
		if err := ring.AddKey(bytes.Clone(k[:])); err != nil {
			return fmt.Errorf("add a key: %w", err)
		}
	}
	if err := ring.UseKey(keys[0][:]); err != nil {
		return fmt.Errorf("use a key: %w", err)
	}
	for _, k := range slices.Clone(ring.GetKeys()) { // a removal moves those behind it
		if !slices.Contains(keys, Key(k)) {
			if err := ring.RemoveKey(k); err != nil {
				return fmt.Errorf("remove a key: %w", err)
			}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.options.Keys = slices.Clone(keys)
	return c.sayKeys()
}

// keysPart names the keys that a member has, without giving them away.
const keysPart = "keys"

// KeyRing is which keys a member has, by name; the first one signs.
type KeyRing struct {
	Member string
	Alive  bool
	Names  []string
}

func (c *Cluster) sayKeys() error {
	var names []string
	for _, k := range c.options.Keys {
		names = append(names, k.Name())
	}
	return c.sayLocked(keysPart, plainJSON(names), false)
}

// KeyRings lists what the members say of their keys, by member. One of an older
// version says nothing.
func (c *Cluster) KeyRings() []KeyRing {
	var all []KeyRing
	for _, s := range c.Said(keysPart) {
		r := KeyRing{Member: s.Member, Alive: s.Alive}
		if json.Unmarshal(s.Body, &r.Names) == nil {
			all = append(all, r)
		}
	}
	return all
}

// Name tells keys apart without giving them away.
func (k Key) Name() string { return hex.EncodeToString(derive(k[:], "lb key name", 4)) }

// TicketSecret is what keys of TLS session tickets are made of: with the same
// at every node, a session that one began can be resumed at another.
func (k Key) TicketSecret() []byte { return derive(k[:], "lb session tickets", 32) }

func derive(secret []byte, use string, n int) []byte {
	out, err := hkdf.Key(sha256.New, secret, nil, use, n)
	if err != nil {
		panic(err) // only for lengths beyond 255 hashes
	}
	return out
}
