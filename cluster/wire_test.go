package cluster

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/cirque-lb/lb"
)

// FuzzMessages: no message makes a node panic or mint; what it accepts as an
// epoch it can pass on.
func FuzzMessages(f *testing.F) {
	e := lb.Epoch{Counter: 3, Origin: "b", Members: []lb.Member{self("a"), self("b")}}
	f.Add(encode(kindEpochs, []lb.Epoch{e}))
	f.Add(encode(kindAnnounce, announce(e, "b")))
	f.Add(encode(kindAsk, question{From: "b", Have: []announcement{announce(e, "")}}))
	f.Add([]byte("e[{}]"))
	f.Fuzz(func(t *testing.T, message []byte) {
		if len(message) == 0 {
			return
		}
		epochs, err := decodeEpochs(message[1:])
		if err == nil {
			v := newView(self("a"))
			v.merge(epochs)
			body, _ := json.Marshal(v.epochs)
			again, err := decodeEpochs(body)
			if err != nil || len(v.epochs) > 0 && !reflect.DeepEqual(again, v.epochs) {
				t.Fatalf("%v\nsent %v\ngot  %v", err, v.epochs, again)
			}
		}
		if l, err := decodeList(message[1:]); err == nil && len(l.Seed) != 16 {
			t.Fatalf("a seed of %d bytes", len(l.Seed))
		}
		if q, err := decodeQuestion(message[1:]); err == nil {
			lacking([]lb.Epoch{e}, q.Have)
		}
	})
}

func TestLackingIsWhatTheAskerHasNot(t *testing.T) {
	one := lb.Epoch{Counter: 1, Origin: "a"}
	two := lb.Epoch{Counter: 2, Origin: "a"}
	other := lb.Epoch{Counter: 2, Origin: "a", Members: []lb.Member{self("b")}} // the same name, another content
	got := lacking([]lb.Epoch{two, one}, []announcement{announce(one, "x"), announce(other, "y")})
	if len(got) != 1 || !equalEpochs(got[0], two) {
		t.Errorf("got %s", lines(got))
	}
}

func TestWhatGossipCarriesFits(t *testing.T) {
	name := strings.Repeat("n", maxName)
	e := lb.Epoch{Counter: 1<<62 - 1, Origin: name}
	if n := len(encode(kindAnnounce, announce(e, name))); n > 512 {
		t.Errorf("an announcement takes %d bytes", n)
	}
	meta, err := json.Marshal(about{Boot: lb.BootID{255, 255, 255, 255, 255, 255, 255, 255}, Address: self("a").Address.Unmap(), Weight: maxWeight, Ready: true, Leaving: true, View: 65535})
	if err != nil || len(meta) > 400 {
		t.Errorf("metadata takes %d bytes, %v", len(meta), err)
	}
}
