/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Fragments to a VIP. It drops them, or ports play no part in the rows of its
 * packets, so that all fragments of one come to the same owner.
 *
 * Where several owners are asked, the first fragment finds out: it has the ports.
 * The others do as it did; what comes before it is lost, and TCP repeats it.
 */
#pragma once

#include "parse.h"

#define PARTS 4096	/* packets in fragments that are remembered, on all CPUs */

/* Who has a packet that came in fragments: SELF or 0, or a service's backend. */
MAP_DEFINITION(BPF_MAP_TYPE_LRU_HASH, __u64, __u32, PARTS, 0) parts SEC(".maps");

/* Names a packet by what all its fragments carry. Never 0. */
__attribute__((noinline)) __u64 part_of(struct address *src, struct address *dst, __u32 id,
					__u32 protocol)
{
	struct node *node = this_node();

	if (!src || !dst || !node)
		return 1;
	return flow_hash(node, src, dst, id >> 16, id, protocol) | 1;
}

/* A fragment of a packet to a VIP. What is not the first has no ports: one that is served will do. */
INLINE int read_part(struct cursor *c, struct packet *p)
{
	int why = REASON_FRAGMENT;

	if (p->protocol != IPPROTO_TCP && p->protocol != IPPROTO_UDP)
		return p->vip->flags & VIP_FRAGMENTS ? REASON_ICMP : REASON_FRAGMENT;
	if (!(p->vip->flags & VIP_FRAGMENTS))
		return REASON_FRAGMENT;
	p->part = part_of(&p->src, &p->dst, p->id, p->protocol);
	if (!p->offset) {
		why = p->protocol == IPPROTO_TCP ? read_tcp(c, p) : read_udp(c, p);
		if (c->at - p->ip > p->length)
			return REASON_SHORT;	/* that was padding */
		return why == STEER && p->kind == KIND_SYN ? REASON_FRAGMENT : why;	/* none is so long */
	}
	if (p->protocol == IPPROTO_TCP && p->offset == 1)
		return REASON_FRAGMENT;	/* would replace the flags (RFC 1858, 3) */
	p->kind = p->protocol == IPPROTO_TCP ? KIND_SEGMENT : KIND_DATAGRAM;
	p->sport = 0;
	p->dport = p->protocol == IPPROTO_TCP ? p->vip->any_tcp : p->vip->any_udp;
	return STEER;
}

INLINE void remember_part(__u64 part, __u32 who)
{
	bpf_map_update_elem(&parts, &part, &who, BPF_ANY);
}

/* The first fragment of a segment has found out whether this node has its connection. */
INLINE void found_part(const struct packet *p, int found)
{
	if (unlikely(p->part))
		remember_part(p->part, found ? SELF : 0);
}

INLINE __u32 who_has_part(__u64 part)
{
	__u32 *who = bpf_map_lookup_elem(&parts, &part);

	return who ? *who : 0;
}
