//go:build ignore

/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * A packet's way, top to bottom. What comes from a client is hashed to a row
 * and passed to the stack or sent to the row's owner; what comes from a peer is
 * taken out of its encapsulation, or sent on to the next owner.
 *
 *	ours.h		1. encapsulated to this node
 *	vip.h		2. to a VIP: what is read of it is in parse.h
 *	client.h	3. first arrival
 *	hop.h		4. at a hop
 *	settle.h	5. what may be held instead of reset
 *	send.h		6. forwarding, and the way to the next hop
 */
#include "client.h"
#include "hop.h"
#include "sight.h"

INLINE int steer(struct xdp_md *ctx, struct node *node);

SEC("xdp.frags")
int steer_packet(struct xdp_md *ctx)
{
	struct node *node = this_node();
	__u32 way;

	if (!node)
		return XDP_PASS;	/* cannot be: an array has its first entry */
	if (unlikely(is_captured(node)))
		remember(ctx);
	way = steer(ctx, node);
	if (unlikely(VERDICT(way) == XDP_DROP || is_captured(node)))
		show(ctx, way);
	return VERDICT(way);
}

INLINE int steer(struct xdp_md *ctx, struct node *node)
{
	struct cursor c = frame_of(ctx);
	struct packet p;
	struct ipv6hdr *ip6;
	struct iphdr *ip;
	int why = REASON_NOT_IP;
	__be16 type;

	p.tcp = NULL;
	p.part = 0;
	in_memory(&p);
	type = take_ethernet(&c, &p);
	if (likely(type == be16(ETH_P_IP))) {
		ip = take(&c, sizeof(*ip));
		if (ip)
			why = read_own4(&c, node, ip, &p);
		if (likely(why == NOT_OWN))
			why = read_vip4(&c, ip, &p);
	} else if (type == be16(ETH_P_IPV6)) {
		ip6 = take(&c, sizeof(*ip6));
		if (ip6)
			why = read_own6(&c, node, ip6, &p);
		if (likely(why == NOT_OWN))
			why = read_vip6(&c, ip6, &p);
	}
	if (why == TUNNEL)
		return from_peer(ctx, node, &p);
	if (unlikely(why == FABRIC_ICMP))
		return learn_path_mtu(ctx, p.l3);
	if (why != STEER)
		return leave(why);
	if (unlikely(node->flags & NODE_GUARDED)) {
		why = guard(&p.src, p.kind);
		if (why)
			return why;
	}
	return from_client(ctx, node, &p);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
