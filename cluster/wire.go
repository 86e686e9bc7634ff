package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cirque-lb/lb"
)

// What nodes say to each other: one byte for the kind, then JSON. Announcements
// travel as UDP gossip and stay far below its 1400 bytes; lists and bodies go
// by TCP only.
const (
	kindAnnounce byte = 'a' // announcement: an epoch exists
	kindAsk      byte = 'q' // question: send what I lack
	kindEpochs   byte = 'e' // []lb.Epoch
	kindList     byte = 'l' // list, by push/pull only

	kindSay          byte = 's' // sealed sayings, a line each
	kindNews         byte = 'n' // news: a saying exists
	kindWant         byte = 'w' // want: send these sayings
	kindSum          byte = 'h' // sum: of everything said that is here
	kindNumbers      byte = 'N' // numbers: the answer to a sum that is not ours
	kindWantDocument byte = 'd' // wantDocument
	kindDocument     byte = 'D' // a document: its seal, a line's end, its text
	kindGoodBye      byte = 'b' // goodBye
)

// speaks is the version of what this node says. A reader takes what it knows of
// a message and leaves the rest: members of objects that it does not know, and
// kinds, are no errors. So a version adds, and never gives a name another sense.
// 1: epochs. 2: signed abouts, sayings, documents.
const speaks = 2

// list is everything that a node starting, or one long cut off, must learn.
type list struct {
	Seed   []byte     `json:"seed"`
	Firm   bool       `json:"firm"`
	Epochs []lb.Epoch `json:"epochs"`

	From string `json:"from,omitempty"`
	Said []news `json:"said,omitempty"`
}

// goodBye is the last about of a node that leaves, by TCP: gossip may have no
// time for it any more.
type goodBye struct {
	Member string `json:"m"`
	Meta   []byte `json:"a"`
}

// announcement says that holder has an epoch.
type announcement struct {
	Counter uint64 `json:"c"`
	Origin  string `json:"o"`
	Digest  uint64 `json:"d"`
	Holder  string `json:"h"`
}

func announce(e lb.Epoch, holder string) announcement {
	return announcement{e.Counter, e.Origin, e.Digest(), holder}
}

// question asks for the epochs that are not among Have.
type question struct {
	From string         `json:"f"`
	Have []announcement `json:"h"`
}

// about is what every node tells of itself in memberlist's 512 bytes.
type about struct {
	Boot    lb.BootID  `json:"b"`
	Address netip.Addr `json:"a"`
	Weight  int        `json:"w"`
	Ready   bool       `json:"r,omitempty"`
	Leaving bool       `json:"l,omitempty"`
	View    uint16     `json:"v,omitempty"`
}

// signedAbout is an about with who says it; it goes sealed. One of version 1 has
// no key and is taken for a name that no key is pinned to.
type signedAbout struct {
	about
	Speaks int    `json:"p,omitempty"`
	Seq    uint64 `json:"n,omitempty"`
	Key    []byte `json:"k,omitempty"`
}

func encode(kind byte, what any) []byte {
	body, err := json.Marshal(what)
	if err != nil {
		panic(err) // plain structs of plain fields
	}
	return append([]byte{kind}, body...)
}

// decodeList reads a list and refuses it whole if a part is not valid.
func decodeList(body []byte) (l list, err error) {
	if err := json.Unmarshal(body, &l); err != nil {
		return l, fmt.Errorf("read list: %w", err)
	}
	if len(l.Seed) != 16 {
		return l, fmt.Errorf("read list: a seed of %d bytes", len(l.Seed))
	}
	if len(l.Said) > maxMember*maxParts || len(l.From) > maxName {
		return l, fmt.Errorf("read list: %d sayings: %w", len(l.Said), errOversized)
	}
	return l, validAll(l.Epochs)
}

// decodeEpochs reads epochs and refuses all if one is not valid.
func decodeEpochs(body []byte) ([]lb.Epoch, error) {
	var epochs []lb.Epoch
	if err := json.Unmarshal(body, &epochs); err != nil {
		return nil, fmt.Errorf("read epochs: %w", err)
	}
	return epochs, validAll(epochs)
}

func validAll(epochs []lb.Epoch) error {
	if len(epochs) > retained {
		return fmt.Errorf("read epochs: %d of them, %d is the most", len(epochs), retained)
	}
	for _, e := range epochs {
		if err := valid(e); err != nil {
			return fmt.Errorf("read epoch %d of %s: %w", e.Counter, e.Origin, err)
		}
	}
	return nil
}

func decodeQuestion(body []byte) (q question, err error) {
	if err := json.Unmarshal(body, &q); err != nil {
		return q, fmt.Errorf("read question: %w", err)
	}
	if len(q.Have) > retained {
		return q, errors.New("read question: more epochs than anybody keeps")
	}
	return q, nil
}

// lacking lists the epochs that are not among have.
func lacking(epochs []lb.Epoch, have []announcement) (rest []lb.Epoch) {
	known := map[announcement]bool{}
	for _, h := range have {
		h.Holder = ""
		known[h] = true
	}
	for _, e := range epochs {
		if !known[announce(e, "")] {
			rest = append(rest, e)
		}
	}
	return rest
}
