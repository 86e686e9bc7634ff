package balance

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"
)

func candidates(weights ...int) []Candidate {
	out := make([]Candidate, len(weights))
	for i, w := range weights {
		out[i] = Candidate{Name: fmt.Sprintf("10.0.%d.%d:80", i/256, i%256), Weight: w, Active: new(atomic.Int64), Latency: new(Latency)}
	}
	return out
}

func ask(random *rand.Rand) Ask { return Ask{Random: random.Uint64(), Key: random.Uint64()} }

func build(t testing.TB, name string, c []Candidate) Balancer {
	b, err := New(name, c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// names of all balancers, in order.
func names() []string {
	var all []string
	for name := range builders {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

func TestRoundRobinIsSmooth(t *testing.T) {
	for _, c := range []struct {
		weights []int
		want    string
	}{
		{[]int{1, 1, 1}, "abcabcabcabcabc"},
		{[]int{7, 7}, "abababababababa"},
		{[]int{2, 1}, "abaabaabaabaaba"},
		{[]int{10, 20, 10}, "abbcabbcabbcabb"},
		{[]int{0, 1, 0}, "bbbbbbbbbbbbbbb"},
	} {
		b := build(t, "round_robin", candidates(c.weights...))
		var got strings.Builder
		for range len(c.want) {
			got.WriteByte(byte('a' + b.Pick(Ask{})))
		}
		sorted := func(s string) string { r := []byte(s[:12]); slices.Sort(r); return string(r) }
		if sorted(got.String()) != sorted(c.want) {
			t.Errorf("weights %v: got %s, want the counts of %s", c.weights, got.String(), c.want)
		}
	}
}

// In as many picks as the weights sum up to, each candidate gets its weight,
// and at any moment nobody is further than a round and a bit from its share.
func TestRoundRobinIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		weights := rapid.SliceOfN(rapid.IntRange(0, 20), 1, 12).Draw(t, "weights")
		sum := 0
		for _, w := range weights {
			sum += w
		}
		b, _ := New("round_robin", candidates(weights...))
		got := make([]int, len(weights))
		for k := range 3 * sum {
			got[b.Pick(Ask{})]++
			for i, n := range got {
				want := float64(k+1) * float64(weights[i]) / float64(sum)
				if math.Abs(float64(n)-want) > 2+float64(len(weights))*float64(weights[i])/float64(sum)*2 {
					t.Fatalf("weights %v, after %d picks: candidate %d got %d, its share is %.1f", weights, k+1, i, n, want)
				}
			}
		}
		for i, n := range got {
			if n != 3*weights[i] {
				t.Fatalf("weights %v: candidate %d got %d, want %d", weights, i, n, 3*weights[i])
			}
		}
	})
}

func TestIdleBackendsShareByWeight(t *testing.T) {
	for _, name := range names() {
		for _, weights := range [][]int{{1, 1}, {1, 1, 1, 1, 1}, {3, 1}, {1, 2, 3, 4}, {100, 1, 0, 1}, {1}} {
			t.Run(fmt.Sprint(name, weights), func(t *testing.T) {
				b, random := build(t, name, candidates(weights...)), rand.New(rand.NewPCG(1, 2))
				const picks = 100_000
				got, sum := make([]int, len(weights)), 0
				for _, w := range weights {
					sum += w
				}
				for range picks {
					got[b.Pick(ask(random))]++
				}
				for i, n := range got {
					share := float64(weights[i]) / float64(sum)
					sigma := math.Sqrt(picks * share * (1 - share))
					if name == "ring_hash" { // its points do not lie evenly
						sigma = math.Hypot(sigma, picks*math.Sqrt(share*(1-share)/float64(len(b.(*ringHash).points))))
					}
					if math.Abs(float64(n)-picks*share) > 5*sigma+2 {
						t.Errorf("candidate %d got %d of %d, its share is %.0f", i, n, picks, picks*share)
					}
				}
			})
		}
	}
}

func TestATriedBackendIsNotPickedAgain(t *testing.T) {
	for _, name := range names() {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				weights := rapid.SliceOfN(rapid.IntRange(0, 1000), 0, 8).Draw(t, "weights")
				b, _ := New(name, candidates(weights...))
				want := 0
				for _, w := range weights {
					if w > 0 {
						want++
					}
				}
				var tried []int
				for {
					i := b.Pick(Ask{Random: rapid.Uint64().Draw(t, "random"), Key: rapid.Uint64().Draw(t, "key"), Tried: tried})
					if i < 0 {
						break
					}
					if slices.Contains(tried, i) || weights[i] == 0 {
						t.Fatalf("weights %v, tried %v: got %d", weights, tried, i)
					}
					tried = append(tried, i)
				}
				if len(tried) != want {
					t.Fatalf("weights %v: only %v were picked", weights, tried)
				}
			})
		})
	}
}

func TestLeastRequestAvoidsTheBusyOne(t *testing.T) {
	c := candidates(1, 1, 1, 1)
	c[2].Active.Store(50)
	b, random := build(t, "least_request", c), rand.New(rand.NewPCG(1, 2))
	got := make([]int, 4)
	for range 64_000 {
		got[b.Pick(ask(random))]++
	}
	// 1/64 of the picks do not look at the load: 250 of 64 000 land on it.
	if got[2] < 150 || got[2] > 400 {
		t.Errorf("the busy one got %d of 64000; want few, but some", got[2])
	}
}

func TestLeastRequestAvoidsTheBusyOneOfTwo(t *testing.T) {
	c := candidates(1, 1)
	c[0].Active.Store(1)
	b, random := build(t, "least_request", c), rand.New(rand.NewPCG(1, 2))
	got := make([]int, 2)
	for range 64_000 {
		got[b.Pick(ask(random))]++
	}
	// Drawn twice in a row (1 in 16) or explored (1 in 128).
	if got[0] < 300 || got[0] > 6000 {
		t.Errorf("the busy one got %d of 64000; want few, but some", got[0])
	}
}

// A closed loop of clients and backends of different speed: each backend's
// requests in progress must stay near the same number per weight.
func TestLeastRequestEvensOutLoad(t *testing.T) {
	for _, c := range []struct {
		weights, speed []int // of each speed[i] steps, one finishes a request
	}{
		{[]int{1, 1, 1, 1}, []int{1, 1, 1, 1}},
		{[]int{1, 1, 1, 1}, []int{1, 1, 1, 8}},
		{[]int{1, 1, 2, 4}, []int{4, 4, 2, 1}},
	} {
		cs := candidates(c.weights...)
		b, random := build(t, "least_request", cs), rand.New(rand.NewPCG(1, 2))
		var sum [4]float64
		const clients, steps = 64, 20_000
		inProgress := 0
		for step := range steps {
			for ; inProgress < clients; inProgress++ {
				cs[b.Pick(ask(random))].Active.Add(1)
			}
			for i := range cs {
				sum[i] += float64(cs[i].Active.Load()) / float64(c.weights[i])
				if step%c.speed[i] == 0 && cs[i].Active.Load() > 0 {
					cs[i].Active.Add(-1)
					inProgress--
				}
			}
		}
		low, high := slices.Min(sum[:]), slices.Max(sum[:])
		if high > 1.6*low {
			t.Errorf("weights %v, speeds %v: requests per weight differ by %.2f: %v", c.weights, c.speed, high/low, sum)
		}
	}
}

func TestTheSameRandomNumbersChooseTheSame(t *testing.T) {
	for _, name := range names() {
		a, b := build(t, name, candidates(1, 2, 3)), build(t, name, candidates(1, 2, 3))
		random := rand.New(rand.NewPCG(1, 2))
		for range 1000 {
			if r := ask(random); a.Pick(r) != b.Pick(r) {
				t.Fatalf("%s: two balancers differ", name)
			}
		}
	}
}

func TestThreadsShareABalancer(t *testing.T) {
	for _, name := range names() {
		c := candidates(1, 2, 3)
		b := build(t, name, c)
		var got [3]atomic.Int64
		var threads sync.WaitGroup
		const each = 6000
		for thread := range 4 {
			threads.Go(func() {
				random := rand.New(rand.NewPCG(1, uint64(thread)))
				for range each {
					i := b.Pick(ask(random))
					c[i].Active.Add(1)
					got[i].Add(1)
					c[i].Active.Add(-1)
				}
			})
		}
		threads.Wait()
		for i := range got {
			if n := got[i].Load(); n < each/3 {
				t.Errorf("%s: candidate %d got %d of %d", name, i, n, 4*each)
			} else if name == "round_robin" && n != int64(4*each*(i+1)/6) {
				t.Errorf("%s: candidate %d got %d, want %d", name, i, n, 4*each*(i+1)/6)
			}
		}
	}
}

func TestUnknownBalancer(t *testing.T) {
	if _, err := New("magic", nil); err == nil || err.Error() != `no balancer "magic"` {
		t.Errorf("got %v", err)
	}
}

func BenchmarkPick(b *testing.B) {
	skewed := make([]int, 1000)
	for i := range skewed {
		skewed[i] = 1 + i*i%100
	}
	for _, name := range names() {
		for _, c := range []struct {
			name    string
			weights []int
		}{
			{"3 equal", []int{1, 1, 1}},
			{"3 weighted", []int{1, 2, 5}},
			{"1000 weighted", skewed},
		} {
			b.Run(name+"/"+c.name, func(b *testing.B) {
				balancer, random := build(b, name, candidates(c.weights...)), rand.NewPCG(1, 2)
				b.ReportAllocs()
				for b.Loop() {
					balancer.Pick(Ask{Random: random.Uint64(), Key: random.Uint64()})
				}
			})
		}
	}
}
