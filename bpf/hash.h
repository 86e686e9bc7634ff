/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The hash of a flow: SipHash-1-3, keyed by the cluster's secret, over source
 * address, destination address, source port, destination port and protocol as
 * they are on the wire. l4/hash.go is the same function.
 */
#pragma once

#include "maps.h"

INLINE __u64 pair(__be32 first, __be32 second)
{
	return (__u64)second << 32 | first;
}

struct sip {
	__u64 a, b, c, d;
};

INLINE __u64 rotate(__u64 x, int n)
{
	return x << n | x >> (64 - n);
}

INLINE void sip_round(struct sip *s)
{
	s->a += s->b; s->b = rotate(s->b, 13); s->b ^= s->a; s->a = rotate(s->a, 32);
	s->c += s->d; s->d = rotate(s->d, 16); s->d ^= s->c;
	s->a += s->d; s->d = rotate(s->d, 21); s->d ^= s->a;
	s->c += s->b; s->b = rotate(s->b, 17); s->b ^= s->c; s->c = rotate(s->c, 32);
}

INLINE void sip_word(struct sip *s, __u64 word)
{
	s->d ^= word;
	sip_round(s);
	s->a ^= word;
}

INLINE __u64 flow_hash(const struct node *node, const struct address *src, const struct address *dst,
		       __be16 sport, __be16 dport, __u8 protocol)
{
	__u64 last = (__u64)protocol << 32 | (__u64)dport << 16 | sport;
	struct sip s = {
		node->seed[0] ^ 0x736f6d6570736575ULL,
		node->seed[1] ^ 0x646f72616e646f6dULL,
		node->seed[0] ^ 0x6c7967656e657261ULL,
		node->seed[1] ^ 0x7465646279746573ULL,
	};

	if (is_ipv4(dst)) {
		sip_word(&s, pair(src->word[3], dst->word[3]));
		sip_word(&s, last | 13ULL << 56);	/* bytes in all */
	} else {
		sip_word(&s, pair(src->word[0], src->word[1]));
		sip_word(&s, pair(src->word[2], src->word[3]));
		sip_word(&s, pair(dst->word[0], dst->word[1]));
		sip_word(&s, pair(dst->word[2], dst->word[3]));
		sip_word(&s, last | 37ULL << 56);
	}
	s.c ^= 0xff;
	sip_round(&s);
	sip_round(&s);
	sip_round(&s);
	return s.a ^ s.b ^ s.c ^ s.d;
}

/* The upper half of the hash chooses the row: its value modulo ROWS, 2^16 + 1. */
INLINE __u32 row_of(__u64 hash)
{
	__u32 high = hash >> 48, low = hash >> 32 & 0xffff;

	return low >= high ? low - high : low + ROWS - high;
}

/* The lower half chooses one of n slots. */
INLINE __u32 slot_of(__u64 hash, __u32 n)
{
	return (hash & 0xffffffff) * n >> 32;
}

/*
 * The table of VIPs. Its hash needs no key: what is in the table is chosen by
 * the operator, and a packet for another address is looked for in two buckets,
 * whichever.
 */
INLINE __u64 address_hash(const struct address *a)
{
	__u64 hash = (pair(a->word[0], a->word[1]) * 0x9e3779b97f4a7c15ULL) ^
		     pair(a->word[2], a->word[3]);

	hash = (hash ^ hash >> 32) * 0xbf58476d1ce4e5b9ULL;
	return hash ^ hash >> 32;
}

INLINE __u32 vip_in_bucket(__u32 index, const struct address *a)
{
	const struct vip_bucket *bucket = bpf_map_lookup_elem(&vip_table, &index);

	if (!bucket)
		return 0;
#pragma unroll
	for (int i = 0; i < VIP_BUCKET; i++) {
		const struct vip_entry *e = &bucket->entry[i];

		if (e->address.word[3] == a->word[3] && e->address.word[2] == a->word[2] &&
		    e->address.word[1] == a->word[1] && e->address.word[0] == a->word[0])
			return e->vip;
	}
	return 0;
}

INLINE const struct vip *find_vip(const struct address *a)
{
	__u64 hash = address_hash(a);
	__u32 vip = vip_in_bucket(hash & (VIP_BUCKETS - 1), a);

	if (!vip)
		vip = vip_in_bucket(hash >> 32 & (VIP_BUCKETS - 1), a);
	return vip ? bpf_map_lookup_elem(&vips, &vip) : NULL;
}
