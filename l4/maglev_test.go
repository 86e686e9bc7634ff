package l4

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cirque-lb/lb"
)

func sharesOf(n int) (s []share) {
	for i := range n {
		s = append(s, share{fmt.Sprintf("10.0.%d.%d:80", i/256, i%256), 1, true})
	}
	return s
}

// ringMoved is the part of the places that name another backend.
func ringMoved(a, b []share) float64 {
	n := 0
	before, after := ring(a), ring(b)
	for place := range before {
		if before[place] < 0 || after[place] < 0 || a[before[place]].name != b[after[place]].name {
			n++
		}
	}
	return float64(n) / lb.Rows
}

func TestARingMovesLittleWhenABackendGoes(t *testing.T) {
	for _, n := range []int{2, 10, 100, 1000} {
		all := sharesOf(n)
		worst, absent := 0.0, 0.0
		for i := range 10 {
			gone := i * n / 10
			rest := append(append([]share{}, all[:gone]...), all[gone+1:]...)
			worst = max(worst, ringMoved(all, rest))
			down := append([]share{}, all...)
			down[gone].takes = false
			absent = max(absent, ringMoved(all, down))
		}
		t.Logf("%4d backends: one removed moves at most %.4f, one down %.4f; its part is %.4f", n, worst, absent, 1/float64(n))
		if worst > 1/float64(n)+0.01 && n > 2 {
			t.Errorf("%d backends, one removed: %.4f of the places moved", n, worst)
		}
		if absent > 1/float64(n)+0.0001 {
			t.Errorf("%d backends, one down: %.4f of the places moved", n, absent)
		}
	}
}

func TestARingIsEvenAndFollowsWeights(t *testing.T) {
	s := sharesOf(100)
	for i := range s {
		s[i].weight = 1 + i%4
	}
	count := make([]int, len(s))
	for _, i := range ring(s) {
		count[i]++
	}
	for i, n := range count {
		want := float64(lb.Rows) * float64(s[i].weight) / 250
		if float64(n) < want-2 || float64(n) > want+2 {
			t.Errorf("weight %d of 250 got %d places, want %.0f", s[i].weight, n, want)
		}
	}
}

func TestARingDependsOnWhoIsThereOnly(t *testing.T) {
	a := sharesOf(50)
	b := append([]share{{"spare", 0, true}}, a...)
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(b), func(i, j int) { b[i], b[j] = b[j], b[i] })
	if m := ringMoved(a, b); m != 0 {
		t.Errorf("another order moved %.4f", m)
	}
	for _, s := range [][]share{nil, {{"a", 0, true}}, {{"a", 1, false}}} {
		for place, i := range ring(s) {
			if i != -1 {
				t.Fatalf("place %d of %v is %d's", place, s, i)
			}
		}
	}
}

func TestARingOfAThousandIsMadeInTime(t *testing.T) {
	s := sharesOf(1000)
	began := time.Now()
	ring(s)
	if took := time.Since(began); took > time.Second {
		t.Errorf("it took %v", took)
	} else {
		t.Log(took)
	}
}
