/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Rule 3: a packet arrives from a client, for the first time. */
#pragma once

#include "send.h"
#include "service.h"
#include "settle.h"
#include "vip.h"

INLINE int to_service(struct xdp_md *ctx, const struct packet *p, __u64 hash, __u32 service);
INLINE struct owners owners_of(const struct node *node, const struct packet *p, __u64 hash,
			       __u32 flags);
INLINE struct owners away_of(__u64 row, int begins);

/*
 * First arrival. The first owner takes the packet, unless it may belong to a
 * connection that an earlier owner holds.
 */
INLINE int from_client(struct xdp_md *ctx, struct node *node, struct packet *p)
{
	__u64 served = served_by(p);
	__u32 service = served, flags = served >> 32, reason = REASON_SENT;
	__be16 sport = p->sport, dport = p->dport;
	struct owners to;
	__u64 hash;
	int hold;

	if (served == NOT_SERVED)
		return leave(REASON_NO_PORT);
	if (unlikely(p->vip->flags & VIP_FRAGMENTS) && !service)
		sport = dport = 0;
	hash = flow_hash(node, &p->src, &p->dst, sport, dport, p->protocol);
	if (service)
		return to_service(ctx, p, hash, service);
	to = owners_of(node, p, hash, flags);
	if (to.first == SELF) {
		hold = unlikely(node->unsettled_until) && p->kind == KIND_SEGMENT &&
		       is_unsettled(node, 0);
		if (likely(!to.second && !hold))
			return leave(flags & SERVED_HERE ? REASON_HERE : REASON_LOCAL);
		if (has_socket(ctx, p))
			return leave(REASON_FOUND);
		if (unlikely(flags & SERVED_AWAY) && to.second && p->kind == KIND_SYN) {
			to = (struct owners){ to.second, 0, 0, 0 };
		} else {
			if (!to.second || !may_miss(node))
				return leave(hold ? REASON_HELD : REASON_MISS_LIMIT);
			to = (struct owners){ to.second, to.third, 0, 0 };
			reason = REASON_MISSED;
		}
	}
	if (!to.first)
		return leave(node->flags & NODE_SERVES ? REASON_ALONE : REASON_NO_OWNER);
	return to_owner(ctx, node, p, hash, &to, reason);
}

INLINE int to_service(struct xdp_md *ctx, const struct packet *p, __u64 hash, __u32 service)
{
	struct scratch *scratch = this_scratch();

	if (!scratch)
		return XDP_DROP;	/* cannot be */
	scratch->flow = (struct flow){
		.src = p->src, .hash = hash, .service = service, .l3 = p->l3, .length = p->length,
		.kind = p->kind, .protocol = p->protocol,
		.version = ip_version(p),
	};
	if (unlikely(p->part)) {
		scratch->flow.part = p->part;
		scratch->flow.later = !p->tcp;
	}

	return serve(ctx, &scratch->flow);
}

/* A SYN begins anew: only the current owner, once the row is no longer young. */
INLINE struct owners owners_of(const struct node *node, const struct packet *p, __u64 hash,
			       __u32 flags)
{
	__u32 row = row_of(hash);
	__u64 *owners = bpf_map_lookup_elem(&rows, &row);
	int begins = p->kind == KIND_SYN || p->kind == KIND_DATAGRAM;
	struct owners to = {};

	if (!owners)
		return to;
	to.first = *owners & 0xffff;
	if (likely(!(*owners >> 16 & ~0U) && !flags))
		return to;
	if (unlikely(flags & (begins ? SERVED_AWAY : SERVED_AWAY | SERVED_WAS_AWAY)) &&
	    *owners >> 48)
		return away_of(*owners, begins);
	if (unlikely(flags & SERVED_HERE && begins))
		return (struct owners){ SELF, 0, 0, 0 };
	to.second = *owners >> 16 & 0xffff;
	if (begins) {
		if (p->kind == KIND_SYN && is_young(node, to.second))
			return (struct owners){ to.second, to.first, 0, PATH_ASKS };
		to.second = 0;
		return to;
	}
	to.third = *owners >> 32 & 0xffff;
	if (!to.first)
		to = (struct owners){ to.second, to.third, 0, 0 };
	if (unlikely(flags & (SERVED_HERE | SERVED_WAS_HERE)) && to.first != SELF)
		to = (struct owners){ SELF, to.first,
				      to.second == SELF ? to.third : to.second, 0 };
	return to;
}

/*
 * The stand-in takes what begins, unless it is half-open here. A segment may be of
 * a connection that is here, or there, or at an owner of the row.
 */
INLINE struct owners away_of(__u64 row, int begins)
{
	struct owners to = { SELF, row >> 48, 0, 0 };

	if (begins)
		return to;
	to.third = row & 0xffff;
	if (to.third == SELF || to.third == to.second)
		to.third = row >> 16 & 0xffff;
	if (to.third == SELF || to.third == to.second)
		to.third = row >> 32 & 0xffff;
	if (to.third == SELF || to.third == to.second)
		to.third = 0;
	return to;
}
