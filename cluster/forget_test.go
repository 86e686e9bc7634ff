package cluster

import (
	"slices"
	"testing"

	"github.com/cirque-lb/lb"
)

func TestForgottenEpochsDoNotComeBackUnasked(t *testing.T) {
	list := []lb.Epoch{{Counter: 3, Origin: "a"}, {Counter: 2, Origin: "a"}, {Counter: 1, Origin: "a"}}
	has := func(v *view, counters ...uint64) bool {
		var got []uint64
		for _, e := range v.epochs {
			got = append(got, e.Counter)
		}
		return slices.Equal(got, counters)
	}
	v := newView(lb.Member{Name: "a"})
	v.merge(list)
	handed := v.epochs
	if dropped := v.forget([]uint64{list[0].Digest(), list[2].Digest()}); len(dropped) != 1 || !has(v, 3, 2) {
		t.Errorf("dropped %v, left %v: the current one stays", dropped, v.epochs)
	}
	if len(handed) != 3 || handed[2].Counter != 1 {
		t.Error("a list that was handed out changed")
	}
	if learnt := v.merge(list); learnt != nil || !has(v, 3, 2) {
		t.Errorf("a peer still had it: learnt %v, now %v", learnt, v.epochs)
	}
	v.forget([]uint64{list[1].Digest()})
	if learnt := v.merge(list); len(learnt) != 1 || !has(v, 3, 1) {
		t.Errorf("it is needed after all: learnt %v, now %v", learnt, v.epochs)
	}
	v = newView(lb.Member{Name: "a"})
	v.forget([]uint64{list[0].Digest()})
	if v.merge(list[:1]); !has(v, 3) {
		t.Error("a current epoch was not taken in")
	}
}
