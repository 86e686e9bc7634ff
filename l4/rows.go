package l4

import (
	"hash/fnv"
	"math/bits"
	"slices"
	"sync"

	"github.com/cirque-lb/lb"
)

// maxChain is how many owners a row names: the current one and two before it.
const maxChain = 3

// Owners returns for each row the index in members of who takes its new
// connections, -1 where nobody does. It is weighted rendezvous hashing: a
// member that leaves moves only its own rows, and gets exactly those back.
// Only integers are used, so every machine finds the same.
func Owners(members []lb.Member) []int16 {
	keys := make([]uint64, len(members))
	for i, m := range members {
		h := fnv.New64a()
		h.Write([]byte(m.Name))
		keys[i] = mix(h.Sum64())
	}
	log := logs()
	owners := make([]int16, lb.Rows)
	for row := range owners {
		owners[row] = int16(winner(members, keys, mix(uint64(row)), log))
	}
	return owners
}

// winner returns the member with the least -log(u)/weight, u being the hash of
// the row and the member as a fraction of 1.
func winner(members []lb.Member, keys []uint64, row uint64, log *logTable) int {
	best, bestHash, bestCost := -1, uint64(0), uint64(0)
	for i, key := range keys {
		weight := members[i].Weight
		if weight <= 0 {
			continue
		}
		hash := mix(key ^ row)
		if best >= 0 && weight == members[best].Weight {
			// The common case, without a logarithm: it falls as the hash rises.
			if hash > bestHash {
				best, bestHash, bestCost = i, hash, 0
			}
			continue
		}
		cost := log.minus(hash)
		if best >= 0 && bestCost == 0 {
			bestCost = log.minus(bestHash)
		}
		if best < 0 || cost*uint64(members[best].Weight) < bestCost*uint64(weight) {
			best, bestHash, bestCost = i, hash, cost
		}
	}
	return best
}

// mix is the finaliser of splitmix64.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

const logBits = 11

// logTable holds log2(1 + i/2^logBits) with 32 bits after the point.
type logTable [1<<logBits + 1]uint64

var logs = sync.OnceValue(func() *logTable {
	var t logTable
	for i := range t {
		t[i] = log2(uint64(1)<<62 + uint64(i)<<(62-logBits))
	}
	return &t
})

// log2 returns the binary logarithm of x, 1 to 2 with 62 bits after the point,
// with 32 bits after the point: each squaring yields a bit.
func log2(x uint64) (bitsOfLog uint64) {
	if x>>63 == 1 {
		return 1 << 32
	}
	for range 32 {
		hi, lo := bits.Mul64(x, x)
		x = hi<<2 | lo>>62
		bitsOfLog <<= 1
		if x>>63 == 1 {
			bitsOfLog |= 1
			x >>= 1
		}
	}
	return bitsOfLog
}

// minus returns -log2(hash / 2^64) with 32 bits after the point; never 0.
func (t *logTable) minus(hash uint64) uint64 {
	if hash == 0 {
		return 65 << 32
	}
	zeros := bits.LeadingZeros64(hash)
	rest := hash << zeros << 1 // what follows the leading one
	i := rest >> (64 - logBits)
	between := rest << logBits >> 32
	fraction := t[i] + (t[i+1]-t[i])*between>>32
	return max(1, uint64(zeros+1)<<32-fraction)
}

// A chain lists who may know a row's flows: the taker of new connections (-1:
// nobody), then earlier owners, newest first; -1 from the end on.
type chain [maxChain]int16

var noChain = chain{-1, -1, -1}

// chains derives every row's chain from epochs, newest first. The indexes are
// of the returned members: each name once, as its newest epoch describes it,
// because an older life's sockets are gone. So are those of who is gone: it
// stays no earlier owner.
func chains(epochs []lb.Epoch, gone []string, owners func(lb.Epoch) []int16) ([]lb.Member, []chain) {
	var members []lb.Member
	byName := map[string]int{}
	rows := make([]chain, lb.Rows)
	for row := range rows {
		rows[row] = noChain
	}
	for newest, e := range epochs {
		index := make([]int16, len(e.Members)) // of the epoch's members among ours
		for i, m := range e.Members {
			at, known := byName[m.Name]
			if !known {
				at = len(members)
				byName[m.Name] = at
				members = append(members, m)
			}
			index[i] = int16(at)
			if members[at].Boot != m.Boot || newest > 0 && slices.Contains(gone, m.Name) {
				index[i] = -1
			}
		}
		for row, owner := range owners(e) {
			if newest == 0 {
				if owner >= 0 {
					rows[row][0] = index[owner]
				}
			} else if owner >= 0 && index[owner] >= 0 {
				rows[row].add(index[owner])
			}
		}
	}
	return members, rows
}

// add appends an earlier owner, unless it is there or there is no room.
func (c *chain) add(owner int16) {
	for i, o := range c {
		if o == owner {
			return
		}
		if o < 0 && i > 0 {
			c[i] = owner
			return
		}
	}
}

// pack writes a row as the programs read it: local indexes of 16 bits, the
// taker of new connections lowest, 0 for nobody.
func (c chain) pack(local []uint16) (row uint64) {
	for i, o := range c {
		if o >= 0 {
			row |= uint64(local[o]) << (16 * i)
		}
	}
	return row
}
