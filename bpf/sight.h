/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What is shown of packets to whoever looks: some of those that are dropped,
 * always; and while somebody captures, all that match. A packet that goes its
 * way unseen pays two comparisons.
 */
#pragma once

#include "parse.h"

#define DROPS_SHOWN 4		/* per CPU and tick of the clock */
#define DROP_BYTES 128		/* of a dropped packet */
#define SIGHT_HEADERS 256	/* of a captured one, that are compared */
#define SIGHT_BYTES 2048	/* of a captured one, at most; a power of two */
#define DROPS_RING (64 << 10)
#define SIGHTS_RING (1 << 20)

/* A packet as it arrived, or as it was when it was dropped. */
struct sight {
	__u64 at;		/* monotonic ns */
	__u32 way;		/* VERDICT and REASON */
	__u32 ifindex;
	__u32 length;		/* of the frame */
	__u32 kept;		/* bytes of it that follow */
	__u8 frame[SIGHT_BYTES + 8];	/* 8 that are read where the last byte is asked for */
};
_Static_assert(sizeof(struct sight) == 24 + SIGHT_BYTES + 8, "struct sight");
#define SIGHT_HEAD 24

/* Which packets are captured, as the client sent them: zero is any. */
struct filter {
	struct address src, dst;
	__be16 sport, dport;
	__u8 protocol;
	__u8 verdict;		/* 1 + a verdict */
	__u16 reason;		/* 1 + a reason */
	__u32 bytes;		/* of each packet */
	__u32 unused;
	__u64 until;		/* monotonic ns */
	__u64 left;		/* packets */
	__u64 lost;		/* that the ring had no room for */
};
_Static_assert(sizeof(struct filter) == 72, "struct filter");

/* How many drops were shown in a tick. */
struct shown {
	__u64 tick, count;
};

MAP_DEFINITION(BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct sight, 2, 0) sight SEC(".maps");
MAP_DEFINITION(BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct shown, 1, 0) shown SEC(".maps");
MAP_DEFINITION(BPF_MAP_TYPE_ARRAY, __u32, struct filter, 1, 0) filter SEC(".maps");

struct {
	uint_field(type, BPF_MAP_TYPE_RINGBUF);
	uint_field(max_entries, DROPS_RING);
} drops SEC(".maps");

struct {
	uint_field(type, BPF_MAP_TYPE_RINGBUF);
	uint_field(max_entries, SIGHTS_RING);
} sights SEC(".maps");

#define SIGHT_DROPPED 0		/* indexes of `sight` */
#define SIGHT_CAPTURED 1

/* Read each time: remembered, it would have the verifier look at all twice. */
INLINE int is_captured(const struct node *node)
{
	return *(const volatile __u8 *)&node->flags & NODE_CAPTURED;
}

/* Copies what there is of the frame. */
INLINE int look(struct xdp_md *ctx, struct sight *s, __u32 bytes)
{
	__u32 length = bpf_xdp_get_buff_len(ctx);

	s->ifindex = ctx->ingress_ifindex;
	s->length = length;
	if (bytes > length)
		bytes = length;
	bytes -= 1;
	asm volatile("" : "+r"(bytes));	/* that 0 is no length kernel 6.1 learns of one comparison only */
	if (bytes >= SIGHT_BYTES)
		return 0;
	bytes += 1;
	s->kept = bytes;
	return !bpf_xdp_load_bytes(ctx, 0, s->frame, bytes);
}

/* Before a packet is changed: it is captured as it arrived. */
__attribute__((noinline)) int remember(struct xdp_md *ctx)
{
	__u32 zero = 0, one = SIGHT_CAPTURED;
	struct sight *s = bpf_map_lookup_elem(&sight, &one);
	struct filter *f = bpf_map_lookup_elem(&filter, &zero);

	if (!s || !f)
		return 0;
	s->kept = 0;
	s->at = bpf_ktime_get_ns();
	if (s->at >= f->until || !f->left)
		return 0;
	__builtin_memset(s->frame, 0, SIGHT_HEADERS);	/* of an earlier packet */
	if (!look(ctx, s, f->bytes < SIGHT_HEADERS ? SIGHT_HEADERS : f->bytes))
		s->kept = 0;
	if (s->kept > f->bytes)
		s->kept = f->bytes;
	return 0;
}

INLINE void show_drop(struct xdp_md *ctx, __u32 way)
{
	const struct clock *clock = this_clock();
	__u32 zero = 0, first = SIGHT_DROPPED;
	struct shown *n = bpf_map_lookup_elem(&shown, &zero);
	struct sight *s = bpf_map_lookup_elem(&sight, &first);

	if (!clock || !n || !s)
		return;
	if (n->tick != clock->now) {
		n->tick = clock->now;
		n->count = 0;
	}
	if (n->count >= DROPS_SHOWN)
		return;
	n->count++;
	s->at = clock->now;
	s->way = way;
	if (look(ctx, s, DROP_BYTES))
		bpf_ringbuf_output(&drops, s, SIGHT_HEAD + DROP_BYTES, 0);
}

INLINE __u8 byte_at(const struct sight *s, __u32 at)
{
	return s->frame[at & (SIGHT_BYTES - 1)];
}

INLINE __be16 half_at(const struct sight *s, __u32 at)
{
	return *(__be16 *)&s->frame[at & (SIGHT_BYTES - 1)];
}

INLINE __be32 word_at(const struct sight *s, __u32 at)
{
	return *(__be32 *)&s->frame[at & (SIGHT_BYTES - 1)];
}

/* What differs between an address in the frame and one that is wanted. */
INLINE __u32 differs(const struct sight *s, __u32 at, __u32 v4, const struct address *a)
{
	if (!(a->word[0] | a->word[1] | a->word[2] | a->word[3]))
		return 0;
	if (v4)
		return a->word[0] | a->word[1] | (a->word[2] ^ MAPPED) | (a->word[3] ^ word_at(s, at));
	return (a->word[0] ^ word_at(s, at)) | (a->word[1] ^ word_at(s, at + 4)) |
	       (a->word[2] ^ word_at(s, at + 8)) | (a->word[3] ^ word_at(s, at + 12));
}

#define WANTED 1

/*
 * Whether the IP packet there is wanted; else where the one inside begins when
 * it is a tunnel, or 0. ICMP to the address is about its flows and has no ports
 * to compare. Verified by itself, for any place.
 */
__attribute__((noinline)) __u32 wanted_at(__u32 at)
{
	__u32 zero = 0, one = SIGHT_CAPTURED, v4, from, to, inside = 0;
	struct sight *s = bpf_map_lookup_elem(&sight, &one);
	struct filter *f = bpf_map_lookup_elem(&filter, &zero);
	__u32 protocol;

	if (!s || !f)
		return 0;
	v4 = byte_at(s, at) >> 4 == 4;
	protocol = byte_at(s, at + (v4 ? 9 : 6));
	from = at + (v4 ? 12 : 8);
	to = from + (v4 ? 4 : 16);
	at += v4 ? (byte_at(s, at) & 0xf) * 4 : sizeof(struct ipv6hdr);
	for (int i = 0; i < EXTENSIONS && !v4 && is_extension(protocol); i++) {
		__u32 more = protocol == IPPROTO_FRAGMENT ? 0 : byte_at(s, at + 1) * 8;

		protocol = byte_at(s, at);
		at += 8 + more;
	}
	if (protocol == IPPROTO_IPIP || protocol == IPPROTO_IPV6)
		inside = at;
	else if (protocol == IPPROTO_UDP && half_at(s, at + 2) == TUNNEL_PORT)
		inside = at + sizeof(struct udphdr) + 4 + (byte_at(s, at + 8) & 0x1f) * 4;
	if (differs(s, to, v4, &f->dst))
		return inside;
	if (protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6)
		return WANTED;
	if (differs(s, from, v4, &f->src) || (f->protocol && f->protocol != protocol) ||
	    (f->sport && f->sport != half_at(s, at)) || (f->dport && f->dport != half_at(s, at + 2)))
		return inside;
	return WANTED;
}

INLINE int is_wanted(const struct sight *s, const struct filter *f, __u32 way)
{
	__u32 at = sizeof(struct ethhdr);
	__be16 type = half_at(s, at - 2);

	if ((f->verdict && f->verdict != 1 + VERDICT(way)) || (f->reason && f->reason != 1 + REASON(way)))
		return 0;
	for (int i = 0; i < VLAN_TAGS && (type == be16(ETH_P_8021Q) || type == be16(ETH_P_8021AD)); i++) {
		at += sizeof(struct vlan);
		type = half_at(s, at - 2);
	}
	if (type != be16(ETH_P_IP) && type != be16(ETH_P_IPV6))
		return !(f->protocol | f->sport | f->dport | f->src.word[3] | f->dst.word[3]);
	at = wanted_at(at);
	return at == WANTED || (at && wanted_at(at) == WANTED);
}

INLINE void show_captured(__u32 way)
{
	__u32 zero = 0, one = SIGHT_CAPTURED, size;
	struct sight *s = bpf_map_lookup_elem(&sight, &one);
	struct filter *f = bpf_map_lookup_elem(&filter, &zero);

	if (!s || !f || !s->kept || !f->left || !is_wanted(s, f, way))
		return;
	s->way = way;
	__sync_fetch_and_add(&f->left, -1);	/* two CPUs may take one too many: user space counts, too */
	size = SIGHT_HEAD + s->kept;
	if (size > sizeof(*s) || bpf_ringbuf_output(&sights, s, size, 0))
		__sync_fetch_and_add(&f->lost, 1);
}

/* A packet that was dropped, or that may be captured, at the end of its way. */
__attribute__((noinline)) int show(struct xdp_md *ctx, __u32 way)
{
	const struct node *node = this_node();

	if (VERDICT(way) == XDP_DROP)
		show_drop(ctx, way);
	if (node && is_captured(node))
		show_captured(way);
	return 0;
}
