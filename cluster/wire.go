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
)

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

func encode(kind byte, what any) []byte {
	body, err := json.Marshal(what)
	if err != nil {
		panic(err) // plain structs of plain fields
	}
	return append([]byte{kind}, body...)
}

// decodeEpochs reads a list and refuses it whole if one epoch is not valid.
func decodeEpochs(body []byte) ([]lb.Epoch, error) {
	var epochs []lb.Epoch
	if err := json.Unmarshal(body, &epochs); err != nil {
		return nil, fmt.Errorf("read epochs: %w", err)
	}
	if len(epochs) > retained {
		return nil, fmt.Errorf("read epochs: %d of them, %d is the most", len(epochs), retained)
	}
	for _, e := range epochs {
		if err := valid(e); err != nil {
			return nil, fmt.Errorf("read epoch %d of %s: %w", e.Counter, e.Origin, err)
		}
	}
	return epochs, nil
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
