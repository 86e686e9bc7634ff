package node

import (
	"testing"
	"time"

	"github.com/cirque-lb/lb"
)

func TestAnEpochIsKeptWhileAnyMemberMayNeedIt(t *testing.T) {
	e := lb.Epoch{Counter: 5, Origin: "a", Members: []lb.Member{{Name: "a", Weight: 4}, {Name: "b", Weight: 4}, {Name: "c"}}}
	not := needs{Knows: mark{6, "b"}}
	yes := needs{Knows: mark{6, "b"}, Epochs: []uint64{1, e.Digest()}}
	const most = time.Minute
	for _, c := range []struct {
		sentence string
		age      time.Duration
		dead     []string
		said     map[string]needs
		needless bool
	}{
		{"nobody needs it; who has no weight is not asked", 20 * time.Second, nil, map[string]needs{"a": not, "b": not}, true},
		{"one needs it", 20 * time.Second, nil, map[string]needs{"a": not, "b": yes}, false},
		{"one has not said", 20 * time.Second, nil, map[string]needs{"a": not}, false},
		{"one said it before it knew a newer one", 20 * time.Second, nil, map[string]needs{"a": not, "b": {Knows: mark{5, "a"}}}, false},
		{"a newer one of the same number", 20 * time.Second, nil, map[string]needs{"a": not, "b": {Knows: mark{5, "b"}}}, true},
		{"it was replaced just now", 5 * time.Second, nil, map[string]needs{"a": not, "b": not}, false},
		{"who would need it is gone", 20 * time.Second, []string{"b"}, map[string]needs{"a": not, "b": yes}, true},
		{"its time is over: what needs it is closed now", most + closingTime, nil, map[string]needs{"a": not, "b": yes}, false},
		{"what needed it is closed", most + 3*closingTime, nil, map[string]needs{"a": not, "b": yes}, true},
	} {
		if got := needless(e, c.age, most, c.dead, c.said); got != c.needless {
			t.Errorf("%s: needless %v", c.sentence, got)
		}
	}
}

func TestForgottenEpochsAreRememberedAsSuch(t *testing.T) {
	list := []lb.Epoch{{Counter: 3}, {Counter: 2}, {Counter: 1}}
	r := &retention{}
	now := time.Unix(100, 0)
	r.note(list, now)
	if len(r.replaced) != 2 || r.replaced[list[0].Digest()] != (time.Time{}) {
		t.Errorf("replaced: %v", r.replaced)
	}
	r.remember(list, []uint64{list[2].Digest()})
	r.tidy(list[:2])
	if len(r.unneeded) != 1 || len(r.replaced) != 2 {
		t.Errorf("one is forgotten: %v, %v", r.unneeded, r.replaced)
	}
	r.remember(list[:2], []uint64{list[2].Digest()})
	if len(r.unneeded) != 1 {
		t.Errorf("it is still forgotten: %v", r.unneeded)
	}
	r.remember(list[:2], nil) // somebody needs it after all
	r.tidy(list[:2])
	if len(r.unneeded) != 0 || len(r.replaced) != 1 {
		t.Errorf("none is forgotten: %v, %v", r.unneeded, r.replaced)
	}
}
